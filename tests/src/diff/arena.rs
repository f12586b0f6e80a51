//! Both sides, ready for packets.
use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{LinkOrder, Program, TcAttach, TcAttachType},
};
use gateway::kernel::{
    clock::monotonic_ns,
    interface::Interface,
    maps::Maps,
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{ids::TunnelId, layout::Hook};

use super::{
    segment::{Flow, PORTS_PER_FLOW, SERVER_PORT, Segment},
    side::{Arrived, Side, WIRE},
};
use crate::{
    lab::{namespace::Namespace, process},
    replay::world::{CUSTOMERS, TUNNELS, World},
};

/// Packets that go through one arena: so few that its flows have room, and that it is over before a
/// state's time is (10 s for CLOSE).
pub const PACKETS: usize = 100_000;

/// Room for flows.
const FLOWS: u32 = 1 << 17;

/// What a packet did on each side.
pub struct Pair {
    /// What came out of the kernel's own rules.
    pub kernel: Option<Vec<u8>>,
    /// What came out of our programs.
    pub ours: Option<Vec<u8>>,
}

/// Both sides.
pub struct Arena {
    _wire: Namespace,
    kernel: Side,
    ours: Side,
    maps: Maps,
    clock: Array<MapData, u64>,
    pins: Pins,
    _ebpf: Ebpf,
    next: u32,
}

impl Arena {
    /// Makes them. `loose`: what mid-stream packets may do.
    pub fn create(number: usize, loose: bool) -> Result<Self> {
        let wire = Namespace::create(&format!("{WIRE}{number}"), false)?;
        let sentinel = flow(0);
        let kernel = Side::create(&format!("k{number}"), &wire, &sentinel)?;
        let ours = Side::create(&format!("o{number}"), &wire, &sentinel)?;
        original_rules(&kernel, loose).context("the original rules")?;

        let pins = Pins::new(PathBuf::from("/run/gateway-diff").join(number.to_string()));
        pins.prepare()?;
        let sizes = Sizes { tunnels: 8, customers: 8, flows: FLOWS };
        let mut ebpf = programs::load(&pins, sizes, Purpose::Replay)?;
        let maps = Maps::open(&pins)?;
        let clock = Array::try_from(ebpf.take_map("REPLAY_CLOCK").context("no map REPLAY_CLOCK")?)?;
        let mut arena = Self { _wire: wire, kernel, ours, maps, clock, pins, _ebpf: ebpf, next: 1 };
        arena.fill_maps(loose)?;
        arena.attach()?;
        // The first packet of the sentinel's flow opens it on both sides.
        arena.kernel.collect(0)?;
        arena.set_time()?;
        arena.ours.collect(0)?;
        Ok(arena)
    }

    /// A flow nobody has had here.
    pub fn fresh(&mut self) -> Flow {
        self.next += 1;
        flow(self.next - 1)
    }

    /// The same, of the tunnel of another one.
    pub fn fresh_like(&mut self, other: &Flow) -> Flow {
        loop {
            let flow = self.fresh();
            if flow.tunnel == other.tunnel {
                return flow;
            }
        }
    }

    /// Sends packets through both sides, in order, and returns what became of each.
    pub fn exchange(&mut self, packets: &[(Flow, &Segment)]) -> Result<Vec<Pair>> {
        self.set_time()?;
        for (tag, (flow, segment)) in packets.iter().enumerate() {
            let frame = flow.packet(segment, u16::try_from(tag)?)?.frame()?;
            self.kernel.send(segment.direction, &frame)?;
            self.ours.send(segment.direction, &frame)?;
        }
        let kernel: Arrived = self.kernel.collect(packets.len())?;
        let ours: Arrived = self.ours.collect(packets.len())?;
        Ok(kernel.into_iter().zip(ours).map(|(kernel, ours)| Pair { kernel, ours }).collect())
    }

    /// What our programs counted and hold.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The kernel's side.
    pub fn kernel(&self) -> &Namespace {
        self.kernel.gateway()
    }

    fn set_time(&mut self) -> Result<()> {
        self.clock.set(0, &monotonic_ns(), 0).context("set the programs' clock")
    }

    fn fill_maps(&mut self, loose: bool) -> Result<()> {
        let mut world = World::usual();
        world.settings.lan_ifindex = self.ours.gateway().enter(|| Ok(Interface::look("lan")?.index))?;
        world.settings.adopt_midstream = u32::from(loose);
        let maps = &mut self.maps;
        maps.set_settings(&world.settings)?;
        for (number, tunnel) in &world.tunnels {
            maps.set_tunnel(TunnelId::new(*number).context("tunnel 0")?, tunnel)?;
        }
        for (server, customer) in &world.customers {
            maps.set_customer(*server, customer)?;
        }
        for (spi, owner) in &world.inbound_spis {
            maps.set_inbound_spi(*spi, TunnelId::new(*owner))?;
        }
        Ok(())
    }

    /// As the gateway does it, but without the programs that expect ESP; `replay_identity` stands in
    /// for decryption.
    fn attach(&mut self) -> Result<()> {
        let ebpf = &mut self._ebpf;
        self.ours.gateway().enter(|| {
            for (name, interface) in [
                (Hook::LanIngress.name(), "lan"),
                (Hook::InternetIngress.name(), "internet"),
                ("replay_identity", "internet"),
            ] {
                let Some(Program::SchedClassifier(program)) = ebpf.program_mut(name) else {
                    bail!("the object has no TC program {name}")
                };
                if name == "replay_identity" {
                    program.load().context("load replay_identity")?;
                }
                let options = TcAttach::Tcx { attach_type: TcAttachType::Ingress, order: LinkOrder::first() };
                program
                    .attach(c_name(interface)?.as_c_str(), options)
                    .with_context(|| format!("attach {name}"))?;
            }
            Ok(())
        })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // What stays is in this process's own mount namespace.
        let _ = self.pins.remove();
    }
}

fn c_name(interface: &str) -> Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(interface)?)
}

