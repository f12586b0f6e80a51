//! The programs on their interfaces, and what must hold around them: looked at again and again, since
//! interfaces are made anew and others write sysctls too.
use anyhow::{Context, Result};
use aya::Ebpf;
use gateway_common::layout::Hook;
use tracing::{info, warn};

use crate::kernel::{
    interface::{self, Interface},
    maps::{self, Maps},
    pins::Pins,
    programs::{self, Purpose, Sizes, XdpState},
};

/// Loaded and attached programs.
pub struct DataPlane {
    ebpf: Ebpf,
    pins: Pins,
    /// Indices of the interfaces they are attached to.
    attached: (u32, u32),
    xdp: XdpState,
}

impl DataPlane {
    /// Loads the programs and attaches them, or puts them in the place of those that are attached.
    /// Unless all of an earlier gatewayd's are, nothing is forwarded until `ensure`.
    pub fn start(pins: &Pins, sizes: Sizes, internet: &Interface, lan: &Interface) -> Result<Self> {
        pins.prepare()?;
        interface::set_forwarding(&internet.name, false)?;
        let indices = (internet.index, lan.index);
        let adopted = is_attached(pins, indices);
        if !adopted {
            interface::set_forwarding(&lan.name, false)?;
            interface::set_forwarding6(false)?;
            programs::forget_links(pins)?;
        }
        let mut ebpf = programs::load(pins, sizes, Purpose::Gateway)?;
        let xdp = programs::attach(&mut ebpf, pins, &internet.name, &lan.name)?;
        programs::arm_expiry(&mut ebpf)?;
        let map_memory_bytes = maps::memory_bytes(pins)?;
        info!(
            internet = internet.name,
            lan = lan.name,
            adopted,
            ?xdp,
            ?sizes,
            map_memory_bytes,
            "programs attached"
        );
        Ok(Self { ebpf, pins: pins.clone(), attached: indices, xdp })
    }

    /// Makes true what must be: programs on the interfaces of these names as they are now, forwarding
    /// off on the internet side and on towards the LAN, GRO off where it must be. In IPv6 forwarding has
    /// one switch for all interfaces, which is on if there is any server to answer in it.
    pub fn ensure(&mut self, internet: &Interface, lan: &Interface, any_v6_server: bool) -> Result<()> {
        let indices = (internet.index, lan.index);
        if indices != self.attached {
            warn!("an interface was made anew: attaching to it");
            interface::set_forwarding(&lan.name, false)?;
            interface::set_forwarding(&internet.name, false)?;
            interface::set_forwarding6(false)?;
            programs::forget_links(&self.pins)?;
            self.xdp = programs::attach(&mut self.ebpf, &self.pins, &internet.name, &lan.name)?;
            self.attached = indices;
        }
        if self.xdp == XdpState::Missing {
            interface::turn_gro_off(&internet.name)?;
        }
        for (name, wanted) in [(&internet.name, false), (&lan.name, true)] {
            if interface::forwarding(name)? != wanted {
                info!(interface = name.as_str(), forwarding = wanted, "forwarding set");
                interface::set_forwarding(name, wanted)?;
            }
        }
        if interface::forwarding6()? != any_v6_server {
            info!(forwarding = any_v6_server, "IPv6 forwarding set");
            interface::set_forwarding6(any_v6_server)?;
        }
        Ok(())
    }

    /// How XDP runs.
    pub fn xdp(&self) -> XdpState {
        self.xdp
    }

    /// The loaded object.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Whether all programs of an earlier gatewayd are attached to these very interfaces.
fn is_attached(pins: &Pins, indices: (u32, u32)) -> bool {
    let settings = Maps::open(pins).context("no pins").and_then(|maps| maps.settings());
    // XDP may be missing by right.
    let links = Hook::ALL.iter().filter(|hook| **hook != Hook::InternetXdp);
    settings.is_ok_and(|settings| {
        settings.ready == 1 && (settings.internet_ifindex, settings.lan_ifindex) == indices
    }) && links.clone().all(|hook| pins.link(*hook).exists())
}
