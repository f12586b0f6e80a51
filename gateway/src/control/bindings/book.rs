//! Keeps the indices of [`Bindings`] and what follows from them for the maps.
use std::{collections::BTreeSet, net::IpAddr};

use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{
        Binding, OutboundSpi,
        map_list::{PEERS_PER_TUNNEL, SPIS_PER_SITE, TUNNELS_PER_SITE},
    },
    wire::Ipv6,
};
use ipnet::IpNet;

use super::{Bindings, Ike, Refused, Sa, Tunnel};
use crate::control::live::{LiveSite, Shown};

/// SAs of one CHILD_SA that are followed at a time: a rekeying has two. Older ones only decrypt what is late, for
/// seconds, and an unknown SPI passes too.
const SAS_PER_TUNNEL: usize = (SPIS_PER_SITE / TUNNELS_PER_SITE) as usize;
/// Refused SAs that are named in the status.
const NAMED_STRANGERS: usize = 64;

impl Bindings {
    /// Adds an SA, or replaces what is known of it.
    pub(super) fn put(&mut self, child: u32, sa: Sa) {
        let (ike, mark) = (sa.ike, sa.mark);
        self.forget_spis(child);
        let before = self.sas.insert(child, sa);
        if let Some(before) = before.filter(|before| before.ike != ike)
            && let Some(before) = self.ikes.get_mut(&before.ike)
        {
            before.sas.remove(&child);
        }
        if let Some(ike) = self.ikes.get_mut(&ike) {
            ike.sas.insert(child);
        }
        if let Some(tunnel) = self.tunnels.get_mut(&mark) {
            tunnel.sas.insert(child);
        }
        self.add_spis(child);
        self.strangers.remove(&Refused::Child(child));
        self.forget_oldest(mark);
        self.refresh_tunnel(mark);
    }

    /// Records that a rekeying has replaced an SA: it still decrypts for some seconds.
    pub(super) fn retire(&mut self, child: u32) {
        let Some(sa) = self.sas.get_mut(&child) else { return };
        sa.up = false;
        let mark = sa.mark;
        self.refresh_tunnel(mark);
    }

    fn forget_oldest(&mut self, mark: Mark) {
        let Some(tunnel) = self.tunnels.get(&mark) else { return };
        let surplus = tunnel.sas.len().saturating_sub(SAS_PER_TUNNEL);
        for child in tunnel.sas.iter().copied().take(surplus).collect::<Vec<_>>() {
            self.forget_child(child);
        }
    }

    /// Forgets an IKE_SA with its SAs.
    pub(super) fn forget_ike(&mut self, unique_id: u32) {
        self.strangers.remove(&Refused::Ike(unique_id));
        self.surplus.remove(&unique_id);
        // The SAs first: the keys of their outbound SPIs hold the IKE_SA's address.
        for child in self.ikes.get(&unique_id).map(|ike| ike.sas.clone()).unwrap_or_default() {
            self.forget_child(child);
        }
        let Some(ike) = self.ikes.remove(&unique_id) else { return };
        if let Some(of_site) = self.of_sites.get_mut(&ike.site) {
            of_site.ikes.remove(&unique_id);
        }
        self.refresh_peers(ike.site);
        self.refresh_site(ike.site);
    }

    /// Records that a new IKE_SA has taken over the SAs of an old one.
    pub(super) fn move_ike(&mut self, old: u32, new: u32) {
        let Some(known) = self.ikes.get(&old).cloned() else { return };
        if old == new || self.ikes.get(&new).is_some_and(|ike| ike.site != known.site) {
            return;
        }
        let site = known.site;
        self.ikes.entry(new).or_insert_with(|| Ike { sas: BTreeSet::new(), ..known.clone() });
        self.of_sites.entry(site).or_default().ikes.insert(new);
        for child in known.sas {
            if let Some(sa) = self.sas.get(&child).cloned() {
                self.put(child, Sa { ike: new, ..sa });
            }
        }
        self.forget_ike(old);
    }

    /// Forgets an SA, and its CHILD_SA with the last SA that encrypts.
    pub(super) fn forget_child(&mut self, child: u32) {
        self.strangers.remove(&Refused::Child(child));
        self.forget_spis(child);
        let Some(sa) = self.sas.remove(&child) else { return };
        if let Some(ike) = self.ikes.get_mut(&sa.ike) {
            ike.sas.remove(&child);
        }
        if let Some(tunnel) = self.tunnels.get_mut(&sa.mark) {
            tunnel.sas.remove(&child);
        }
        self.refresh_tunnel(sa.mark);
    }

