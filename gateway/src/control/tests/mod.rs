//! Tests of the control path on values, without a kernel or charon.
mod desired;
mod generation;
mod live;
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
    bindings::{Bindings, CONNECTION},
    desired::{Credentials, Desired, Links, connection, desired, desired_of},
    live::Live,
    mss::Mtus,
    observed::Observed,
    plan::{Action, Followed, plan, plan_live, plan_some},
    sites::Sites,
};
use crate::{
    kernel::interface::Interface,
    policy::{self, Policy},
    registry::{Assignment, Registry},
    strongswan::{
        Algorithms, ChildSa, ChildState, Event, EventKind, IkeSa, IkeState, Marks, PeerIdentity,
        TrafficSelector,
    },
};

const ACME_SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 200, 0, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x11)),
];
const BERLIN: &str = "acme.berlin";
const BERLINS_IDENTITY: &str = "berlin.acme.example";

/// Returns the example policy of the repository.
fn example() -> Policy {
    // cargo runs tests in the package's directory.
    policy::load(Path::new("../policies")).expect("the example is valid")
}

/// Returns the desired state of a policy, with ids as on the first start.
fn desired_state(policy: &Policy) -> Desired<'_> {
    desired_with(policy, &first_ids(policy))
}

/// Returns the ids that a policy gets on the first start.
fn first_ids(policy: &Policy) -> Assignment {
    let state = tempfile::tempdir().expect("a folder");
    Registry::open(state.path().join("ids.toml")).unwrap().assign(policy).unwrap()
}

/// Returns what follows from charon's SAs for the sites of a policy with ids as on the first start.
fn live(policy: &Policy, sas: &[IkeSa]) -> Live {
    let mut bindings = Bindings::new(Sites::new(policy, &first_ids(policy)));
    assert_eq!(bindings.audit(sas), [], "an SA is refused");
    bindings.live().clone()
}

/// Returns the plan with these SAs, or before anything is known of charon's.
fn plan_with(desired: &Desired, observed: &Observed, live: Option<&Live>) -> Vec<Action> {
    let learnt = BTreeMap::new();
    plan(desired, observed, live.map(|live| Followed { live, learnt: &learnt }))
}

fn credentials() -> Credentials {
    Credentials {
        certificate: (*b"certificate").into(),
        private_key: b"key".into(),
        authority: (*b"ca").into(),
    }
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
    let links = Links { internet: &internet, lan: &lan, xdp: true };
    desired_of(policy, customers.iter().copied(), ids, links).unwrap()
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

/// Returns the contents of the maps after these actions: `apply` on values.
fn applied(actions: &[Action], mut observed: Observed) -> Observed {
    for action in actions.iter().cloned() {
        match action {
            Action::RemoveCustomer(server) => drop(observed.customers.remove(&server)),
            Action::SetTunnel(id, tunnel) if tunnel.customer == 0 => drop(observed.tunnels.remove(&id)),
            Action::SetTunnel(id, tunnel) => drop(observed.tunnels.insert(id, *tunnel)),
            Action::SetBinding(reqid, Binding { site: 0, .. }) => drop(observed.bindings.remove(&reqid)),
            Action::SetBinding(reqid, binding) => drop(observed.bindings.insert(reqid, binding)),
            Action::SetInboundSpi(spi, None) => drop(observed.inbound.remove(&spi)),
            Action::SetInboundSpi(spi, Some(mark)) => drop(observed.inbound.insert(spi, mark.get())),
            Action::SetOutboundSpi(spi, None) => drop(observed.outbound.remove(&spi)),
            Action::SetOutboundSpi(spi, Some(mark)) => drop(observed.outbound.insert(spi, mark.get())),
            Action::SetCustomer(server, customer) => drop(observed.customers.insert(server, customer)),
            Action::RemovePeer(peer) => drop(observed.peers.remove(&peer)),
            // An existing peer entry holds budgets, so a plan must not overwrite it.
            Action::AddPeer(peer) => assert!(observed.peers.insert(peer)),
            Action::SetSettings(settings) => observed.settings = *settings,
        }
    }
    observed
}

/// Returns the maps of a gateway after the policy was applied, with these SAs.
fn settled(desired: &Desired, live: &Live) -> Observed {
    applied(&plan_with(desired, &empty(), Some(live)), empty())
}

/// Returns an IKE_SA with one CHILD_SA, which has this number as its reqid and, with 100 more, as its mark.
fn sa(identity: &str, number: u32) -> IkeSa {
    let net = |text: &str| vec![TrafficSelector::Net(text.parse().unwrap())];
    IkeSa {
        name: CONNECTION.into(),
        unique_id: number,
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
        algorithms: Algorithms::default(),
        established: None,
        children: vec![ChildSa {
            name: CONNECTION.into(),
            unique_id: number,
            reqid: number,
            state: ChildState::Installed,
            spi_in: Some(0xc0de_0000 + number),
            spi_out: Some(0xbeef_0000 + number),
            mark_in: 100 + number,
            mark_out: 100 + number,
            encap: false,
            algorithms: Algorithms::default(),
            bytes_in: 0,
            packets_in: 0,
            bytes_out: 0,
            packets_out: 0,
            local_ts: net("0.0.0.0/0"),
            remote_ts: net("0.0.0.0/0"),
        }],
    }
}

fn reqid(number: u32) -> Reqid {
    Reqid::new(number).unwrap()
}

fn tunnel(desired: &Desired, connection: &str) -> TunnelId {
    *desired.tunnels.iter().find(|(_, t)| t.name() == connection).expect("the example has it").0
}
