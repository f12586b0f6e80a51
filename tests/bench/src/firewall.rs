//! This project on the ground: the real programs, with maps filled as gatewayd fills them. Only the identity
//! that decryption would give a packet is replayed.
use std::{ffi::CString, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, SchedClassifier, TcAttach, TcAttachType,
        tc::SchedClassifierLink,
        xdp::{XdpLink, XdpMode},
    },
};
use gateway::kernel::{
    interface::Interface,
    maps::Maps,
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{Access, Binding, Customer, Hook, OutboundSpi, Prefix, Quota, Share, Tunnel},
    wire::{Ipv4, Ipv6},
};
use gateway_tests_kit::{
    bpf,
    namespace::Namespace,
    settings::settings_of,
    world::{MSS_BYTES, access},
};
use gateway_tests_programs::{TestProgram, TestPrograms};

use super::{
    contender::{Contender, Exit, Setup},
    frames::spi,
    ground::{Ground, SITES_END},
    rules::{LAN, LAN_INTERFACE, PORT, SITE_INTERFACE, server},
};

/// Customer ids left free at first, see [`Firewall::protect`].
const SPARE_IDS: u32 = 4096;

/// A gateway's programs and maps. Loading them takes 20 s on an emulated machine, so they are loaded once and
/// used for all measurements.
pub struct Firewall {
    pins: Pins,
    maps: Maps,
    ebpf: Ebpf,
    /// Test-only programs, once one is needed.
    tests: Option<TestPrograms>,
    /// Number of configured customers, counted from 1.
    customers: u32,
    /// The last customer id in use.
    last_id: u32,
    flows: u32,
}

/// One firewall as shipped, which also provides identities for the other contenders, and if needed one that
/// hands packets to the stack.
pub struct Firewalls {
    shipped: Firewall,
    to_stack: Option<Firewall>,
}

impl Firewalls {
    /// Loads the firewalls that these contenders need, without customers but with room for the given numbers.
    pub fn load(contenders: &[Contender], name: &str, customers: u32, flows: u32) -> Result<Self> {
        let load = |purpose, name: &str| Firewall::load(purpose, name, customers, flows);
        let to_stack = contenders
            .contains(&Contender::Stack)
            .then(|| load(Purpose::ReplayIdentityToStack, &format!("{name}-to-stack")))
            .transpose()?;
        Ok(Self { shipped: load(Purpose::ReplayIdentity, name)?, to_stack })
    }

    /// Configures customers 1 to `customers` and removes all others.
    pub fn set_customers(&mut self, customers: u32) -> Result<()> {
        self.shipped.set_customers(customers)?;
        self.to_stack.as_mut().map_or(Ok(()), |firewall| firewall.set_customers(customers))
    }

    /// Returns the firewall that a contender needs.
    pub fn of(&mut self, contender: Contender) -> Result<&mut Firewall> {
        match contender.row().setup {
            Setup::Gateway(Exit::Stack) => {
                self.to_stack.as_mut().context("the firewall that hands packets to the stack is not loaded")
            }
            Setup::Gateway(Exit::Redirect)
            | Setup::DropAtIngress
            | Setup::Nothing
            | Setup::CallsOnly
            | Setup::Ruleset(_) => Ok(&mut self.shipped),
        }
    }
}

/// Programs attached to a ground's interfaces, detached on drop.
#[expect(dead_code, reason = "held, not read")]
pub struct Attached(Vec<SchedClassifierLink>, Option<bpf::Link>);

impl Firewall {
    /// Loads the programs, without customers but with room for the given numbers of customers and flows.
    pub fn load(purpose: Purpose, name: &str, customers: u32, flows: u32) -> Result<Self> {
        let pins = Pins::new(PathBuf::from("/run/gateway-bench").join(name));
        pins.prepare()?;
        let ids = customers + SPARE_IDS;
        let sizes = Sizes { tunnels: customers, customers: ids, flows, flows6: 1 };
        let ebpf = programs::load(&pins, sizes, purpose)?;
        let maps = Maps::open(&pins)?;
        let mut firewall = Self { pins, maps, ebpf, tests: None, customers: 0, last_id: customers, flows };
        programs::arm_expiry(&mut firewall.ebpf)?;
        Ok(firewall)
    }

