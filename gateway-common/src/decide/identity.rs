//! Who sent a decapsulated packet.
use super::tables::Tables;
use crate::{
    ids::TunnelId,
    layout::{settings::Settings, tunnel::Tunnel},
    reason::Reason,
};

/// Who sent a decapsulated packet, from two independent sources of the kernel: the SA that
/// decrypted it, and the mark that this SA's policy set (FACTS 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// reqid of the SA.
    pub reqid: u32,
    /// SPI of the SA, host byte order.
    pub spi: u32,
    /// skb->mark.
    pub mark: u32,
}

/// Where a packet out of a tunnel comes from.
pub(super) struct Site<'a> {
    pub(super) settings: &'a Settings,
    pub(super) id: TunnelId,
    pub(super) tunnel: &'a Tunnel,
}

impl Site<'_> {
    #[inline(always)]
    pub(super) fn is_up(&self) -> bool {
        self.tunnel.up == 1
    }
}

/// The tunnel that the kernel decrypted the packet with; every source must agree.
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
    // The same table's, nearer at hand.
    if identity.spi == tunnel.inbound_spis[0] || identity.spi == tunnel.inbound_spis[1] {
        return Ok(Site { settings, id, tunnel });
    }
    match tables.inbound_spi(identity.spi) {
        Some(owner) if owner != id.get() => Err(Reason::SpiContradictsTunnel),
        _ => Ok(Site { settings, id, tunnel }),
    }
}