    pub(super) fn forget_spis(&mut self, child: u32) {
        let Some(sa) = self.sas.get(&child) else { return };
        let (spi_in, spi_out) = (sa.spi_in, self.outbound_spi(sa));
        if let Some(spi) = spi_in
            && let Some(owners) = self.inbound.get_mut(&spi)
        {
            owners.remove(&child);
            self.refresh_inbound(spi);
        }
        if let Some(spi) = spi_out
            && let Some(owners) = self.outbound.get_mut(&spi)
        {
            owners.remove(&child);
            self.refresh_outbound(spi);
        }
    }

    pub(super) fn add_spis(&mut self, child: u32) {
        let Some(sa) = self.sas.get(&child) else { return };
        let (spi_in, spi_out) = (sa.spi_in, self.outbound_spi(sa));
        if let Some(spi) = spi_in {
            self.inbound.entry(spi).or_default().insert(child);
            self.refresh_inbound(spi);
        }
        if let Some(spi) = spi_out {
            self.outbound.entry(spi).or_default().insert(child);
            self.refresh_outbound(spi);
        }
    }

    /// Returns the key of an SA's outbound SPI. The peer's address is that of its IKE_SA.
    fn outbound_spi(&self, sa: &Sa) -> Option<OutboundSpi> {
        Some(OutboundSpi { peer: self.ikes.get(&sa.ike)?.peer.ip().into(), spi: sa.spi_out? })
    }

    /// Moves the outbound SPIs of an IKE_SA to its peer's new address.
    pub(super) fn move_outbound(&mut self, ike: u32, from: IpAddr, to: IpAddr) {
        let Some(ike) = self.ikes.get(&ike) else { return };
        for child in ike.sas.clone() {
            let Some(sa) = self.sas.get_mut(&child) else { continue };
            sa.encapsulation.outer_v6 = to.is_ipv6();
            let Some(spi) = sa.spi_out else { continue };
            let [old, new] = [from, to].map(|peer| OutboundSpi { peer: peer.into(), spi });
            if let Some(owners) = self.outbound.get_mut(&old) {
                owners.remove(&child);
            }
            self.outbound.entry(new).or_default().insert(child);
            self.refresh_outbound(old);
            self.refresh_outbound(new);
        }
    }

    /// Names a refused SA in the status and counts it.
    pub(super) fn refuse(&mut self, refused: Refused, reason: &str) {
        if self.strangers.contains_key(&refused) {
            return;
        }
        self.refused += 1;
        if self.strangers.len() < NAMED_STRANGERS {
            self.strangers.insert(refused, reason.to_owned());
        }
    }

    fn refresh_inbound(&mut self, spi: u32) {
        self.touched.inbound.insert(spi);
        let marks = self.inbound.get(&spi).map(|owners| self.only_mark(owners.iter()));
        match marks {
            Some(Some(mark)) => self.live.inbound.insert(spi, mark),
            _ => self.live.inbound.remove(&spi),
        };
        if self.inbound.get(&spi).is_some_and(|owners| owners.is_empty()) {
            self.inbound.remove(&spi);
        }
    }

    fn refresh_outbound(&mut self, spi: OutboundSpi) {
        self.touched.outbound.insert(spi);
        let marks = self.outbound.get(&spi).map(|owners| self.only_mark(owners.iter()));
        match marks {
            Some(Some(mark)) => self.live.outbound.insert(spi, mark),
            _ => self.live.outbound.remove(&spi),
        };
        if self.outbound.get(&spi).is_some_and(|owners| owners.is_empty()) {
            self.outbound.remove(&spi);
        }
    }

