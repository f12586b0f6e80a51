//! A site's state as the status shows it.
use std::{collections::BTreeMap, net::IpAddr};

use gateway_common::{ids::TunnelId, layout::Tunnel, limits::PREFIXES_PER_SITE};

use crate::{
    control::{
        bindings::Bindings,
        live::{LiveSite, Shown},
        sites::Sites,
    },
    policy::{CustomerName, Policy, SiteName},
    status::TunnelStatus,
};

/// The part of a site's state that changes without the policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteState {
    up: bool,
    mss: (u16, u16),
    shown: Option<Shown>,
    path_mtu_bytes: Option<u32>,
}

impl SiteState {
    /// Returns the state of a site. `learnt` holds path MTUs in bytes by peer; `entry` is the site's map entry.
    pub fn of(id: TunnelId, bindings: &Bindings, learnt: &BTreeMap<IpAddr, u32>, entry: &Tunnel) -> Self {
        // Bound SAs only: what a stranger claims to be is not there.
        let live = bindings.live().sites.get(&id);
        Self {
            up: entry.up == 1,
            mss: (entry.v4.mss, entry.v6.mss),
            shown: live.map(|live| live.shown.clone()),
            path_mtu_bytes: live.and_then(|live| live.path_mtu_bytes(learnt)),
        }
    }

    /// Returns the state with the site's number and names.
    pub fn status(&self, id: TunnelId, (customer, site): (&CustomerName, &SiteName)) -> TunnelStatus {
        let shown = self.shown.as_ref();
        TunnelStatus {
            customer: customer.to_string(),
            site: site.to_string(),
            id: id.get(),
            up: self.up,
            peer: shown.and_then(|shown| shown.peer).map(|peer| peer.to_string()),
            cipher: shown.map(|shown| shown.cipher.clone()),
            encapsulated: shown.is_some_and(|shown| shown.encapsulated),
            mss: self.mss,
            path_mtu_bytes: self.path_mtu_bytes,
        }
    }
}

/// Returns the names of a site and its customer.
pub fn names<'a>(
    policy: &'a Policy,
    sites: &Sites,
    id: TunnelId,
) -> Option<(&'a CustomerName, &'a SiteName)> {
    let (customer, index) = &sites.rule(id)?.place;
    let customer = policy.customers.get(customer)?;
    Some((&customer.name, &customer.sites.get(*index)?.name))
}

/// Returns true if a site's CHILD_SAs negotiated more prefixes of one family than a map entry holds.
pub fn is_crowded(live: &LiveSite) -> bool {
    let v4 = live.prefixes.iter().filter(|(net, _)| net.addr().is_ipv4()).count();
    v4.max(live.prefixes.len() - v4) > PREFIXES_PER_SITE
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        control::bindings::CONNECTION,
        policy,
        registry::Registry,
        strongswan::{Algorithms, ChildSa, ChildState, IkeSa, IkeState, TrafficSelector},
    };

    const BERLIN: &str = "berlin.acme.example";

    /// Returns an IKE_SA from 198.51.100.`number` with one CHILD_SA, whose reqid and mark are that number.
    fn ike(number: u8, identity: &str, state: IkeState) -> IkeSa {
        let everything = vec![TrafficSelector::Net("0.0.0.0/0".parse().unwrap())];
        let cipher = format!("CIPHER_{number}");
        let child = ChildSa {
            name: CONNECTION.into(),
            unique_id: number.into(),
            reqid: number.into(),
            state: ChildState::Installed,
            spi_in: Some(number.into()),
            spi_out: Some(number.into()),
            mark_in: number.into(),
            mark_out: number.into(),
            encap: false,
            algorithms: Algorithms { encryption: Some(cipher), ..Algorithms::default() },
            bytes_in: 0,
            packets_in: 0,
            bytes_out: 0,
            packets_out: 0,
            local_ts: everything.clone(),
            remote_ts: everything,
        };
        IkeSa {
            name: CONNECTION.into(),
            unique_id: number.into(),
            state,
            local_host: "203.0.113.1".parse().unwrap(),
            local_port: 500,
            local_id: "gateway.example".into(),
            remote_host: [198, 51, 100, number].into(),
            remote_port: 500,
            remote_id: identity.into(),
            initiator: false,
            nat_local: false,
            nat_remote: false,
            algorithms: Algorithms::default(),
            established: None,
            children: vec![child],
        }
    }

    /// Returns peer and cipher of berlin while charon has these SAs.
    fn shown(sas: &[IkeSa]) -> (Option<String>, Option<String>) {
        let state = tempfile::tempdir().unwrap();
        let policy = policy::load(Path::new("../policies")).unwrap();
        let ids = Registry::open(state.path().join("ids.toml")).unwrap().assign(&policy).unwrap();
        let mut bindings = Bindings::new(Sites::new(&policy, &ids));
        bindings.audit(sas);
        let id = bindings.sites().by_identity(BERLIN).unwrap();
        let names = names(&policy, bindings.sites(), id).unwrap();
        let status = SiteState::of(id, &bindings, &BTreeMap::new(), &Tunnel::default()).status(id, names);
        assert_eq!((&*status.customer, &*status.site, status.id), ("acme", "berlin", id.get()));
        (status.peer, status.cipher)
    }

    #[test]
    fn peer_and_cipher_are_those_of_the_authenticated_identity_only() {
        let own = (Some("198.51.100.1:500".to_owned()), Some("CIPHER_1".to_owned()));
        let site = ike(1, BERLIN, IkeState::Established);
        assert_eq!(shown(std::slice::from_ref(&site)), own);
        // Later and with larger marks: one only claims to be the site, one has another identity, one another connection.
        let claim = ike(2, BERLIN, IkeState::Connecting);
        let stranger = ike(3, "stranger.example", IkeState::Established);
        let foreign = IkeSa { name: "theirs".into(), ..ike(4, BERLIN, IkeState::Established) };
        let strangers = [claim, stranger, foreign];
        assert_eq!(shown(&strangers), (None, None));
        assert_eq!(shown(&[&strangers[..], &[site]].concat()), own);
    }
}
