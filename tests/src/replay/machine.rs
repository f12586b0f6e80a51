//! The real programs in the kernel, with maps of their own.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues, RingBuf},
    programs::{Program, TestRun as _, TestRunOptions},
    util::nr_cpus,
};
use gateway::kernel::{
    maps::{self, Maps},
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::TunnelId,
    layout::{Counters, DropEvent, Flow, FlowKey, Hook, Tunnel},
    reason::REASON_SLOTS,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    sys::utsname::uname,
    unistd::{Pid, geteuid},
};

use super::{case::Input, expect::Counter, world::World};

/// Where the pins are, on a tmpfs that only this process sees.
const DIRECTORY: &str = "/run/gateway-replay";

/// Room for flows, unless a case says otherwise.
const FLOWS: u32 = 64;

/// Programs and maps of one size.
pub struct Machine {
    ebpf: Ebpf,
    maps: Maps,
    counters: PerCpuArray<MapData, Counters>,
    clock: Array<MapData, u64>,
    events: RingBuf<MapData>,
}

/// What a program did.
pub struct Output {
    /// Its return value.
    pub action: u32,
    /// The frame.
    pub frame: Vec<u8>,
    /// skb->mark; None for XDP, which has none.
    pub mark: Option<u32>,
}

/// What programs may have changed.
#[derive(Clone, PartialEq, Debug)]
pub struct State {
    /// Counters that are not zero, by customer id.
    pub counters: BTreeMap<(u32, Counter), u64>,
    /// All flows.
    pub flows: BTreeMap<[u8; 12], (FlowKey, Flow)>,
    /// All the rest.
    pub world: World,
}

/// Makes this process fit for test runs: a mount namespace of its own, where nothing is left
/// behind, and one CPU, as the budget for events is each CPU's own. Before any thread starts.
pub fn prepare() -> Result<()> {
    ensure!(geteuid().is_root(), "this is not root");
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make mounts private")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).context("mount a tmpfs")?;
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).context("no CPU")?;
    let mut one = CpuSet::new();
    one.set(first)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("stay on one CPU")?;
    Ok(())
}

/// Whether this kernel has what the programs need, told apart from whether it likes our programs:
/// BPF_PROG_TEST_RUN, and TCX, which came with Linux 6.6.
pub fn supported() -> Result<()> {
    let release = uname().context("ask for the kernel's release")?;
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ensure!(version >= (6, 6), "TCX needs Linux 6.6, this is {release}");
    ensure!(Path::new("/sys/kernel/btf/vmlinux").exists(), "the kernel has no BTF");
    Ok(())
}

impl Machine {
    /// Loads the programs, with room for so many flows.
    pub fn load(flow_limit: Option<u32>) -> Result<Self> {
        let sizes = Sizes { tunnels: 8, customers: 8, flows: flow_limit.unwrap_or(FLOWS) };
        let directory = PathBuf::from(DIRECTORY).join(sizes.flows.to_string());
        fs::create_dir_all(DIRECTORY)?;
        let pins = Pins::new(directory);
        pins.prepare()?;
        let mut ebpf = programs::load(&pins, sizes, Purpose::Replay)?;
        let clock = ebpf.take_map("REPLAY_CLOCK").context("the object has no map REPLAY_CLOCK")?;
        let counters = Map::from_map_data(MapData::from_pin(pins.map("COUNTERS"))?)?;
        Ok(Self {
            maps: Maps::open(&pins)?,
            counters: PerCpuArray::try_from(counters)?,
            clock: Array::try_from(clock)?,
            events: maps::events(&pins)?,
            ebpf,
        })
    }

    /// Empties flows, counters and events, and writes this world.
    pub fn reset(&mut self, world: &World) -> Result<()> {
        let keys: Vec<FlowKey> = self.maps.flows().map(|flow| Ok(flow?.0)).collect::<Result<_>>()?;
        for key in keys {
            self.maps.remove_flow(&key)?;
        }
        let cpus = nr_cpus().map_err(|(file, error)| error_in(file, error))?;
        for customer in 0..self.counters.len() {
            // SAFETY: counters are integers.
            let zero: Counters = unsafe { std::mem::zeroed() };
            self.counters.set(customer, PerCpuValues::try_from(vec![zero; cpus.get() as usize])?, 0)?;
        }
        self.events()?;
        self.change(world)
    }

