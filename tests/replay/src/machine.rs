//! The real programs, loaded into the kernel with maps of their own.
use std::{cell::Cell, collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray, RingBuf},
    programs::{Program, TestRun as _, TestRunOptions},
    util::nr_cpus,
};
use gateway::kernel::{
    cookies::Cookies,
    counted::Counted,
    maps::{self, FamilyFlowTable, Maps},
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{Counters, DropEvent, Drops, LayoutFamily, NextProgram, Tunnel, Unattributed, Usage},
    limits::NEIGHBOUR_BUCKETS,
    magazine::Pool,
    outer::{
        self, Budgets,
        cookie::{Proof, Strangers},
    },
    rate::Bucket,
    tcp::{Flow, FlowKey},
    wheel::{SLOTS, Wheel},
    wire::{Ipv4, Ipv6},
};
use gateway_tests_kit::{
    flow::{FlowId, flow_id},
    world::World,
};

use crate::{case::Input, expect::Counter};

/// Folder of the pins, on a tmpfs that only this process sees.
const DIRECTORY: &str = "/run/gateway-replay";
/// Capacity of the flow maps, unless a case sets it.
const FLOWS: u32 = 64;

/// Programs and maps with one flow limit.
pub struct Machine {
    ebpf: Ebpf,
    maps: Maps,
    counters: PerCpuArray<MapData, Counters>,
    drops: HashMap<MapData, u32, Drops>,
    unattributed: PerCpuArray<MapData, Unattributed>,
    /// Budgets of senders on the LAN, and whether a packet has been charged to one.
    neighbours: PerCpuArray<MapData, Bucket>,
    neighbours_used: Cell<bool>,
    clock: Array<MapData, u64>,
    events: RingBuf<MapData>,
    /// Budgets of outer sources, those that have shown a cookie, and the state that all strangers share.
    sources: HashMap<MapData, Ipv6, Budgets>,
    proven: HashMap<MapData, Ipv6, Proof>,
    strangers: PerCpuArray<MapData, Strangers>,
    cookies: Cookies,
    /// The timing wheels, by CPU.
    wheels: Array<MapData, Wheel>,
    /// The free nodes that all CPUs share, by family.
    pools: Array<MapData, Pool>,
    /// Targets of tail calls.
    programs: ProgramArray<MapData>,
    continuations: bool,
}

/// The result of a program.
pub struct Output {
    /// Its return value.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// skb->mark afterwards; `None` for XDP, which has none.
    pub mark: Option<u32>,
}

/// Everything that the programs could change.
#[derive(Clone, PartialEq, Debug)]
pub struct State {
    /// Counters that are not zero, by customer id.
    pub counters: BTreeMap<(u32, Counter), u64>,
    /// All flows.
    pub flows: BTreeMap<FlowId, Flow>,
    /// Flows and half-open flows charged to each customer.
    pub usage: BTreeMap<u32, [u32; 2]>,
    /// Usage of shares by site: the customer, flows and half-open flows.
    pub shares: BTreeMap<u32, [u32; 3]>,
    /// The maps that only gatewayd writes.
    pub world: World,
}

impl Machine {
    /// Loads the programs, with flow maps of this capacity.
    pub fn load(flow_limit: Option<u32>) -> Result<Self> {
        let flows = flow_limit.unwrap_or(FLOWS);
        let sizes = Sizes { tunnels: 8, customers: 8, flows, flows6: flows };
        let directory = PathBuf::from(DIRECTORY).join(flows.to_string());
        fs::create_dir_all(DIRECTORY)?;
        let pins = Pins::new(directory);
        pins.prepare()?;
        let mut ebpf = programs::load(&pins, sizes, Purpose::Replay)?;
        let clock = ebpf.take_map("REPLAY_CLOCK").context("the object has no map REPLAY_CLOCK")?;
        Ok(Self {
            maps: Maps::open(&pins)?,
            cookies: Cookies::open(&pins)?,
            counters: PerCpuArray::try_from(pinned(&pins, "COUNTERS")?)?,
            drops: HashMap::try_from(pinned(&pins, "DROPS")?)?,
            unattributed: PerCpuArray::try_from(pinned(&pins, "UNATTRIBUTED")?)?,
            neighbours: PerCpuArray::try_from(pinned(&pins, "NEIGHBOURS")?)?,
            neighbours_used: Cell::new(false),
            clock: Array::try_from(clock)?,
            events: maps::events(&pins)?,
            sources: HashMap::try_from(pinned(&pins, "SOURCES")?)?,
            proven: HashMap::try_from(pinned(&pins, "PROVEN")?)?,
            strangers: PerCpuArray::try_from(pinned(&pins, "STRANGERS")?)?,
            wheels: Array::try_from(pinned(&pins, "WHEELS")?)?,
            pools: Array::try_from(pinned(&pins, "POOLS")?)?,
            programs: ProgramArray::try_from(pinned(&pins, "PROGRAMS")?)?,
            continuations: true,
            ebpf,
        })
    }

