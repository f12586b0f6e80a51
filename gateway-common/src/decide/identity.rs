//! The sender of a decapsulated packet.
use super::tables::Tables;
use crate::{
    ids::TunnelId,
    layout::{binding::Binding, settings::Settings, tunnel::Tunnel},
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

/// The site whose tunnel a packet came out of.
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

/// Returns the site whose SA decrypted the packet. Fails unless all sources agree.
#[inline(always)]
pub(super) fn identify<'a, T: Tables>(
    tables: &'a T,
    settings: &'a Settings,
    identity: Identity,
) -> Result<Site<'a>, Reason> {
    let binding = tables.binding(identity.reqid).ok_or(Reason::UnknownTunnel)?;
    let (site, mark) = binding.site_and_mark();
    let id = TunnelId::new(site).ok_or(Reason::UnknownTunnel)?;
    // charon gives a released reqid to another CHILD_SA, so an entry that is late is about somebody else.
    if identity.mark != mark {
        return Err(Reason::MarkContradictsTunnel);
    }
    if is_of_another(tables, binding, identity.spi, mark) {
        return Err(Reason::SpiContradictsTunnel);
    }
    let tunnel = tables.tunnel(site).ok_or(Reason::UnknownTunnel)?;
    if tunnel.customer == 0 {
        return Err(Reason::UnknownTunnel);
    }
    Ok(Site { settings, id, tunnel })
}

/// Returns true if the SPI is known to be that of a CHILD_SA with another mark.
#[inline(always)]
fn is_of_another<T: Tables>(tables: &T, binding: &Binding, spi: u32, mark: u32) -> bool {
    // The copy of INBOUND_SPIS in the binding saves the lookup.
    if spi == binding.inbound_spis[0] || spi == binding.inbound_spis[1] {
        return false;
    }
    tables.inbound_spi(spi).is_some_and(|owner| owner != mark)
}
