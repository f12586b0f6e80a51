//! The sender of a decapsulated packet.
use super::tables::Tables;
use crate::{
    ids::TunnelId,
    layout::{settings::Settings, tunnel::Tunnel},
    reason::Reason,
};

/// The sender of a decapsulated packet as the kernel reports it: reqid and SPI of the SA that decrypted the
/// packet, and the mark that this SA's policy set (docs/facts.md: set-mark-in-is-visible, decisions/0003).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// reqid of the SA.
    pub reqid: u32,
    /// SPI of the SA, host byte order.
    pub spi: u32,
    /// skb->mark.
    pub mark: u32,
}

/// The tunnel that a packet came out of.
pub(super) struct Site<'a> {
    pub settings: &'a Settings,
    pub id: TunnelId,
    pub tunnel: &'a Tunnel,
}

impl Site<'_> {
    #[inline(always)]
    pub fn is_up(&self) -> bool {
        self.tunnel.up == 1
    }
}

/// Returns the tunnel whose SA decrypted the packet. Fails unless all sources agree.
#[inline(always)]
pub(super) fn identify<'a, T: Tables>(
    tables: &'a T,
    settings: &'a Settings,
    identity: Identity,
) -> Result<Site<'a>, Reason> {
    let id = TunnelId::new(identity.reqid).ok_or(Reason::UnknownTunnel)?;
    let tunnel = tables.tunnel(id.get()).ok_or(Reason::UnknownTunnel)?;
    if tunnel.customer == 0 {
        return Err(Reason::UnknownTunnel);
    }
    if identity.mark != id.get() {
        return Err(Reason::MarkContradictsTunnel);
    }
    // The copy of INBOUND_SPIS in the tunnel itself saves the lookup.
    if identity.spi == tunnel.inbound_spis[0] || identity.spi == tunnel.inbound_spis[1] {
        return Ok(Site { settings, id, tunnel });
    }
    match tables.inbound_spi(identity.spi) {
        Some(owner) if owner != id.get() => Err(Reason::SpiContradictsTunnel),
        _ => Ok(Site { settings, id, tunnel }),
    }
}