    /// Returns the mark of these SAs if they all have the same.
    fn only_mark<'a>(&self, sas: impl Iterator<Item = &'a u32>) -> Option<Mark> {
        let mut marks = sas.filter_map(|child| self.sas.get(child)).map(|sa| sa.mark);
        let first = marks.next()?;
        marks.all(|mark| mark == first).then_some(first)
    }

    /// Removes a CHILD_SA without an SA that encrypts, and derives what follows for its reqid and its site.
    fn refresh_tunnel(&mut self, mark: Mark) {
        let Some(tunnel) = self.tunnels.get(&mark) else { return };
        let Tunnel { site, reqid, .. } = *tunnel;
        let is_up = |child: &u32| self.sas.get(child).is_some_and(|sa| sa.up);
        if !tunnel.sas.iter().any(is_up) {
            let left = self.tunnels.remove(&mark).map(|tunnel| tunnel.sas).unwrap_or_default();
            if let Some(of_site) = self.of_sites.get_mut(&site) {
                of_site.marks.remove(&mark);
            }
            if let Some(marks) = self.reqids.get_mut(&reqid) {
                marks.remove(&mark);
                if marks.is_empty() {
                    self.reqids.remove(&reqid);
                }
            }
            for child in left {
                self.forget_child(child);
            }
        }
        self.refresh_reqid(reqid);
        self.refresh_site(site);
    }

    /// Derives the binding of a reqid: the CHILD_SA with the largest mark has it.
    fn refresh_reqid(&mut self, reqid: Reqid) {
        self.touched.reqids.insert(reqid);
        let newest = self.reqids.get(&reqid).and_then(|marks| marks.last().copied());
        let bound = newest.and_then(|mark| Some((mark, self.tunnels.get(&mark)?)));
        let Some((mark, tunnel)) = bound else {
            self.live.bindings.remove(&reqid);
            return;
        };
        let mut inbound_spis = [0; 2];
        let known = tunnel.sas.iter().rev().filter_map(|child| self.sas.get(child)?.spi_in);
        inbound_spis.iter_mut().zip(known).for_each(|(slot, spi)| *slot = spi);
        let binding = Binding { site: tunnel.site.get(), mark: mark.get(), inbound_spis };
        let replaced = self.live.bindings.insert(reqid, binding);
        if replaced.is_none_or(|replaced| replaced.mark != mark.get()) {
            // A CHILD_SA that lost the reqid lost its prefixes, too; one that has it again has them again.
            for site in [replaced.map_or(0, |replaced| replaced.site), binding.site] {
                TunnelId::new(site).into_iter().for_each(|site| self.refresh_site(site));
            }
        }
    }

    /// Derives what follows for a site from its CHILD_SAs, the newest first.
    pub(super) fn refresh_site(&mut self, site: TunnelId) {
        self.touched.sites.insert(site);
        let Some(of_site) = self.of_sites.get(&site) else { return };
        let mut live = LiveSite::default();
        for mark in of_site.marks.iter().rev() {
            let Some(tunnel) = self.tunnels.get(mark) else { continue };
            if self.live.bindings.get(&tunnel.reqid).is_none_or(|bound| bound.mark != mark.get()) {
                continue;
            }
            let covered = |net: &IpNet| live.prefixes.iter().any(|(newer, _)| newer.contains(net));
            let new: Vec<_> =
                tunnel.lan.iter().filter(|net| !covered(net)).map(|net| (*net, *mark)).collect();
            live.prefixes.extend(new);
            for sa in tunnel.sas.iter().rev().filter_map(|child| self.sas.get(child)).filter(|sa| sa.up) {
                let Some(peer) = self.ikes.get(&sa.ike).map(|ike| ike.peer) else { continue };
                let path = (peer.ip(), sa.encapsulation);
                if !live.paths.contains(&path) {
                    live.paths.push(path);
                }
                if live.shown.peer.is_none() {
                    let (cipher, encapsulated) = (sa.cipher.clone(), sa.encapsulation.in_udp);
                    live.shown = Shown { peer: Some(peer), cipher, encapsulated };
                }
            }
        }
        match live.prefixes.is_empty() {
            true => self.live.sites.remove(&site),
            false => self.live.sites.insert(site, live),
        };
        if of_site.ikes.is_empty() && of_site.marks.is_empty() && of_site.peers.is_empty() {
            self.of_sites.remove(&site);
        }
    }

    /// Derives a site's outer addresses: those of its newest IKE_SAs. The limit keeps one site with a valid certificate
    /// from taking the map entries of others.
    pub(super) fn refresh_peers(&mut self, site: TunnelId) {
        let Some(of_site) = self.of_sites.get_mut(&site) else { return };
        let newest = of_site.ikes.iter().rev().filter_map(|ike| self.ikes.get(ike));
        let peers = newest.take(PEERS_PER_TUNNEL as usize).map(|ike| Ipv6::from(ike.peer.ip())).collect();
        let before = std::mem::replace(&mut of_site.peers, peers);
        let (gone, new): (Vec<_>, Vec<_>) = (
            before.difference(&of_site.peers).copied().collect(),
            of_site.peers.difference(&before).copied().collect(),
        );
        for peer in new {
            *self.peers.entry(peer).or_default() += 1;
            self.live.peers.insert(peer);
            self.touched.peers.insert(peer);
        }
        for peer in gone {
            let sites = self.peers.entry(peer).or_default();
            *sites = sites.saturating_sub(1);
            if *sites == 0 {
                self.peers.remove(&peer);
                self.live.peers.remove(&peer);
                self.touched.peers.insert(peer);
            }
        }
    }
}