/// Flows differ in device, port and tunnel.
fn flow(number: u32) -> Flow {
    const FIRST_PORT: u16 = 1024;
    let ports = u32::from((u16::MAX - FIRST_PORT) / PORTS_PER_FLOW);
    let tunnel = number as usize % TUNNELS.len();
    let each = number / TUNNELS.len() as u32;
    let network = u32::from(Ipv4Addr::from(TUNNELS[tunnel].lan.0));
    Flow {
        tunnel,
        device: (network + 2 + each / ports).into(),
        port: FIRST_PORT + (each % ports) as u16 * PORTS_PER_FLOW,
    }
}

/// Two rules for each customer's site, `-m mark` in the place of `-m policy --reqid` (FACTS 10). The
/// mark comes from what stands for the SA on this veth: the source MAC on the internet, and on the LAN
/// the selectors that choose the outbound policy.
fn original_rules(side: &Side, loose: bool) -> Result<()> {
    let gateway = side.gateway();
    let mut mangle = String::from("*mangle\n");
    let mut filter = String::from("*filter\n:FORWARD DROP [0:0]\n");
    for tunnel in &TUNNELS {
        let (id, [a, b, c, d]) = (tunnel.id, tunnel.inbound_spi.to_be_bytes());
        let server = CUSTOMERS.iter().find(|(_, id, _)| *id == tunnel.customer).context("no customer")?.2;
        let server = Ipv4Addr::from(server);
        let lan = format!("{}/{}", Ipv4Addr::from(tunnel.lan.0), tunnel.lan.1);
        let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        mangle += &format!("-A PREROUTING -i internet -m mac --mac-source {mac} -j MARK --set-mark {id}\n");
        mangle += &format!("-A PREROUTING -i lan -s {server} -d {lan} -j MARK --set-mark {id}\n");
        filter += &format!(
            "-A FORWARD -s {lan} -d {server} -p tcp --dport {SERVER_PORT} \
             -m conntrack --ctstate NEW,ESTABLISHED -m mark --mark {id} -j ACCEPT\n\
             -A FORWARD -s {server} -d {lan} -p tcp --sport {SERVER_PORT} \
             -m conntrack --ctstate ESTABLISHED -m mark --mark {id} -j ACCEPT\n"
        );
    }
    let rules = format!("{mangle}COMMIT\n{filter}COMMIT\n");
    process::run_with_input(&mut gateway.command("iptables-legacy-restore"), &rules)?;
    for (key, value) in [
        ("netfilter/nf_conntrack_tcp_be_liberal", "0"),
        ("netfilter/nf_conntrack_tcp_loose", if loose { "1" } else { "0" }),
        ("netfilter/nf_conntrack_checksum", "1"),
    ] {
        gateway.set_sysctl(key, value)?;
    }
    Ok(())
}
