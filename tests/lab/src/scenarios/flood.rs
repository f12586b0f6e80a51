//! Scenarios under a flood of IKE from strangers.
use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ::gateway::kernel::{clock::monotonic_ns, cookies, pins::Pins};
use anyhow::{Context, Result, anyhow, ensure};
use gateway_common::{outer::cookie::Demand, wire::Ipv6};
use gateway_tests_kit::{
    bpf::Driver,
    cpu,
    frame::{ike, ike_request, spoof},
    packet::{Ethernet, Ip},
    process::{output, wait_for},
    raw::{packet_socket, put_if_room},
};

use super::tunnels::{PATIENCE, Trigger, child_by_gateway, child_by_site, ike_by_site, refused_in_rekey};
use crate::{
    gateway::PINS,
    lab::Lab,
    scenario::Scenario,
    site::SITES,
    topology::{GATEWAY, GATEWAY_MAC, INTERNET_HOST, INTERNET_MAC, seen_address},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "rekeys_succeed_while_a_million_sources_send_ike", run: rekeys_under_flood },
    Scenario { name: "new_sites_connect_while_a_million_sources_send_ike", run: new_sites_under_flood },
];

const SOURCES: u32 = 1_000_000;
/// The first octet of all spoofed sources.
const NETWORK: u32 = 16;
/// Packets sent in one go: less than half of a veth's ring (VETH_RING_SIZE of drivers/net/veth.c). The pause
/// after it gives the emulated machine's other processor its turn, so that only the gateway drops packets.
const BURST: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);
/// Longest duration of the flood: on a busy machine not all sources get their turn.
const LONGEST: Duration = Duration::from_secs(120);
/// How much longer than the slowest site in calm a site may take to connect.
const DELAY: Duration = Duration::from_secs(2);

/// Both ends rekey IKE_SAs and CHILD_SAs, again and again, while a million spoofed addresses send one
/// IKE_SA_INIT each.
fn rekeys_under_flood(lab: &mut Lab) -> Result<()> {
    let before = counts(lab)?;
    let sent = under_flood(lab, |lab, is_over| {
        rekey_all(lab)?;
        while !is_over() {
            rekey_all(lab)?;
        }
        Ok(())
    })?;
    let asked = counts(lab)?.asked - before.asked;
    ensure!(asked > u64::from(sent) / 2, "only {asked} of {sent} requests were answered");
    Ok(())
}

/// Each site goes away, until the gateway has forgotten its address, and connects anew, at most 2 s slower than the
/// slowest in calm. charon sees spoofed requests until the flood is noticed, and none from then on.
fn new_sites_under_flood(lab: &mut Lab) -> Result<()> {
    // A flood before this one: the answers of the gateway's XDP program get lost without a program at the other end.
    wait_for("the gateway to ask for no cookie", PATIENCE, || Ok((!counts(lab)?.in_demand).then_some(())))?;
    let mut calm = Vec::new();
    for index in 0..SITES.len() {
        calm.push(connect_anew(lab, index)?);
    }
    let before = counts(lab)?;
    let spoofed_before = spoofed_seen(lab)?;
    let start = Instant::now();
    let mut flooded = Vec::new();
    let sent = under_flood(lab, |lab, _| {
        wait_for("the gateway to ask for cookies", PATIENCE, || Ok(counts(lab)?.in_demand.then_some(())))?;
        for index in 0..SITES.len() {
            flooded.push(connect_anew(lab, index)?);
        }
        Ok(())
    })?;
    let after = counts(lab)?;
    let (asked, proved) = (after.asked - before.asked, after.proved - before.proved);
    let spoofed = spoofed_seen(lab)? - spoofed_before;
    println!(
        "{sent} requests, {asked} answered with a cookie; {spoofed} seen by charon; {proved} cookies shown"
    );
    println!("in calm: {calm:?}; in the flood: {flooded:?}");
    let limit = calm.iter().max().copied().unwrap_or_default() + DELAY;
    for (site, took) in SITES.iter().zip(&flooded) {
        ensure!(*took <= limit, "{} took {took:?}, more than {limit:?}", site.full_name());
    }
    ensure!(proved >= SITES.len() as u64, "only {proved} sites have shown a cookie");
    ensure!(after.asked_by_charon == before.asked_by_charon, "charon asks for cookies of its own");
    // A processor notices the flood anew after 10 s without it.
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let times = 1 + start.elapsed().as_nanos() as u64 / Demand::CALMING_DOWN_NS;
    let most = cpus * times * u64::from(Demand::CALM.burst);
    ensure!(spoofed <= most, "charon saw {spoofed} spoofed requests, more than {most}");
    Ok(())
}

