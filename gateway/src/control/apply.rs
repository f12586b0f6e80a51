//! The only place that changes maps and charon.
use anyhow::{Context, Result, anyhow};

use crate::{control::plan::Action, kernel::maps::Maps, strongswan::Client};

/// Does one action. A failed one is tried again with the next plan, since it will be in it again.
pub async fn apply(action: &Action, maps: &mut Maps, charon: Option<&Client>) -> Result<()> {
    let charon = || charon.ok_or_else(|| anyhow!("charon is not connected"));
    match action {
        Action::Unload(name) => charon()?.unload_conn(name).await.map_err(Into::into),
        Action::Terminate { unique_id, .. } => charon()?.terminate_ike(*unique_id).await.map_err(Into::into),
        Action::Load(connection) => charon()?.load_conn(connection).await.map_err(Into::into),
        Action::RemoveCustomer(server) => maps.remove_customer(*server),
        Action::SetCustomer(server, customer) => maps.set_customer(*server, customer),
        Action::SetTunnel(id, tunnel) => maps.set_tunnel(*id, tunnel),
        Action::SetInboundSpi(spi, tunnel) => maps.set_inbound_spi(*spi, *tunnel),
        Action::SetOutboundSpi(spi, tunnel) => maps.set_outbound_spi(*spi, *tunnel),
        Action::RemovePeer(peer) => maps.remove_peer(*peer),
        Action::AddPeer(peer) => maps.add_peer(*peer),
        Action::SetSettings(settings) => maps.set_settings(settings),
    }
    .with_context(|| action.to_string())
}