    /// Configures customers 1 to `customers` and removes all others.
    pub fn set_customers(&mut self, customers: u32) -> Result<()> {
        for number in self.customers + 1..=customers {
            self.set_customer(number, number)?;
            self.maps.set_inbound_spi(spi(number), Mark::new(number))?;
        }
        for number in customers + 1..=self.customers {
            self.maps.set_binding(Reqid::new(number).context("reqid 0")?, &Binding::default())?;
            self.maps.set_tunnel(TunnelId::new(number).context("tunnel 0")?, &Tunnel::default())?;
            self.maps.remove_customer(IpAddr::V4(server(number)))?;
            self.maps.set_inbound_spi(spi(number), None)?;
        }
        self.customers = customers;
        Ok(())
    }

    fn set_customer(&mut self, number: u32, id: u32) -> Result<()> {
        let tunnel = TunnelId::new(number).context("tunnel 0")?;
        // Reqid and mark are the customer's number, which contenders compare with the mark.
        let binding = Binding { site: number, mark: number, inbound_spis: [spi(number), 0] };
        self.maps.set_binding(Reqid::new(number).context("reqid 0")?, &binding)?;
        self.maps.set_tunnel(tunnel, &configuration(number, id, self.flows))?;
        self.maps.set_customer(IpAddr::V4(server(number)), &Customer { id })
    }

    /// Attaches the program that gives each packet from a site the identity, and with it the mark, that
    /// decryption would give it, before the packet reaches the gateway.
    pub fn identify(&mut self, ground: &Ground) -> Result<Attached> {
        let program = self.test_program(TestProgram::ReplayIdentity)?;
        let link = ground.namespace.enter(|| attach_program(program, TcAttachType::Egress, SITES_END))?;
        Ok(Attached(vec![link], None))
    }

    /// Attaches the program that only calls the kernel to the hooks that a packet to a server passes.
    pub fn call_only(&mut self, ground: &Ground) -> Result<Attached> {
        let program = self.test_program(TestProgram::CallsOnly)?;
        ground.namespace.enter(|| {
            let ingress = attach_program(program, TcAttachType::Ingress, SITE_INTERFACE)?;
            let egress = bpf::Classifier::nothing()?.attach(LAN_INTERFACE, bpf::Way::Egress)?;
            Ok(Attached(vec![ingress], Some(egress)))
        })
    }

    /// Returns a test-only program, loaded on first use.
    fn test_program(&mut self, program: TestProgram) -> Result<&mut SchedClassifier> {
        let tests = match self.tests.take() {
            Some(tests) => tests,
            None => TestPrograms::load(&self.pins, 0)?,
        };
        self.tests.insert(tests).get(program)
    }

    /// Attaches the firewall to a gateway as gatewayd does, without the programs for outer packets, of which
    /// there are none. The `known` customers get new ids and thus have no flows.
    pub fn protect(&mut self, ground: &Ground, known: &[u32]) -> Result<Attached> {
        self.forget_flows(known)?;
        self.configure(&ground.namespace)?;
        self.attach(&ground.namespace, &INNER)
    }

