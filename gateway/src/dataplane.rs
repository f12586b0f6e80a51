//! The programs on their interfaces, and the interfaces' settings that the programs rely on. Both are checked
//! again and again, because interfaces are recreated and other software writes sysctls, too.
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
    /// Loads the programs and attaches them, or replaces those that are attached. Forwarding is off until
    /// `ensure` unless all programs of an earlier gatewayd are still attached. The directory of the pins is prepared.
    pub fn start(pins: &Pins, sizes: Sizes, internet: &Interface, lan: &Interface) -> Result<Self> {
        interface::set_forwarding(&internet.name, false)?;
        interface::stop_forwarding_by_default()?;
        let indices = (internet.index, lan.index);
        let adopted = is_attached(pins, indices);
        if !adopted {
            // On all interfaces: the programs may have been attached to others.
            interface::stop_forwarding()?;
            programs::unpin_links(pins)?;
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

    /// Repairs the data plane: attaches the programs to interfaces that were recreated, turns forwarding off on
    /// the internet interface and on on the LAN interface, for IPv6 if any customer has an IPv6 server, and GRO off if
    /// there is no native XDP.
    pub fn ensure(&mut self, internet: &Interface, lan: &Interface, any_v6_server: bool) -> Result<()> {
        let indices = (internet.index, lan.index);
        if indices != self.attached || !links_are_pinned(&self.pins) {
            warn!("an interface was recreated, or programs are detached: attaching them");
            // On all interfaces: those that had the programs may have other names now.
            interface::stop_forwarding()?;
            programs::unpin_links(&self.pins)?;
            self.xdp = programs::attach(&mut self.ebpf, &self.pins, &internet.name, &lan.name)?;
            self.attached = indices;
        }
        interface::stop_forwarding_by_default()?;
        if self.xdp == XdpState::Missing {
            interface::turn_gro_off(&internet.name)?;
        }
        for (name, wanted) in [(&internet.name, false), (&lan.name, true)] {
            if interface::forwarding(name)? != wanted {
                info!(interface = name.as_str(), forwarding = wanted, "forwarding set");
                interface::set_forwarding(name, wanted)?;
            }
        }
        if !interface::is_forwarding6(&lan.name, any_v6_server)? {
            info!(interface = lan.name, forwarding = any_v6_server, "IPv6 forwarding set");
            interface::set_forwarding6(&lan.name, any_v6_server)?;
        }
        Ok(())
    }

    /// Returns how XDP runs.
    pub fn xdp(&self) -> XdpState {
        self.xdp
    }

    /// Returns the loaded object.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Returns true if all programs of an earlier gatewayd are attached to these very interfaces.
fn is_attached(pins: &Pins, indices: (u32, u32)) -> bool {
    let settings = Maps::open(pins).context("no pins").and_then(|maps| maps.settings());
    settings.is_ok_and(|settings| {
        settings.ready == 1 && (settings.internet_ifindex, settings.lan_ifindex) == indices
    }) && links_are_pinned(pins)
}

/// Returns true if all links are pinned. That of XDP is missing if the driver does not support XDP.
fn links_are_pinned(pins: &Pins) -> bool {
    let mut links = Hook::ALL.iter().filter(|hook| **hook != Hook::InternetXdp);
    links.all(|hook| pins.link(*hook).exists())
}
