//! Follows charon's SAs: which CHILD_SA, by reqid and mark, belongs to which site. Pure: takes charon's reports and
//! returns orders.
//!
//! charon gives a released reqid to the next CHILD_SA, whoever's it is, but counts marks up
//! (docs/facts.md: reqids-are-recycled). So of two CHILD_SAs that claim a reqid the one with the larger mark counts, in
//! whatever order the reports come, and a late report binds nothing to a wrong site: the mark would not fit.
mod book;
mod quote;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::SocketAddr,
};

use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{OutboundSpi, map_list::TUNNELS_PER_SITE},
    wire::Ipv6,
};
use ipnet::IpNet;

use self::quote::quoted;
use crate::{
    control::{
        live::{Live, Touched},
        mss::Encapsulation,
        sites::Sites,
    },
    strongswan::{ChildSa, Event, EventKind, IkeSa, IkeState, TrafficSelector},
};

/// CHILD_SAs beyond those of a site that end alone. More end the IKE_SA: a peer need not answer a DELETE, and a CHILD_SA
/// keeps its reqid until charon gives up (165 s). The end of an IKE_SA frees the reqids at once.
const SURPLUS: u32 = 8;
/// Name of the one connection in charon, and of its child.
pub const CONNECTION: &str = "sites";

/// An order to charon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// End an IKE_SA with its children.
    TerminateIke {
        /// charon's number of the IKE_SA.
        unique_id: u32,
        /// The reason, for the log.
        reason: String,
    },
    /// End one CHILD_SA.
    TerminateChild {
        /// charon's number of the CHILD_SA.
        unique_id: u32,
        /// The reason, for the log.
        reason: String,
    },
    /// List this IKE_SA: a report about it lacked something.
    Look(u32),
}

/// charon's SAs as far as they belong to sites.
#[derive(Clone, Default, Debug)]
pub struct Bindings {
    sites: Sites,
    /// IKE_SAs of sites by charon's number.
    ikes: HashMap<u32, Ike>,
    /// SAs by charon's number of the CHILD_SA.
    sas: HashMap<u32, Sa>,
    /// CHILD_SAs through their rekeyings, by mark.
    tunnels: HashMap<Mark, Tunnel>,
    /// Marks by reqid: one, but for late reports.
    reqids: HashMap<Reqid, BTreeSet<Mark>>,
    of_sites: HashMap<TunnelId, OfSite>,
    /// The SAs that have an SPI. One whose CHILD_SAs differ identifies none: two peers behind one NAT may choose the
    /// same outbound SPI, and two of the gateway's addresses may have the same inbound one.
    inbound: HashMap<u32, BTreeSet<u32>>,
    outbound: HashMap<OutboundSpi, BTreeSet<u32>>,
    /// Numbers of sites that have an outer address.
    peers: HashMap<Ipv6, u32>,
    live: Live,
    touched: Touched,
    strangers: BTreeMap<Refused, String>,
    /// CHILD_SAs beyond those of its site, by charon's number of the IKE_SA, since the last list.
    surplus: HashMap<u32, u32>,
    refused: u64,
}

/// A refused SA.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Refused {
    Ike(u32),
    Child(u32),
}

#[derive(Clone, Debug)]
struct Ike {
    site: TunnelId,
    identity: String,
    peer: SocketAddr,
    sas: BTreeSet<u32>,
}

/// One SA of a CHILD_SA: a rekeying adds another one.
#[derive(Clone, Debug)]
struct Sa {
    ike: u32,
    mark: Mark,
    /// True if it encrypts; false if it only decrypts what is late.
    up: bool,
    spi_in: Option<u32>,
    spi_out: Option<u32>,
    encapsulation: Encapsulation,
    cipher: String,
}

#[derive(Clone, Debug)]
struct Tunnel {
    site: TunnelId,
    reqid: Reqid,
    selectors: (Vec<TrafficSelector>, Vec<TrafficSelector>),
    lan: Vec<IpNet>,
    sas: BTreeSet<u32>,
}