    /// Does the same with all five programs, for outer packets of these tunnels, each with its inbound SPI
    /// and its peer's outbound SPI.
    pub fn protect_tunnels(
        &mut self,
        gateway: &Namespace,
        tunnels: &[(TunnelId, u32, OutboundSpi)],
    ) -> Result<(Attached, XdpLink)> {
        self.configure(gateway)?;
        for (tunnel, inbound, outbound) in tunnels {
            self.forget_flows(&[tunnel.get()])?;
            self.maps.set_inbound_spi(*inbound, Mark::new(tunnel.get()))?;
            self.maps.set_outbound_spi(*outbound, Mark::new(tunnel.get()))?;
            self.maps.add_peer(outbound.peer)?;
        }
        let egress = (Hook::InternetEgress, TcAttachType::Egress, SITE_INTERFACE);
        let attached = self.attach(gateway, &[&INNER[..], &[egress]].concat())?;
        let Some(Program::Xdp(program)) = self.ebpf.program_mut(Hook::InternetXdp.name()) else {
            bail!("the object has no XDP program")
        };
        let link = gateway.enter(|| {
            let id = program
                .attach(CString::new(SITE_INTERFACE)?.as_c_str(), XdpMode::Driver)
                .context("attach internet_xdp in the driver")?;
            Ok(program.take_link(id)?)
        })?;
        Ok((attached, link))
    }

    fn forget_flows(&mut self, customers: &[u32]) -> Result<()> {
        for customer in customers {
            self.last_id += 1;
            self.set_customer(*customer, self.last_id)?;
        }
        Ok(())
    }

    fn configure(&mut self, gateway: &Namespace) -> Result<()> {
        let look = || Ok((Interface::look(SITE_INTERFACE)?, Interface::look(LAN_INTERFACE)?));
        let (site, lan) = gateway.enter(look)?;
        self.maps.set_settings(&settings_of(&site, &lan)?)
    }

    fn attach(&mut self, namespace: &Namespace, hooks: &[Place]) -> Result<Attached> {
        let ebpf = &mut self.ebpf;
        let links = namespace.enter(|| {
            hooks.iter().map(|(hook, side, interface)| attach(ebpf, hook.name(), *side, interface)).collect()
        })?;
        Ok(Attached(links, None))
    }
}

/// A hook with its interface and side.
type Place = (Hook, TcAttachType, &'static str);

/// The hooks that see packets out of tunnels and from servers.
const INNER: [Place; 3] = [
    (Hook::InternetIngress, TcAttachType::Ingress, SITE_INTERFACE),
    (Hook::LanIngress, TcAttachType::Ingress, LAN_INTERFACE),
    (Hook::LanEgress, TcAttachType::Egress, LAN_INTERFACE),
];

fn attach(ebpf: &mut Ebpf, name: &str, side: TcAttachType, interface: &str) -> Result<SchedClassifierLink> {
    attach_program(classifier(ebpf, name)?, side, interface).with_context(|| format!("attach {name}"))
}

fn attach_program(
    program: &mut SchedClassifier,
    side: TcAttachType,
    interface: &str,
) -> Result<SchedClassifierLink> {
    let options = TcAttach::Tcx { attach_type: side, order: LinkOrder::first() };
    let id = program
        .attach(CString::new(interface)?.as_c_str(), options)
        .with_context(|| format!("attach a TC program to {interface}"))?;
    Ok(program.take_link(id)?)
}

impl Drop for Firewall {
    fn drop(&mut self) {
        // Any leftovers are in this process's own mount namespace.
        let _ = self.pins.remove();
    }
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => bail!("the object has no TC program {name}"),
    }
}

/// Returns the tunnel of a customer with one site, limited by the size of the table only.
fn configuration(number: u32, id: u32, flows: u32) -> Tunnel {
    let lan = Prefix::new(Ipv4::from(LAN.0), LAN.1);
    let [mss, _] = MSS_BYTES;
    Tunnel {
        customer: id,
        generation: 1,
        port: PORT,
        up: 1,
        v4: access(server(number).into(), mss, &[lan], number),
        v6: Access::<Ipv6>::default(),
        quota: Quota { flows, half_open: flows, new_flow_interval_ns: 0, new_flow_burst: flows },
        share: Share::WHOLE,
        ..Tunnel::default()
    }
}
