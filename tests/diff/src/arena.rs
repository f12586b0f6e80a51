//! An arena: both sides of the comparison, ready for packets.
use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{LinkOrder, Program, SchedClassifier, TcAttach, TcAttachType},
};
use gateway::kernel::{
    clock::monotonic_ns,
    interface::Interface,
    maps::Maps,
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{Hook, Quota},
};
use gateway_tests_kit::{
    namespace::Namespace,
    process,
    world::{MARK_MINUS_REQID, TUNNELS, World},
};
use gateway_tests_programs::{TestProgram, TestPrograms};

use super::{
    segment::{Flow, PORTS_PER_FLOW, SERVER_PORT, Segment},
    side::{Received, Side, WIRE},
};

/// Packets through one arena: few enough that its flows have room, and that it is done before the shortest
/// timeout of a state (10 s for CLOSE).
pub const PACKETS: usize = 100_000;

/// Capacity of each flow map.
const FLOWS: u32 = 1 << 17;

/// The address families of the flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both, alternating from flow to flow.
    Both,
}

/// initech's quotas, alternating from arena to arena, so that each of them is reached: flows in one,
/// half-open flows in the other, new flows a second in both.
const QUOTAS: [Quota; 2] = [
    Quota { flows: 60, half_open: 60, new_flow_interval_ns: 4_000_000, new_flow_burst: 20 },
    Quota { flows: 100_000, half_open: 10, new_flow_interval_ns: 4_000_000, new_flow_burst: 20 },
];

/// The customer with a quota.
pub const LIMITED: u32 = 3;

/// The output of both sides for one packet, `None` if dropped.
pub struct Pair {
    /// The IP packet that left the original rules.
    pub kernel: Option<Vec<u8>>,
    /// The IP packet that left our programs.
    pub ours: Option<Vec<u8>>,
}

/// Both sides, fed with the same packets.
pub struct Arena {
    _wire: Namespace,
    kernel: Side,
    ours: Side,
    maps: Maps,
    clock: Array<MapData, u64>,
    pins: Pins,
    ebpf: Ebpf,
    tests: TestPrograms,
    families: Families,
    next: u32,
}

impl Arena {
    /// Sets up both sides. With `loose`, packets may open connections mid-stream.
    pub fn create(number: usize, loose: bool, families: Families) -> Result<Self> {
        let wire = Namespace::create(&format!("{WIRE}{number}"), false)?;
        let sentinel = flow(0, Families::V4);
        let kernel = Side::create(&format!("k{number}"), &wire, &sentinel)?;
        let ours = Side::create(&format!("o{number}"), &wire, &sentinel)?;
        original_rules(&kernel, loose).context("cannot load the original rules")?;

        let pins = Pins::new(PathBuf::from("/run/gateway-diff").join(number.to_string()));
        pins.prepare()?;
        let sizes = Sizes { tunnels: 8, customers: 8, flows: FLOWS, flows6: FLOWS };
        let mut ebpf = programs::load(&pins, sizes, Purpose::Replay)?;
        let maps = Maps::open(&pins)?;
        let clock = Array::try_from(ebpf.take_map("REPLAY_CLOCK").context("no map REPLAY_CLOCK")?)?;
        let tests = TestPrograms::load(&pins, MARK_MINUS_REQID)?;
        let mut arena = Self { _wire: wire, kernel, ours, maps, clock, pins, ebpf, tests, families, next: 1 };
        arena.fill_maps(loose, QUOTAS[number % 2])?;
        arena.attach()?;
        // The first sentinel opens the sentinels' flow on both sides.
        arena.kernel.collect(0)?;
        arena.set_time()?;
        arena.ours.collect(0)?;
        Ok(arena)
    }

    /// Returns a flow that this arena has not seen.
    pub fn new_flow(&mut self) -> Flow {
        self.next += 1;
        flow(self.next - 1, self.families)
    }

    /// Returns such a flow of the same tunnel and family as `other`.
    pub fn new_flow_like(&mut self, other: &Flow) -> Flow {
        loop {
            let flow = self.new_flow();
            if flow.tunnel == other.tunnel && flow.is_v6() == other.is_v6() {
                return flow;
            }
        }
    }

    /// Sends packets through both sides, in order, and returns the output for each.
    pub fn exchange(&mut self, packets: &[(Flow, &Segment)]) -> Result<Vec<Pair>> {
        self.set_time()?;
        for (tag, (flow, segment)) in packets.iter().enumerate() {
            let frame = flow.packet(segment, u16::try_from(tag)?)?.frame()?;
            self.kernel.send(segment.direction, &frame)?;
            self.ours.send(segment.direction, &frame)?;
        }
        let kernel: Received = self.kernel.collect(packets.len())?;
        let ours: Received = self.ours.collect(packets.len())?;
        Ok(kernel.into_iter().zip(ours).map(|(kernel, ours)| Pair { kernel, ours }).collect())
    }

    /// The maps of our programs.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The namespace of the original rules.
    pub fn kernel(&self) -> &Namespace {
        self.kernel.gateway()
    }

    fn set_time(&mut self) -> Result<()> {
        self.clock.set(0, &monotonic_ns(), 0).context("set the programs' clock")
    }