#[derive(Clone, Default, Debug)]
struct OfSite {
    ikes: BTreeSet<u32>,
    marks: BTreeSet<Mark>,
    peers: BTreeSet<Ipv6>,
}

impl Bindings {
    /// Follows the SAs of these sites. None is known yet.
    pub fn new(sites: Sites) -> Self {
        Self { sites, ..Self::default() }
    }

    /// Returns what follows for the maps.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Returns the sites.
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// Returns the keys touched since the last call.
    pub fn take_touched(&mut self) -> Touched {
        mem::take(&mut self.touched)
    }

    /// Returns the number of SAs refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns descriptions of refused SAs that charon still has.
    pub fn strangers(&self) -> impl Iterator<Item = &str> {
        self.strangers.values().map(String::as_str)
    }

    /// Forgets all SAs, as those of a charon that is gone.
    pub fn clear(&mut self) {
        *self = Self { sites: mem::take(&mut self.sites), refused: self.refused, ..Self::default() };
    }

    /// Replaces the sites. Unbinds at once what does not belong to its site any more.
    pub fn set_sites(&mut self, sites: Sites) -> Vec<Order> {
        self.sites = sites;
        let mut orders = Vec::new();
        let moved = |(_, ike): &(&u32, &Ike)| self.sites.by_identity(&ike.identity) != Some(ike.site);
        let moved: Vec<u32> = self.ikes.iter().filter(moved).map(|(id, _)| *id).collect();
        for unique_id in moved {
            self.forget_ike(unique_id);
            let reason = "its identity is no longer that of the site".to_owned();
            orders.push(Order::TerminateIke { unique_id, reason });
        }
        for mark in self.tunnels.keys().copied().collect::<Vec<_>>() {
            let Some(tunnel) = self.tunnels.get_mut(&mark) else { continue };
            let rule = self.sites.rule(tunnel.site);
            tunnel.lan = rule.map_or_else(Vec::new, |rule| {
                let (local, remote) = &tunnel.selectors;
                rule.negotiated(local, remote)
            });
            let (site, empty) = (tunnel.site, tunnel.lan.is_empty());
            for child in tunnel.sas.clone().into_iter().filter(|_| empty) {
                self.forget_child(child);
                let reason = "its traffic selectors do not overlap the policy any more".to_owned();
                orders.push(Order::TerminateChild { unique_id: child, reason });
            }
            self.refresh_site(site);
        }
        orders
    }

    /// Takes an event, in a time independent of the number of sites.
    pub fn apply(&mut self, event: &Event) -> Vec<Order> {
        let mut orders = Vec::new();
        match event.kind {
            EventKind::IkeDown => event.unique_id.into_iter().for_each(|ike| self.forget_ike(ike)),
            EventKind::ChildDown => {
                event.children.iter().for_each(|child| self.forget_child(child.unique_id))
            }
            EventKind::IkeUp | EventKind::IkeUpdate | EventKind::ChildUp | EventKind::ChildRekey => {
                self.learn(event, &mut orders);
            }
            EventKind::IkeRekey => {
                if let (Some(old), Some(new)) = (event.replaced, event.unique_id) {
                    self.move_ike(old, new);
                }
                self.learn(event, &mut orders);
            }
        }
        orders
    }

    /// Takes the state of the IKE_SA of this number, as charon listed it: in a list of one, or of none.
    pub fn look(&mut self, unique_id: u32, list: &[IkeSa]) -> Vec<Order> {
        let mut orders = Vec::new();
        let Some(ike) = list.iter().find(|ike| ike.unique_id == unique_id) else {
            self.forget_ike(unique_id);
            return orders;
        };
        if self.learn_ike(ike, &mut orders) {
            for child in &ike.children {
                self.learn_child(ike, child, &mut orders);
            }
        }
        orders
    }