    /// Writes this world over the one before.
    pub fn change(&mut self, world: &World) -> Result<()> {
        let maps = &mut self.maps;
        maps.set_settings(&world.settings)?;
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
        for spi in maps.inbound_spis()?.into_keys() {
            maps.set_inbound_spi(spi, None)?;
        }
        for (spi, owner) in &world.inbound_spis {
            maps.set_inbound_spi(*spi, TunnelId::new(*owner))?;
        }
        for spi in maps.outbound_spis()?.into_keys() {
            maps.set_outbound_spi(spi, None)?;
        }
        for (spi, owner) in &world.outbound_spis {
            maps.set_outbound_spi(*spi, TunnelId::new(*owner))?;
        }
        Ok(())
    }

    /// Sets CLOCK_MONOTONIC, as the programs see it.
    pub fn set_time(&mut self, now_ns: u64) -> Result<()> {
        self.clock.set(0, &now_ns, 0).context("set the programs' clock")
    }

    /// Runs one packet through the program of its hook.
    pub fn run(&self, input: &Input) -> Result<Output> {
        let program = self.ebpf.program(input.hook.name()).context("no such program")?;
        let mut frame = vec![0; input.frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&input.frame);
        options.data_out = Some(&mut frame);
        let (context, mut context_out) = (sk_buff(input.identity), [0; SK_BUFF_BYTES]);
        let result = match program {
            Program::SchedClassifier(program) => {
                options.ctx_in = Some(&context);
                options.ctx_out = Some(&mut context_out);
                program.test_run(options)
            }
            Program::Xdp(program) => program.test_run(options),
            _ => anyhow::bail!("{} is of an unknown type", input.hook.name()),
        }
        .with_context(|| format!("test run of {} with {} bytes", input.hook.name(), input.frame.len()))?;
        frame.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes([8, 9, 10, 11].map(|at| context_out[at]));
        let mark = (input.hook != Hook::InternetXdp).then_some(mark);
        Ok(Output { action: result.return_value, frame, mark })
    }

    /// Drop events since the last call.
    pub fn events(&mut self) -> Result<Vec<DropEvent>> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            ensure!(item.len() == size_of::<DropEvent>(), "an event has {} bytes", item.len());
            // SAFETY: the bytes are as many as a DropEvent has, which is integers only.
            events.push(unsafe { item.as_ptr().cast::<DropEvent>().read_unaligned() });
        }
        Ok(events)
    }

    /// Everything that programs could have changed.
    pub fn state(&self) -> Result<State> {
        let mut flows = BTreeMap::new();
        for flow in self.maps.flows() {
            let (key, mut flow) = flow?;
            flow.lock = Default::default();
            let [a, b, c, d] = key.customer.to_be_bytes();
            let [e, f, g, h] = key.lan_address.octets;
            let ([i, j], [k, l]) = (key.lan_port.to_be_bytes(), key.server_port.to_be_bytes());
            flows.insert([a, b, c, d, e, f, g, h, i, j, k, l], (key, flow));
        }
        let tunnels = self.maps.tunnels()?;
        let world = World {
            settings: self.maps.settings()?,
            tunnels: tunnels.into_iter().map(|(id, tunnel)| (id.get(), tunnel)).collect(),
            customers: self.maps.customers()?,
            inbound_spis: self.maps.inbound_spis()?,
            outbound_spis: self.maps.outbound_spis()?,
        };
        Ok(State { counters: self.counters()?, flows, world })
    }

    fn counters(&self) -> Result<BTreeMap<(u32, Counter), u64>> {
        let mut sums = BTreeMap::new();
        for customer in 0..self.counters.len() {
            for cpu in self.counters.get(&customer, 0)?.iter() {
                let mut add = |counter, by| *sums.entry((customer, counter)).or_insert(0) += by;
                add(Counter::ToServer, cpu.passed[0]);
                add(Counter::ToSite, cpu.passed[1]);
                add(Counter::BytesToServer, cpu.passed_bytes[0]);
                add(Counter::BytesToSite, cpu.passed_bytes[1]);
                add(Counter::Opened, cpu.opened);
                add(Counter::UnknownSpi, cpu.unknown_spi);
                add(Counter::Lost, cpu.events_lost);
                for number in 0..REASON_SLOTS {
                    add(Counter::Dropped(number as u8), cpu.dropped[number]);
                }
            }
        }
        sums.retain(|_, packets| *packets != 0);
        Ok(sums)
    }
}

fn error_in(file: &str, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("read {file}"))
}

/// `struct __sk_buff`, linux/bpf.h: mark at 8, cb at 48.
const SK_BUFF_BYTES: usize = 192;

fn sk_buff([reqid, spi, mark]: [u32; 3]) -> [u8; SK_BUFF_BYTES] {
    let mut context = [0; SK_BUFF_BYTES];
    for (at, value) in [(8, mark), (48, reqid), (52, spi)] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}
