//! This project on the ground: the real programs, and maps as gatewayd fills them. Only a packet's identity
//! is replayed, which decryption would give it.
use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, SchedClassifier, TcAttach, TcAttachType, tc::SchedClassifierLink,
    },
};
use gateway::kernel::{
    maps::Maps,
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::TunnelId,
    layout::{Access, Customer, Hook, Prefix, Quota, Settings, Tunnel},
    limits::PREFIXES_PER_SITE,
    wire::{Ipv4, Ipv6},
};

use super::{
    frames::spi,
    ground::{Ground, SITES_END},
    rules::{LAN, LAN_INTERFACE, PORT, SITE_INTERFACE, server},
};
use crate::{flood::firewall::addresses, replay::world::{MSS_BYTES, World}};

/// A gateway's programs and maps.
pub struct Firewall {
    pins: Pins,
    maps: Maps,
    ebpf: Ebpf,
    loaded_identity: bool,
}

/// Programs on a ground's interfaces, until dropped.
pub struct Attached(#[expect(dead_code, reason = "held, not read")] Vec<SchedClassifierLink>);

impl Firewall {
    /// Loads the programs, with room for so many flows, for customers 1 to `customers`.
    pub fn load(name: &str, customers: u32, flows: u32) -> Result<Self> {
        let pins = Pins::new(PathBuf::from("/run/gateway-bench").join(name));
        pins.prepare()?;
        let sizes = Sizes { tunnels: customers, customers, flows, flows6: 1 };
        let ebpf = programs::load(&pins, sizes, Purpose::ReplayIdentity)?;
        let mut maps = Maps::open(&pins)?;
        for id in 1..=customers {
            let tunnel = TunnelId::new(id).context("tunnel 0")?;
            maps.set_tunnel(tunnel, &configuration(id, flows))?;
            maps.set_customer(IpAddr::V4(server(id)), &Customer { id })?;
            maps.set_inbound_spi(spi(id), Some(tunnel))?;
        }
        let mut firewall = Self { pins, maps, ebpf, loaded_identity: false };
        programs::arm_expiry(&mut firewall.ebpf)?;
        Ok(firewall)
    }

    /// Gives each packet that comes from a site the identity, and with it the mark, that decryption would
    /// give it: before it comes to the gateway.
    pub fn identify(&mut self, ground: &Ground) -> Result<Attached> {
        let name = "replay_identity";
        if !self.loaded_identity {
            classifier(&mut self.ebpf, name)?.load().with_context(|| format!("load {name}"))?;
            self.loaded_identity = true;
        }
        self.attach(ground, &[(name, TcAttachType::Egress, SITES_END)])
    }

    /// Puts the firewall on a gateway, as gatewayd does, but for what sees outer packets: there are none.
    pub fn protect(&mut self, ground: &Ground) -> Result<Attached> {
        let (site, lan) = ground.interfaces()?;
        let mut settings: Settings = World::usual().settings;
        (settings.internet, settings.lan) = (addresses(&site)?, addresses(&lan)?);
        (settings.internet_ifindex, settings.lan_ifindex) = (site.index, lan.index);
        settings.lan_mtu = lan.mtu;
        self.maps.set_settings(&settings)?;
        let hooks = [
            (Hook::InternetIngress, TcAttachType::Ingress, SITE_INTERFACE),
            (Hook::LanIngress, TcAttachType::Ingress, LAN_INTERFACE),
            (Hook::LanEgress, TcAttachType::Egress, LAN_INTERFACE),
        ];
        self.attach(ground, &hooks.map(|(hook, side, interface)| (hook.name(), side, interface)))
    }

    fn attach(&mut self, ground: &Ground, hooks: &[(&str, TcAttachType, &str)]) -> Result<Attached> {
        let ebpf = &mut self.ebpf;
        let links = ground.namespace.enter(|| {
            hooks
                .iter()
                .map(|(name, side, interface)| {
                    let program = classifier(ebpf, name)?;
                    let options = TcAttach::Tcx { attach_type: *side, order: LinkOrder::first() };
                    let id = program
                        .attach(std::ffi::CString::new(*interface)?.as_c_str(), options)
                        .with_context(|| format!("attach {name} to {interface}"))?;
                    Ok(program.take_link(id)?)
                })
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Attached(links))
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        // What stays is in this process's own mount namespace.
        let _ = self.pins.remove();
    }
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => bail!("the object has no TC program {name}"),
    }
}

/// A customer with one site, and with no limit but the table.
fn configuration(customer: u32, flows: u32) -> Tunnel {
    let mut lan = [Prefix::default(); PREFIXES_PER_SITE];
    lan[0] = Prefix::new(Ipv4::from(LAN.0), LAN.1);
    let [mss, _] = MSS_BYTES;
    Tunnel {
        customer,
        generation: 1,
        port: PORT,
        up: 1,
        v4: Access { server: server(customer).into(), mss, prefix_count: 1, _reserved: 0, lan },
        v6: Access::<Ipv6>::default(),
        quota: Quota { flows, half_open: flows, new_flow_interval_ns: 0, new_flow_burst: flows },
        ..Tunnel::default()
    }
}