    /// Takes the list of all SAs in place of everything known before. If a site has more CHILD_SAs
    /// than it may have, the oldest ones stay: those with the smallest marks.
    pub fn audit(&mut self, list: &[IkeSa]) -> Vec<Order> {
        let before = mem::take(self);
        *self = Self { sites: before.sites, refused: before.refused, ..Self::default() };
        let mut orders = Vec::new();
        let known: Vec<&IkeSa> = list.iter().filter(|ike| self.learn_ike(ike, &mut orders)).collect();
        let mut children: Vec<(&IkeSa, &ChildSa)> =
            known.into_iter().flat_map(|ike| ike.children.iter().map(move |child| (ike, child))).collect();
        children.sort_by_key(|(_, child)| (child.mark_in, !child.state.is_up(), child.unique_id));
        for (ike, child) in children {
            self.learn_child(ike, child, &mut orders);
        }
        let known_before =
            self.strangers.keys().filter(|refused| before.strangers.contains_key(refused)).count();
        self.refused = self.refused.saturating_sub(known_before as u64);
        orders
    }

    /// Returns true if the list lacks an SA that is in use. While charon builds the list, it waits for an IKE_SA that is
    /// being rekeyed; its CHILD_SAs then move to a new IKE_SA at a position that the list has already passed (strongSwan,
    /// ike_rekey.c, `establish_new`).
    pub fn lacks(&self, list: &[IkeSa]) -> bool {
        let children = list.iter().flat_map(|ike| &ike.children).filter(|child| child.state.is_up());
        let listed: BTreeSet<u32> = children.map(|child| child.unique_id).collect();
        self.sas.iter().any(|(id, sa)| sa.up && !listed.contains(id))
    }

    fn learn(&mut self, event: &Event, orders: &mut Vec<Order>) {
        let Some(ike) = &event.sa else {
            orders.extend(event.unique_id.map(Order::Look));
            return;
        };
        if !self.learn_ike(ike, orders) {
            return;
        }
        match (event.kind, &event.children[..]) {
            (EventKind::ChildRekey, [old, new]) => {
                self.learn_child(ike, new, orders);
                self.retire(old.unique_id);
            }
            (EventKind::ChildRekey, _) => orders.push(Order::Look(ike.unique_id)),
            (EventKind::ChildUp, children) => {
                children.iter().for_each(|child| self.learn_child(ike, child, orders));
            }
            // The SAs are those known already, whatever state they are in while their addresses change.
            _ => {}
        }
    }

    /// Learns whose an IKE_SA is. Returns false if it is no site's, or not in use.
    fn learn_ike(&mut self, ike: &IkeSa, orders: &mut Vec<Order>) -> bool {
        // The identity of an unauthenticated IKE_SA is only a claim.
        if !ike.state.is_authenticated() {
            return false;
        }
        let unique_id = ike.unique_id;
        let site = self.sites.by_identity(&ike.remote_id).filter(|_| ike.name == CONNECTION);
        let Some(site) = site else {
            self.forget_ike(unique_id);
            let reason = match ike.name == CONNECTION {
                true => format!(
                    "the policy has no site with the identity {}, at {}",
                    quoted(&ike.remote_id),
                    ike.remote_host
                ),
                false => format!("the connection {} is not gatewayd's", quoted(&ike.name)),
            };
            self.refuse(Refused::Ike(unique_id), &reason);
            orders.push(Order::TerminateIke { unique_id, reason });
            return false;
        };
        if !matches!(ike.state, IkeState::Established | IkeState::Rekeying) {
            self.forget_ike(unique_id);
            return false;
        }
        let peer = SocketAddr::new(ike.remote_host, ike.remote_port);
        match self.ikes.get_mut(&unique_id) {
            Some(known) if known.site == site => {
                let before = mem::replace(&mut known.peer, peer);
                if before.ip() != peer.ip() {
                    self.move_outbound(unique_id, before.ip(), peer.ip());
                }
            }
            _ => {
                self.forget_ike(unique_id);
                let identity = ike.remote_id.clone();
                self.ikes.insert(unique_id, Ike { site, identity, peer, sas: BTreeSet::new() });
                self.of_sites.entry(site).or_default().ikes.insert(unique_id);
            }
        }
        self.refresh_peers(site);
        self.refresh_site(site);
        true
    }