/// Takes a site's tunnel down, waits until the site is a stranger, and returns how long it takes to connect.
fn connect_anew(lab: &Lab, index: usize) -> Result<Duration> {
    let site = lab.sites()[index];
    let peer = Ipv6::from(seen_address(site.spec));
    site.terminate()?;
    lab.wait_for_maps("the gateway to forget the peer", |maps| !maps.peers.contains(&peer))?;
    let start = Instant::now();
    site.initiate()?;
    Ok(start.elapsed())
}

/// Counts the spoofed requests in charon's log.
fn spoofed_seen(lab: &Lab) -> Result<u64> {
    let line = format!("received packet: from {NETWORK}.");
    Ok(lab.gateway().charon().log()?.lines().filter(|logged| logged.contains(&line)).count() as u64)
}

fn counts(lab: &Lab) -> Result<cookies::Counts> {
    lab.topology.gateway.enter(|| cookies::Cookies::open(&Pins::new(PINS))?.counts(monotonic_ns()))
}

/// Does some work while a million spoofed addresses send one IKE_SA_INIT each, and returns how many have sent one
/// when it is done.
fn under_flood(lab: &mut Lab, work: impl FnOnce(&mut Lab, &dyn Fn() -> bool) -> Result<()>) -> Result<u32> {
    // Otherwise the router would send ICMP errors about the answers.
    let mut blackhole = lab.topology.internet.command("ip");
    output(blackhole.args(["route", "replace", "blackhole", &format!("{NETWORK}.0.0.0/8")]))?;
    // veth sends back only to a peer with an XDP program (docs/facts.md: veth-sends-back-to-xdp).
    let _receiver = lab.topology.internet.enter(|| Driver::pass()?.attach("gateway"))?;
    let wire = packet_socket(&lab.topology.internet, "gateway")?;
    let ended = AtomicBool::new(false);
    let (worked, flooded) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&wire, &ended));
        let worked = work(lab, &|| flood.is_finished());
        ended.store(true, Ordering::Relaxed);
        (worked, flood.join())
    });
    worked?;
    flooded.map_err(|_| anyhow!("the flood panicked"))?.context("flood")
}

fn rekey_all(lab: &mut Lab) -> Result<()> {
    let rekeys: [(&str, Trigger); 4] = [
        ("berlin", ike_by_site),
        ("berlin", child_by_gateway),
        ("austin", child_by_site),
        ("london", child_by_gateway),
    ];
    for (name, trigger) in rekeys {
        let refused = refused_in_rekey(lab, name, trigger)?;
        ensure!(refused.by_gateway.is_empty(), "{name}: refused: {refused:?}");
    }
    Ok(())
}

/// Sends one packet from each source, or fewer if `ended` is set before, and returns how many.
fn flood(wire: &OwnedFd, ended: &AtomicBool) -> Result<u32> {
    const APART: u32 = 16;
    const SPI: u64 = 0x5a5a_5a5a_5a5a_5a5a;
    const IKE_SA_INIT: u8 = 34;
    const SECURITY_ASSOCIATION: u8 = 33;
    let ip = Ip { id: 0, df: true, ..Ip::new(INTERNET_HOST.into(), GATEWAY.into()) };
    let request = ike_request(SPI, IKE_SA_INIT, SECURITY_ASSOCIATION, &[0x55; 250]);
    let mut frame = Ethernet::new(INTERNET_MAC, GATEWAY_MAC).around(&ike(&ip, &request)?);
    // A frame is received on the CPU that sends it (drivers/net/veth.c), and each CPU finds out about the flood by itself.
    let cpus = cpu::allowed()?;
    let mut turns = cpus.iter().cycle();
    let start = Instant::now();
    for number in 0..SOURCES {
        if ended.load(Ordering::Relaxed) || start.elapsed() > LONGEST {
            return Ok(number);
        }
        spoof(&mut frame, Ipv4Addr::from((NETWORK << 24) + number * APART));
        // Retry while the link's queue is full.
        while !put_if_room(wire, &frame)? {
            thread::sleep(PAUSE);
        }
        if number % BURST == 0 {
            thread::sleep(PAUSE);
            turns.next().map_or(Ok(()), |cpu| cpu::on_cpu(*cpu))?;
        }
    }
    Ok(SOURCES)
}
