//! The gateway: the real programs, with maps filled as gatewayd fills them. Only identity is replayed; clock
//! and expiry timer are the kernel's.
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::{LinkOrder, Program, SchedClassifier, TcAttach, TcAttachType, xdp::XdpMode},
};
use gateway::{
    kernel::{
        clock::monotonic_ns,
        cookies::{self, Cookies},
        counted::Counted,
        interface::Interface,
        maps::{self, Maps},
        pins::Pins,
        programs::{self, Purpose, Sizes},
    },
    policy,
};
use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{Binding, Customer, Hook, Prefix, Quota, Share, Tunnel},
    tcp::{State, status},
    time::Ticks,
    wire::{Ipv4, Ipv6},
};
use gateway_tests_kit::{
    bpf::{Driver, Link},
    settings::settings_of,
    world::{MARK_MINUS_REQID, MSS_BYTES, access, mark, reqid, secrets},
};
use gateway_tests_programs::{TestProgram, TestPrograms};

use super::{
    ground::Ground,
    party::{ATTACKER, PORT, Party, VICTIMS},
};

/// Capacity of each family's flow table.
pub const TABLE_FLOWS: u32 = 65_536;
/// Timeout of half-open flows in seconds, as in the policy's `[timeouts]`. It is short enough to expire
/// during the test.
pub const HALF_OPEN_SECONDS: u32 = 3;

/// A customer's number of flows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// All flows.
    pub flows: u32,
    /// Flows whose handshake is not complete.
    pub half_open: u32,
}

/// An attached gateway.
pub struct Gateway {
    pins: Pins,
    // Reading a map takes no lock, but aya's types are not Sync.
    maps: Mutex<Maps>,
    _ebpf: Ebpf,
    _tests: TestPrograms,
    _receiver: Link,
}

/// Returns the quota of a customer whose policy sets none.
pub fn default_quota() -> Quota {
    let customers = VICTIMS + 1;
    let limits = policy::Limits { tunnels: customers, customers, flows: TABLE_FLOWS, flows6: None };
    policy::Quota::default().resolve(&limits)
}

/// Returns a quota above the size of the tables.
pub fn no_quota() -> Quota {
    let all = 2 * TABLE_FLOWS;
    Quota { flows: all, half_open: all, new_flow_interval_ns: 0, new_flow_burst: all }
}

impl Gateway {
    /// Loads, configures and attaches all programs. The attacker gets the given quota, all others the default
    /// one.
    pub fn start(name: &str, ground: &Ground, attacker: Quota) -> Result<Self> {
        let pins = Pins::new(PathBuf::from("/run/gateway-flood").join(name));
        pins.prepare()?;
        let customers = VICTIMS + 1;
        let sizes = Sizes { tunnels: customers, customers, flows: TABLE_FLOWS, flows6: TABLE_FLOWS };
        let mut ebpf = programs::load(&pins, sizes, Purpose::ReplayIdentity)?;
        let mut maps = Maps::open(&pins)?;
        let (internet, lan) =
            ground.gateway.enter(|| Ok((Interface::look("internet")?, Interface::look("lan")?)))?;
        fill(&mut maps, &internet, &lan, attacker)?;
        Cookies::open(&pins)?.set_secrets(&secrets(1))?;
        programs::arm_expiry(&mut ebpf)?;
        let mut tests = TestPrograms::load(&pins, MARK_MINUS_REQID)?;
        ground.gateway.enter(|| attach(&mut ebpf, &mut tests))?;
        // veth sends back only to a peer with an XDP program (docs/facts.md: veth-sends-back-to-xdp).
        let _receiver = ground.internet.enter(|| Driver::pass()?.attach("internet"))?;
        Ok(Self { pins, maps: Mutex::new(maps), _ebpf: ebpf, _tests: tests, _receiver })
    }

    /// Returns a customer's usage of its quota, as counted by the programs.
    pub fn usage(&self, party: Party) -> Result<Held> {
        let usage = self.maps().usage(party.id)?;
        Ok(Held { flows: usage.flows, half_open: usage.half_open })
    }

    /// Returns the counters of a customer, or of packets without a customer (0).
    pub fn counted(&self, customer: u32) -> Result<Counted> {
        self.maps().counted(customer)
    }

    /// Returns the counters of IKE cookies.
    pub fn cookies(&self) -> Result<cookies::Counts> {
        Cookies::open(&self.pins)?.counts(monotonic_ns())
    }