    /// Clears flows, budgets, counters and events, and writes this world.
    pub fn reset(&mut self, world: &World) -> Result<()> {
        self.remove_flows::<Ipv4>()?;
        self.remove_flows::<Ipv6>()?;
        // SAFETY: both hold integers only, and the kernel does not overwrite timer and locks.
        let (unmoved, unused): (Wheel, Pool) = unsafe { std::mem::zeroed() };
        (0..self.wheels.len()).try_for_each(|cpu| self.wheels.set(cpu, &unmoved, 0))?;
        (0..self.pools.len()).try_for_each(|family| self.pools.set(family, &unused, 0))?;
        for customer in 0..=self.maps.customer_limit() {
            self.maps.set_usage(customer, &Usage::default())?;
        }
        for site in 0..=self.maps.tunnel_limit() {
            self.maps.set_share(site, &Usage::default())?;
        }
        for peer in self.maps.peers()? {
            self.maps.remove_peer(peer)?;
        }
        let sources: Vec<Ipv6> = self.sources.keys().collect::<Result<_, _>>()?;
        for source in sources {
            self.sources.remove(&source)?;
        }
        let proven: Vec<Ipv6> = self.proven.keys().collect::<Result<_, _>>()?;
        for source in proven {
            self.proven.remove(&source)?;
        }
        let cpus = nr_cpus().map_err(|(file, error)| error_in(file, error))?.get() as usize;
        self.strangers.set(0, PerCpuValues::try_from(vec![Strangers::default(); cpus])?, 0)?;
        self.reset_counters(cpus)?;
        self.events()?;
        self.change(world)
    }

    /// Clears counters, and the budgets of senders on the LAN.
    fn reset_counters(&mut self, cpus: usize) -> Result<()> {
        // SAFETY: both hold integers only.
        let (zero, nobody): (Counters, Unattributed) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        for customer in 0..self.counters.len() {
            self.counters.set(customer, PerCpuValues::try_from(vec![zero; cpus])?, 0)?;
        }
        self.unattributed.set(0, PerCpuValues::try_from(vec![nobody; cpus])?, 0)?;
        for customer in self.drops.keys().collect::<Result<Vec<_>, _>>()? {
            self.drops.remove(&customer)?;
        }
        if self.neighbours_used.replace(false) {
            for bucket in 0..NEIGHBOUR_BUCKETS as u32 {
                self.neighbours.set(bucket, PerCpuValues::try_from(vec![Bucket::default(); cpus])?, 0)?;
            }
        }
        Ok(())
    }

    /// Fills DROPS with customers that do not exist, so that no other gets a row there.
    pub fn fill_drops(&mut self) -> Result<()> {
        let beyond = self.counters.len();
        (beyond..2 * beyond - 1).try_for_each(|id| Ok(self.drops.insert(&id, &Drops::NONE, 0)?))
    }

    /// Returns the customers with a row in DROPS.
    pub fn rows_of_drops(&self) -> Result<Vec<u32>> {
        Ok(self.drops.keys().collect::<Result<_, _>>()?)
    }

    /// Returns a customer's counters as operators see them, or with 0 those of nobody.
    pub fn counted(&self, customer: u32) -> Result<Counted> {
        self.maps.counted(customer)
    }

    fn remove_flows<A: LayoutFamily + FamilyFlowTable>(&mut self) -> Result<()>
    where
        FlowKey<A>: Pod,
    {
        let keys: Vec<FlowKey<A>> = self.maps.flows().map(|flow| Ok(flow?.0)).collect::<Result<_>>()?;
        keys.iter().try_for_each(|key| self.maps.remove_flow(key))
    }

    /// Marks a flow as ending, as the wheel does just before it removes the flow.
    pub fn end_flow(&mut self, id: &FlowId) -> Result<()> {
        match id.device {
            IpAddr::V4(device) => self.end::<Ipv4>(id, device.into()),
            IpAddr::V6(device) => self.end::<Ipv6>(id, device.into()),
        }
    }

