//! Tests of the control path on values, without a kernel or charon.
mod desired;
mod follow;
mod generation;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use gateway_common::{
    ids::{Reqid, TunnelId},
    layout::{self, Binding, Customer, OutboundSpi, Prefix, Settings, Tunnel},
    wire::{Ipv4, Ipv6},
};
use proptest::prelude::*;

use super::{
    desired::{Credentials, Desired, Links, desired, desired_of},
    follow::{Live, follow, mss_of_sas},
    mss::{Mss, Mtus},
    observed::Observed,
    plan::{Action, Charon, plan, plan_some},
};
use crate::{
    kernel::interface::Interface,
    policy::{self, Policy},
    registry::{Assignment, Registry},
    strongswan::{Algorithms, ChildSa, ChildState, IkeSa, IkeState, TrafficSelector},
};

const ACME_SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 200, 0, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x11)),
];
const BERLIN: &str = "acme.berlin";

/// Returns the example policy of the repository.
fn example() -> Policy {
    // cargo runs tests in the package's directory.
    policy::load(Path::new("../policies")).expect("the example is valid")
}

/// Returns the desired state of a policy, with ids as on the first start.
fn desired_state(policy: &Policy) -> Desired<'_> {
    let state = tempfile::tempdir().expect("a folder");
    desired_with(policy, &Registry::open(state.path().join("ids.toml")).unwrap().assign(policy).unwrap())
}

fn interface(name: &str, index: u32, v4: [u8; 4]) -> Interface {
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    Interface { name: name.into(), index, mtu: 1500, v4: vec![v4.into()], v6: vec![link_local] }
}

fn desired_with<'p>(policy: &'p Policy, ids: &Assignment) -> Desired<'p> {
    desired_for(policy, &policy.customers.values().collect::<Vec<_>>(), ids)
}

fn desired_for<'p>(policy: &Policy, customers: &[&'p policy::Customer], ids: &Assignment) -> Desired<'p> {
    let (internet, lan) =
        (interface("eth_internet", 2, [203, 0, 113, 1]), interface("eth_lan", 3, [10, 200, 0, 1]));
    let credentials = Credentials {
        certificate: (*b"certificate").into(),
        private_key: b"key".into(),
        authority: (*b"ca").into(),
    };
    let links = Links { internet: &internet, lan: &lan, xdp: true };
    desired_of(policy, customers.iter().copied(), ids, links, &credentials).unwrap()
}

fn empty() -> Observed {
    Observed {
        settings: Settings { ready: 0, ..desired_state(&example()).settings },
        bindings: BTreeMap::new(),
        tunnels: BTreeMap::new(),
        customers: BTreeMap::new(),
        inbound: BTreeMap::new(),
        outbound: BTreeMap::new(),
        peers: BTreeSet::new(),
    }
}

/// Returns the contents of the maps and charon after these actions: `apply` on values.
fn applied(actions: &[Action], mut observed: Observed, mut charon: Charon) -> (Observed, Charon) {
    for action in actions.iter().cloned() {
        match action {
            Action::Unload(name) => {
                charon.listed.retain(|listed| *listed != name);
                charon.loaded.remove(&name);
            }
            Action::Terminate { unique_id, .. } => charon.ike_sas.retain(|(id, _)| *id != unique_id),
            Action::RemoveCustomer(server) => drop(observed.customers.remove(&server)),
            Action::SetBinding(reqid, Binding { site: 0, .. }) => drop(observed.bindings.remove(&reqid)),
            Action::SetBinding(reqid, binding) => drop(observed.bindings.insert(reqid, binding)),
            Action::SetTunnel(id, tunnel) if tunnel.customer == 0 => drop(observed.tunnels.remove(&id)),
            Action::SetTunnel(id, tunnel) => drop(observed.tunnels.insert(id, *tunnel)),
            Action::SetInboundSpi(spi, None) => drop(observed.inbound.remove(&spi)),
            Action::SetInboundSpi(spi, Some(mark)) => drop(observed.inbound.insert(spi, mark.get())),
            Action::SetOutboundSpi(spi, None) => drop(observed.outbound.remove(&spi)),
            Action::SetOutboundSpi(spi, Some(mark)) => drop(observed.outbound.insert(spi, mark.get())),
            Action::SetCustomer(server, customer) => drop(observed.customers.insert(server, customer)),
            Action::RemovePeer(peer) => drop(observed.peers.remove(&peer)),
            // An existing peer entry holds budgets, so a plan must not overwrite it.
            Action::AddPeer(peer) => assert!(observed.peers.insert(peer)),
            Action::SetSettings(settings) => observed.settings = *settings,
            Action::Load(connection) => {
                charon.listed.push(connection.name.clone());
                charon.loaded.insert(connection.name.clone(), *connection);
            }
        }
    }
    (observed, charon)
}

/// Returns the state of a gateway after the policy was applied, with the tunnels of `live` up.
fn settled(desired: &Desired, live: Live) -> (Observed, Charon) {
    let charon = Charon { live, ..Charon::default() };
    applied(&plan(desired, &empty(), Some(&charon)), empty(), charon)
}

fn sa(name: &str, identity: &str, reqid: u32) -> IkeSa {
    let algorithms = Algorithms::default;
    IkeSa {
        name: name.into(),
        unique_id: 7,
        state: IkeState::Established,
        local_host: Ipv4Addr::new(203, 0, 113, 1).into(),
        local_port: 500,
        local_id: "gateway.example".into(),
        remote_host: Ipv4Addr::new(198, 51, 100, 5).into(),
        remote_port: 500,
        remote_id: identity.into(),
        initiator: false,
        nat_local: false,
        nat_remote: false,
        algorithms: algorithms(),
        established: None,
        children: vec![ChildSa {
            name: name.into(),
            unique_id: 9,
            reqid,
            state: ChildState::Installed,
            spi_in: Some(0xc0de_0001),
            spi_out: Some(0xbeef_0001),
            mark_in: reqid,
            mark_out: reqid,
            encap: false,
            algorithms: algorithms(),
            bytes_in: 0,
            packets_in: 0,
            bytes_out: 0,
            packets_out: 0,
            local_ts: vec![],
            remote_ts: vec![],
        }],
    }
}

fn tunnel(desired: &Desired, connection: &str) -> TunnelId {
    *desired.tunnels.iter().find(|(_, t)| t.connection() == connection).expect("the example has it").0
}