    /// Learns the state of a CHILD_SA of a known IKE_SA.
    fn learn_child(&mut self, ike: &IkeSa, child: &ChildSa, orders: &mut Vec<Order>) {
        let Some(site) = self.ikes.get(&ike.unique_id).map(|ike| ike.site) else { return };
        let unique_id = child.unique_id;
        if child.spi_in.is_none() {
            match self.sas.get(&unique_id).cloned().filter(|sa| sa.up && child.state.is_up()) {
                // Its addresses are changing, and charon does not list its SPIs meanwhile.
                Some(sa) => self.put(unique_id, Sa { ike: ike.unique_id, ..sa }),
                None => self.forget_child(unique_id),
            }
            return;
        }
        if let Err(reason) = self.bind(site, ike, child) {
            self.forget_child(unique_id);
            if child.state.is_up() {
                let name = self.sites.rule(site).map_or("?", |rule| &rule.name);
                let reason = format!("{name}: {reason}");
                self.refuse(Refused::Child(unique_id), &reason);
                orders.push(self.end_child(ike.unique_id, unique_id, reason));
            }
        }
    }

    /// Returns the order that ends a refused CHILD_SA: alone, or with its IKE_SA if that has made too many.
    fn end_child(&mut self, ike: u32, child: u32, reason: String) -> Order {
        let surplus = self.surplus.entry(ike).or_default();
        *surplus += 1;
        if *surplus <= SURPLUS {
            return Order::TerminateChild { unique_id: child, reason };
        }
        self.forget_ike(ike);
        Order::TerminateIke { unique_id: ike, reason: format!("{reason}, again and again") }
    }

    /// Binds a CHILD_SA to the site of its IKE_SA, or returns the reason why not.
    fn bind(&mut self, site: TunnelId, ike: &IkeSa, child: &ChildSa) -> Result<(), String> {
        let marks = (child.mark_in, child.mark_out);
        let (Some(mark), true) = (Mark::new(marks.0), marks.0 == marks.1) else {
            return Err(format!("the marks are {:#x} in and {:#x} out", marks.0, marks.1));
        };
        let reqid = Reqid::new(child.reqid).ok_or("there is no reqid")?;
        if reqid.get() > self.sites.reqid_limit() {
            // charon gives the reqid that was released first, or a new one: see `REQIDS_PER_SITE`.
            return Err(format!("there are more CHILD_SAs than all sites together may have: reqid {reqid}"));
        }
        if self.sas.get(&child.unique_id).is_some_and(|known| known.mark != mark) {
            self.forget_child(child.unique_id);
        }
        if let Some(tunnel) = self.tunnels.get(&mark) {
            if (tunnel.site, tunnel.reqid) != (site, reqid) {
                return Err(format!("another CHILD_SA has its mark {mark}"));
            }
        } else {
            if !child.state.is_up() {
                return Ok(());
            }
            let rule = self.sites.rule(site).ok_or("the policy has no such site")?;
            let lan = rule.negotiated(&child.local_ts, &child.remote_ts);
            if lan.is_empty() {
                return Err("the traffic selectors do not overlap the policy".to_owned());
            }
            let of_site = self.of_sites.entry(site).or_default();
            if of_site.marks.len() >= TUNNELS_PER_SITE as usize {
                return Err(format!("the site has {TUNNELS_PER_SITE} CHILD_SAs already"));
            }
            of_site.marks.insert(mark);
            self.reqids.entry(reqid).or_default().insert(mark);
            let selectors = (child.local_ts.clone(), child.remote_ts.clone());
            self.tunnels.insert(mark, Tunnel { site, reqid, selectors, lan, sas: BTreeSet::new() });
        }
        let sa = Sa {
            ike: ike.unique_id,
            mark,
            up: child.state.is_up(),
            spi_in: child.spi_in,
            spi_out: child.spi_out,
            encapsulation: Encapsulation::of(ike.remote_host, child),
            cipher: child.algorithms.to_string(),
        };
        self.put(child.unique_id, sa);
        Ok(())
    }
}