    fn end<A: LayoutFamily + FamilyFlowTable>(&mut self, id: &FlowId, lan_address: A) -> Result<()>
    where
        FlowKey<A>: Pod,
    {
        let key = FlowKey { customer: id.customer, lan_address, lan_port: id.port, _reserved: 0 };
        let all: Vec<_> = self.maps.flows::<A>().collect::<Result<_>>()?;
        let found = all.into_iter().find(|(other, _)| *other == key);
        let (_, mut flow) = found.with_context(|| format!("no flow {id:?}"))?;
        flow.end();
        self.maps.set_flow(&key, &flow)
    }

    /// Turns the timing wheels up to the current time.
    pub fn turn_wheels(&self) -> Result<()> {
        for cpu in 0..self.wheels.len() {
            // Each run handles one slot: no slot has more flows than one run can handle. The program finds the
            // CPU in skb->cb[0], where others find the reqid.
            for _ in 0..=SLOTS {
                let result = self.test_run("expiry", &[0; 64], [cpu, 0, 0], [0; 2], &mut vec![0; 320])?;
                ensure!(result.action == 0, "the program expiry returned {}", result.action as i32);
            }
        }
        Ok(())
    }

    /// Replaces the current world with this one.
    pub fn change(&mut self, world: &World) -> Result<()> {
        let maps = &mut self.maps;
        maps.set_settings(&world.settings)?;
        for number in 1..=maps.reqid_limit() {
            let reqid = Reqid::new(number).context("reqid 0")?;
            maps.set_binding(reqid, &world.bindings.get(&number).copied().unwrap_or_default())?;
        }
        for number in 1..=maps.tunnel_limit() {
            let id = TunnelId::new(number).context("tunnel 0")?;
            maps.set_tunnel(id, world.tunnels.get(&number).unwrap_or(&Tunnel::default()))?;
        }
        for server in maps.customers()?.into_keys() {
            maps.remove_customer(server)?;
        }
        for (server, customer) in &world.customers {
            maps.set_customer(*server, customer)?;
        }
        for peer in &world.peers {
            maps.add_peer(*peer)?;
        }
        for spi in maps.inbound_spis()?.into_keys() {
            maps.set_inbound_spi(spi, None)?;
        }
        for (spi, owner) in &world.inbound_spis {
            maps.set_inbound_spi(*spi, Mark::new(*owner))?;
        }
        for spi in maps.outbound_spis()?.into_keys() {
            maps.set_outbound_spi(spi, None)?;
        }
        for (spi, owner) in &world.outbound_spis {
            maps.set_outbound_spi(*spi, Mark::new(*owner))?;
        }
        self.cookies.set_secrets(&world.secrets)?;
        self.set_continuations(world.continuations)
    }

    /// Fills or clears PROGRAMS, the targets of tail calls.
    fn set_continuations(&mut self, continuations: bool) -> Result<()> {
        for next in NextProgram::ALL {
            let index = next as u32;
            let Some(Program::SchedClassifier(program)) = self.ebpf.program(next.name()) else {
                bail!("the object has no TC program {}", next.name())
            };
            if continuations {
                self.programs.set(index, program.fd()?, 0)?;
            } else if self.continuations {
                self.programs.clear_index(&index)?;
            }
        }
        self.continuations = continuations;
        Ok(())
    }

    /// Sets the time that the programs take for CLOCK_MONOTONIC.
    pub fn set_time(&mut self, now_ns: u64) -> Result<()> {
        self.clock.set(0, &now_ns, 0).context("set the programs' clock")
    }

    /// Runs one packet through the program of its hook.
    pub fn run(&self, input: &Input) -> Result<Output> {
        if outer::is_neighbour_on_lan(&input.frame[..]) {
            self.neighbours_used.set(true);
        }
        let mut frame = vec![0; input.frame.len() + 256];
        let mut output =
            self.test_run(input.hook.name(), &input.frame, input.identity, input.merged, &mut frame)?;
        frame.truncate(output.frame.len());
        output.frame = frame;
        Ok(output)
    }

    /// Runs a program and writes the frame to `out`. The frame of the result has the right length, but no
    /// content.
    fn test_run(
        &self,
        name: &str,
        frame: &[u8],
        identity: [u32; 3],
        merged: [u32; 2],
        out: &mut [u8],
    ) -> Result<Output> {
        let program = self.ebpf.program(name).context("no such program")?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(out);
        let (context, mut context_out) = (sk_buff(identity, merged), [0; SK_BUFF_BYTES]);
        let (result, has_mark) = match program {
            Program::SchedClassifier(program) => {
                options.ctx_in = Some(&context);
                options.ctx_out = Some(&mut context_out);
                (program.test_run(options), true)
            }
            Program::Xdp(program) => (program.test_run(options), false),
            _ => anyhow::bail!("the program {name} has an unexpected type"),
        };
        let result = result.with_context(|| format!("test run of {name} with {} bytes", frame.len()))?;
        let mark = u32::from_ne_bytes([8, 9, 10, 11].map(|at| context_out[at]));
        Ok(Output {
            action: result.return_value,
            frame: vec![0; result.data_size_out as usize],
            mark: has_mark.then_some(mark),
        })
    }