    fn fill_maps(&mut self, loose: bool, quota: Quota) -> Result<()> {
        let mut world = World::usual();
        world.settings.lan_ifindex = self.ours.gateway().enter(|| Ok(Interface::look("lan")?.index))?;
        world.settings.adopt_midstream = u32::from(loose);
        // The original rules do not check the MTU, and all packets fit any MTU.
        world.settings.lan_mtu = u32::from(u16::MAX);
        for tunnel in world.tunnels.values_mut() {
            // The original rules do not clamp the MSS, either; no generated MSS is larger.
            tunnel.v6.mss = tunnel.v4.mss;
            if tunnel.customer == LIMITED {
                tunnel.quota = quota;
            }
        }
        let maps = &mut self.maps;
        maps.set_settings(&world.settings)?;
        for (reqid, binding) in &world.bindings {
            maps.set_binding(Reqid::new(*reqid).context("reqid 0")?, binding)?;
        }
        for (number, tunnel) in &world.tunnels {
            maps.set_tunnel(TunnelId::new(*number).context("tunnel 0")?, tunnel)?;
        }
        for (server, customer) in &world.customers {
            maps.set_customer(*server, customer)?;
        }
        for (spi, owner) in &world.inbound_spis {
            maps.set_inbound_spi(*spi, Mark::new(*owner))?;
        }
        Ok(())
    }

    /// Attaches the programs that gatewayd attaches, except those that expect ESP; `replay_identity` stands
    /// in for decryption.
    fn attach(&mut self) -> Result<()> {
        let (ebpf, tests) = (&mut self.ebpf, &mut self.tests);
        self.ours.gateway().enter(|| {
            for (hook, interface) in [(Hook::LanIngress, "lan"), (Hook::InternetIngress, "internet")] {
                let Some(Program::SchedClassifier(program)) = ebpf.program_mut(hook.name()) else {
                    bail!("the object has no TC program {}", hook.name())
                };
                attach(program, interface).with_context(|| format!("attach {}", hook.name()))?;
            }
            attach(tests.get(TestProgram::ReplayIdentity)?, "internet").context("attach replay_identity")
        })
    }
}

/// Attaches a program to an interface's ingress, before those that are attached.
fn attach(program: &mut SchedClassifier, interface: &str) -> Result<()> {
    let options = TcAttach::Tcx { attach_type: TcAttachType::Ingress, order: LinkOrder::first() };
    program.attach(std::ffi::CString::new(interface)?.as_c_str(), options)?;
    Ok(())
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Whatever remains is in this process's own mount namespace.
        let _ = self.pins.remove();
    }
}

/// Returns flow number `number`; flows differ in device, port and tunnel.
fn flow(number: u32, families: Families) -> Flow {
    const FIRST_PORT: u16 = 1024;
    let (v6, number) = match families {
        Families::V4 => (false, number),
        Families::V6 => (true, number),
        Families::Both => (number % 2 == 1, number / 2),
    };
    let tunnels = TUNNELS.iter().filter(|tunnel| !v6 || tunnel.lan6.is_some()).count();
    let ports = u32::from((u16::MAX - FIRST_PORT) / PORTS_PER_FLOW);
    let tunnel = number as usize % tunnels;
    let each = number / tunnels as u32;
    let port = FIRST_PORT + (each % ports) as u16 * PORTS_PER_FLOW;
    let device = match TUNNELS[tunnel].lan6.filter(|_| v6) {
        Some((network, _)) => IpAddr::V6((u128::from(network) + 2 + u128::from(each / ports)).into()),
        None => IpAddr::V4((u32::from(TUNNELS[tunnel].lan.0) + 2 + each / ports).into()),
    };
    Flow { tunnel, device, port }
}

/// Loads two rules for each customer's site, with `-m mark` in place of `-m policy --reqid` (docs/facts.md:
/// iptables-rules-as-oracle). Without real SAs, the mark comes from the source MAC on the internet, and on
/// the LAN from the traffic selectors that choose the outbound policy.
fn original_rules(side: &Side, loose: bool) -> Result<()> {
    let gateway = side.gateway();
    for (v6, restore) in [(false, "iptables-legacy-restore"), (true, "ip6tables-legacy-restore")] {
        process::run_with_input(&mut gateway.command(restore), &rules(v6)).context(restore)?;
    }
    for (key, value) in [
        ("netfilter/nf_conntrack_tcp_be_liberal", "0"),
        ("netfilter/nf_conntrack_tcp_loose", if loose { "1" } else { "0" }),
        ("netfilter/nf_conntrack_checksum", "1"),
    ] {
        gateway.set_sysctl(key, value)?;
    }
    Ok(())
}

fn rules(v6: bool) -> String {
    let mut mangle = String::from("*mangle\n");
    let mut filter = String::from("*filter\n:FORWARD DROP [0:0]\n");
    for tunnel in &TUNNELS {
        let (mark, [a, b, c, d]) = (tunnel.mark, tunnel.inbound_spi.to_be_bytes());
        let owner = tunnel.owner();
        let (server, lan) = match (v6, owner.server6, tunnel.lan6) {
            (false, ..) => (owner.server.to_string(), format!("{}/{}", tunnel.lan.0, tunnel.lan.1)),
            (true, Some(server), Some((network, bits))) => (server.to_string(), format!("{network}/{bits}")),
            _ => continue,
        };
        let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        mangle += &format!("-A PREROUTING -i internet -m mac --mac-source {mac} -j MARK --set-mark {mark}\n");
        mangle += &format!("-A PREROUTING -i lan -s {server} -d {lan} -j MARK --set-mark {mark}\n");
        filter += &format!(
            "-A FORWARD -s {lan} -d {server} -p tcp --dport {SERVER_PORT} \
             -m conntrack --ctstate NEW,ESTABLISHED -m mark --mark {mark} -j ACCEPT\n\
             -A FORWARD -s {server} -d {lan} -p tcp --sport {SERVER_PORT} \
             -m conntrack --ctstate ESTABLISHED -m mark --mark {mark} -j ACCEPT\n"
        );
    }
    format!("{mangle}COMMIT\n{filter}COMMIT\n")
}