    /// Counts each customer's entries in FLOWS and FLOWS6.
    pub fn count_flows(&self) -> Result<BTreeMap<Party, Held>> {
        let mut held: BTreeMap<Party, Held> = Party::all().map(|party| (party, Held::default())).collect();
        let maps = self.maps();
        let v4 = maps.flows::<Ipv4>().map(|entry| entry.map(|(key, flow)| (key.customer, flow)));
        let v6 = maps.flows::<Ipv6>().map(|entry| entry.map(|(key, flow)| (key.customer, flow)));
        for entry in v4.chain(v6) {
            let (customer, flow) = entry?;
            let held = held.get_mut(&Party { id: customer }).context("a flow of an unknown customer")?;
            held.flows += 1;
            held.half_open += u32::from(flow.has(status::HALF_OPEN));
        }
        Ok(held)
    }

    /// Opens the ring buffer of drop events.
    pub fn events(&self) -> Result<RingBuf<MapData>> {
        maps::events(&self.pins)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Any leftovers are in this process's own mount namespace.
        let _ = self.pins.remove();
    }
}

fn fill(maps: &mut Maps, internet: &Interface, lan: &Interface, attacker: Quota) -> Result<()> {
    let mut settings = settings_of(internet, lan)?;
    for state in [State::SynSent, State::SynRecv, State::SynSent2] {
        settings.timeouts[state as usize] = Ticks::from_seconds(HALF_OPEN_SECONDS);
    }
    maps.set_settings(&settings)?;
    for party in Party::all() {
        let id = TunnelId::new(party.id).context("tunnel 0")?;
        let quota = if party == ATTACKER { attacker } else { default_quota() };
        maps.set_tunnel(id, &tunnel(party, quota))?;
        maps.set_customer(IpAddr::V4(party.server4()), &Customer { id: party.id })?;
        maps.set_customer(IpAddr::V6(party.server6()), &Customer { id: party.id })?;
        let (reqid, mark) = (reqid(party.id), mark(party.id));
        let binding = Binding { site: party.id, mark, inbound_spis: [party.spi(), 0] };
        maps.set_binding(Reqid::new(reqid).context("reqid 0")?, &binding)?;
        maps.set_inbound_spi(party.spi(), Mark::new(mark))?;
        maps.add_peer(Ipv6::from(IpAddr::V4(party.peer())))?;
    }
    Ok(())
}

fn tunnel(party: Party, quota: Quota) -> Tunnel {
    let lan4 = Prefix::new(Ipv4::from(party.lan4(0)), 16);
    let lan6 = Prefix::new(Ipv6::from(party.lan6(0)), 48);
    let [mss4, mss6] = MSS_BYTES;
    Tunnel {
        customer: party.id,
        generation: 1,
        port: PORT,
        up: 1,
        v4: access(party.server4().into(), mss4, &[lan4], mark(party.id)),
        quota,
        share: Share::WHOLE,
        v6: access(party.server6().into(), mss6, &[lan6], mark(party.id)),
        ..Tunnel::default()
    }
}

/// Attaches programs to all five hooks. The sites' interfaces receive packets as decryption would leave them,
/// so they get only the programs for inner packets; all other interfaces get the same programs as from
/// gatewayd. `replay_identity` runs first: on the internet interface it reports that a packet has no
/// identity.
fn attach(ebpf: &mut Ebpf, tests: &mut TestPrograms) -> Result<()> {
    let sites: Vec<String> = Party::all().map(Party::interface).collect();
    let inner_and_outer: Vec<&str> = sites.iter().map(String::as_str).chain(["internet"]).collect();
    for (hook, side, interfaces) in [
        (Hook::InternetIngress, TcAttachType::Ingress, &inner_and_outer[..]),
        (Hook::LanIngress, TcAttachType::Ingress, &["lan"]),
        (Hook::LanEgress, TcAttachType::Egress, &["lan"]),
        (Hook::InternetEgress, TcAttachType::Egress, &["internet"]),
    ] {
        let name = hook.name();
        let Some(Program::SchedClassifier(program)) = ebpf.program_mut(name) else {
            bail!("the object has no TC program {name}")
        };
        attach_tcx(program, side, interfaces).with_context(|| format!("attach {name}"))?;
    }
    attach_tcx(tests.get(TestProgram::ReplayIdentity)?, TcAttachType::Ingress, &inner_and_outer)
        .context("attach replay_identity")?;
    let name = Hook::InternetXdp.name();
    let Some(Program::Xdp(program)) = ebpf.program_mut(name) else {
        bail!("the object has no program {name}")
    };
    program.attach(c"internet", XdpMode::Driver).context("attach internet_xdp in the driver")?;
    Ok(())
}

/// Attaches a program to interfaces, ahead of the programs already attached there.
fn attach_tcx(program: &mut SchedClassifier, side: TcAttachType, interfaces: &[&str]) -> Result<()> {
    for interface in interfaces {
        let options = TcAttach::Tcx { attach_type: side, order: LinkOrder::first() };
        program
            .attach(std::ffi::CString::new(*interface)?.as_c_str(), options)
            .with_context(|| format!("attach a TC program to {interface}"))?;
    }
    Ok(())
}