    /// Returns the drop events since the last call.
    pub fn events(&mut self) -> Result<Vec<DropEvent>> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            ensure!(item.len() == size_of::<DropEvent>(), "an event has {} bytes", item.len());
            // SAFETY: the item has the size of a DropEvent, which holds integers only.
            events.push(unsafe { item.as_ptr().cast::<DropEvent>().read_unaligned() });
        }
        Ok(events)
    }

    /// Reads everything that the programs could change.
    pub fn state(&self) -> Result<State> {
        let mut flows = BTreeMap::new();
        self.read_flows::<Ipv4>(&mut flows)?;
        self.read_flows::<Ipv6>(&mut flows)?;
        let usage = (0..=self.maps.customer_limit())
            .map(|customer| Ok((customer, self.maps.usage(customer)?)))
            .map(|entry: Result<_>| entry.map(|(customer, usage)| (customer, [usage.flows, usage.half_open])))
            .collect::<Result<_>>()?;
        let shares = (0..=self.maps.tunnel_limit())
            .map(|site| Ok((site, self.maps.share(site)?)))
            .map(|entry: Result<_>| {
                entry.map(|(site, usage)| (site, [usage.customer, usage.flows, usage.half_open]))
            })
            .collect::<Result<_>>()?;
        let (bindings, tunnels) = (self.maps.bindings()?, self.maps.tunnels()?);
        let world = World {
            settings: self.maps.settings()?,
            bindings: bindings.into_iter().map(|(reqid, binding)| (reqid.get(), binding)).collect(),
            tunnels: tunnels.into_iter().map(|(id, tunnel)| (id.get(), tunnel)).collect(),
            customers: self.maps.customers()?,
            peers: self.maps.peers()?,
            inbound_spis: self.maps.inbound_spis()?,
            outbound_spis: self.maps.outbound_spis()?,
            secrets: self.cookies.secrets()?,
            continuations: self.continuations,
        };
        Ok(State { counters: self.counters()?, flows, usage, shares, world })
    }

    fn read_flows<A: LayoutFamily + FamilyFlowTable>(&self, into: &mut BTreeMap<FlowId, Flow>) -> Result<()>
    where
        FlowKey<A>: Pod,
    {
        for flow in self.maps.flows::<A>() {
            let (key, mut flow) = flow?;
            flow.lock = Default::default();
            into.insert(flow_id(&key), flow);
        }
        Ok(())
    }

    fn counters(&self) -> Result<BTreeMap<(u32, Counter), u64>> {
        let mut sums = BTreeMap::new();
        for customer in 0..self.counters.len() {
            let counted = self.maps.counted(customer)?;
            let mut add = |counter, by| sums.insert((customer, counter), by);
            add(Counter::ToServer, counted.passed[0]);
            add(Counter::ToSite, counted.passed[1]);
            add(Counter::BytesToServer, counted.passed_bytes[0]);
            add(Counter::BytesToSite, counted.passed_bytes[1]);
            add(Counter::Opened, counted.opened);
            add(Counter::UnknownSpi, counted.unknown_spi);
            add(Counter::Lost, counted.events_lost);
            add(Counter::Unattributed, counted.unattributed);
            for (reason, packets) in counted.dropped {
                add(Counter::Dropped(reason), packets);
            }
        }
        let cookies = self.cookies.counts(0)?;
        sums.insert((0, Counter::Asked), cookies.asked);
        sums.insert((0, Counter::Proved), cookies.proved);
        sums.insert((0, Counter::AskedByCharon), cookies.asked_by_charon);
        sums.retain(|_, packets| *packets != 0);
        Ok(sums)
    }
}

fn pinned(pins: &Pins, name: &str) -> Result<Map> {
    Ok(Map::from_map_data(MapData::from_pin(pins.map(name))?)?)
}

fn error_in(file: &str, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("read {file}"))
}

/// `struct __sk_buff`, linux/bpf.h: mark at 8, cb at 48, gso_segs at 164, gso_size at 176.
const SK_BUFF_BYTES: usize = 192;

fn sk_buff([reqid, spi, mark]: [u32; 3], [segments, segment_bytes]: [u32; 2]) -> [u8; SK_BUFF_BYTES] {
    let mut context = [0; SK_BUFF_BYTES];
    for (at, value) in [(8, mark), (48, reqid), (52, spi), (164, segments), (176, segment_bytes)] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}
