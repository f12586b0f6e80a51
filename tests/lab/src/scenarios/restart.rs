//! Scenarios of restarts: charon and gatewayd die and restart in any order. The state in the end is the same,
//! and no verdict in between is wrong.
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gateway_common::reason::Reason;
use gateway_tests_kit::{namespace::Namespace, process::wait_for};

use super::tunnels::{MARGIN, PATIENCE, requests_arrive, tunnels_come_up};
use crate::{
    conversation::Conversation,
    device::Connection,
    frame::{Packet, send_packets},
    gateway::{PINS, increase},
    lab::{Lab, in_parallel},
    scenario::Scenario,
    site::SITES,
    topology::customers,
    traffic::Traffic,
    watch::Watch,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "charon_restart_ends_in_the_same_state", run: charon_restart },
    Scenario { name: "restart_of_charon_then_gatewayd_ends_in_the_same_state", run: charon_then_gatewayd },
    Scenario { name: "restart_of_gatewayd_then_charon_ends_in_the_same_state", run: gatewayd_then_charon },
    Scenario { name: "detached_gateway_forwards_nothing", run: detached_gateway_forwards_nothing },
];

/// The only reasons for drops while charon and the tunnels come back. The gateway itself sends ICMP errors in
/// answer to ESP in UDP until charon has opened its socket. The former charon's SAs are nobody's before they are removed.
const BETWEEN_TUNNELS: [Reason; 4] = [
    Reason::TunnelDown,
    Reason::UnknownTunnel,
    Reason::PlaintextToInternet,
    Reason::GatewayTrafficNotAllowed,
];
/// Requests of each site that prove that its traffic continues.
const REQUESTS: usize = 10;
/// Packets in each direction that prove that a customer's packets pass.
const PACKETS: u64 = 10;
/// Time between two packets of each sender.
const INTERVAL: Duration = Duration::from_millis(10);

/// charon dies, and the new one has no SAs: traffic continues until gatewayd learns that there are no
/// tunnels, and resumes once the sites have brought up new ones.
fn charon_restart(lab: &mut Lab) -> Result<()> {
    same_state_after(lab, |lab| {
        lab.kill_charon()?;
        traffic_continues(lab)?;
        lab.start_charon()
    })
}

fn charon_then_gatewayd(lab: &mut Lab) -> Result<()> {
    same_state_after(lab, |lab| {
        lab.kill_daemon()?;
        lab.kill_charon()?;
        traffic_continues(lab)?;
        lab.start_charon()?;
        traffic_continues(lab)?;
        lab.start_daemon()
    })
}

fn gatewayd_then_charon(lab: &mut Lab) -> Result<()> {
    same_state_after(lab, |lab| {
        lab.kill_charon()?;
        lab.kill_daemon()?;
        traffic_continues(lab)?;
        lab.spawn_daemon()?;
        lab.wait_for_status("gatewayd without charon", |status| status.charon.is_none())?;
        traffic_continues(lab)?;
        lab.start_charon()?;
        lab.wait_until_ready()
    })
}

/// Waits for further requests of every site that is not behind NAT. Its tunnels are still up; a site behind
/// NAT has to wait for charon, since the kernel decapsulates ESP in UDP on charon's socket.
fn traffic_continues(lab: &Lab) -> Result<()> {
    let before = lab.requests.count();
    wait_for("requests of every site that is not behind NAT", PATIENCE, || {
        let received = lab.requests.since(before);
        let mut sites = SITES.iter().filter(|site| !site.behind_nat);
        let all = sites.all(|site| {
            let own = format!("/{}/", site.full_name());
            received.iter().filter(|request| request.url.contains(&own)).count() >= REQUESTS
        });
        Ok(all.then_some(()))
    })
}

/// Runs `restart`, which leaves charon without tunnels, and has the sites reconnect, under traffic of all
/// sites. Each request must be answered by its own customer's server, no packet may go astray, and none may
/// be dropped for an unrelated reason.
fn same_state_after(lab: &mut Lab, restart: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let ids = |lab: &Lab| -> Result<Vec<_>> {
        lab.wait_for_tunnels()?;
        SITES.iter().map(|site| lab.site_number(site)).collect()
    };
    let (ids_before, drops_before) = (ids(lab)?, lab.drops()?);
    let watch = Watch::start(lab)?;
    let traffic = SITES.iter().map(|site| Traffic::start(lab, site.name)).collect::<Result<Vec<_>>>()?;
    thread::sleep(MARGIN);
    let done = restart(lab).and_then(|()| reconnect_sites(lab));
    thread::sleep(MARGIN);
    let answered: Vec<_> = traffic.into_iter().map(|one| one.stop_requests(lab)).collect();
    let astray = watch.astray()?;
    let dropped = increase(&drops_before, &lab.drops()?);
    done.with_context(|| format!("dropped meanwhile: {dropped:?}"))?;
    for requests in answered {
        let requests = requests.with_context(|| format!("dropped meanwhile: {dropped:?}"))?;
        ensure!(requests > 0, "nothing was sent");
    }
    ensure!(astray.is_empty(), "went astray: {astray:?}");
    let wrong = dropped.keys().find(|(_, reason)| BETWEEN_TUNNELS.iter().all(|right| right.name() != reason));
    ensure!(wrong.is_none(), "dropped: {dropped:?}");
    ensure!(ids(lab)? == ids_before, "the sites' numbers changed");
    tunnels_come_up(lab)?;
    requests_arrive(lab)
}

/// Has the sites bring up new tunnels. Their dead peer detection would do so after 44 s; the lab does not
/// wait for it.
fn reconnect_sites(lab: &Lab) -> Result<()> {
    lab.wait_for_status("gatewayd to see the new charon without tunnels", |status| {
        status.charon.is_some() && status.failed.is_empty() && status.tunnels.iter().all(|tunnel| !tunnel.up)
    })?;
    in_parallel(lab.sites(), |site| {
        site.terminate()?;
        site.initiate()
    })?;
    lab.wait_for_tunnels().map(drop)
}

/// Runs `gatewayctl detach` under traffic, while gatewayd runs. A gatewayd that is started afterwards
/// attaches everything again.
fn detached_gateway_forwards_nothing(lab: &mut Lab) -> Result<()> {
    let attached = lab.attached()?;
    ensure!(attached.len() == 5, "expected 5 attached programs, got {attached:?}");
    let held = under_packets(lab, |lab| {
        let watch = Watch::start(lab)?;
        lab.gateway().detach(&lab.topology.gateway)?;
        // Packets in flight may still arrive.
        let astray = watch.astray()?;
        ensure!(astray.is_empty(), "went astray: {astray:?}");
        let watch = Watch::start(lab)?;
        thread::sleep(MARGIN);
        // The running gatewayd must not attach the programs again.
        lab.gateway().reload()?;
        lab.wait_for_status("gatewayd to report that it is detached", |status| {
            status.failed.iter().any(|line| line.starts_with("detached"))
        })?;
        thread::sleep(MARGIN);
        let leaks = watch.leaks()?;
        ensure!(leaks.is_empty(), "{} packets passed after detaching: {:?}", leaks.len(), leaks.first());
        is_detached(lab)
    });
    lab.kill_daemon()?;
    lab.start_daemon()?;
    held?;
    tunnels_come_up(lab)?;
    requests_arrive(lab)?;
    let again = lab.attached()?;
    ensure!(again.keys().eq(attached.keys()), "attached before: {attached:?}, now: {again:?}");
    Ok(())
}

fn is_detached(lab: &Lab) -> Result<()> {
    let left = lab.attached()?;
    ensure!(left.is_empty(), "still attached: {left:?}");
    lab.topology.gateway.enter(|| {
        // The directory stays while gatewayd holds its lock on it. The kernel itself may have put `maps.debug` and
        // `progs.debug` there (kernel/bpf/inode.c).
        let pins = fs::read_dir(PINS)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let left = pins.iter().find(|pin| pin.extension().is_none_or(|extension| extension != "debug"));
        ensure!(left.is_none(), "still there: {left:?}");
        for scope in ["ipv4/conf/eth_internet", "ipv4/conf/eth_lan", "ipv6/conf/all"] {
            let path = format!("/proc/sys/net/{scope}/forwarding");
            let forwarding = fs::read_to_string(&path)?;
            ensure!(forwarding.trim() == "0", "{path} is {forwarding}");
        }
        Ok(())
    })
}

/// Runs `work` while both ends of open connections send packets all the time, which pass before `work`.
/// Resets the connections in the end, so that none of their packets arrives later.
fn under_packets(lab: &Lab, work: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let sites = lab.sites().into_iter();
    let conversations = sites
        .flat_map(|site| site.spec.ends().into_iter().map(move |ends| (site, ends.server)))
        .map(|(site, server)| Ok((site, Conversation::open(site, server)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut senders: Vec<(&Namespace, &Packet)> = Vec::new();
    for (site, conversation) in &conversations {
        senders.push((site.device, &conversation.from_device));
        senders.push((lab.topology.server(site.spec.customer)?, &conversation.from_server));
    }
    let stop = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        for (namespace, packet) in &senders {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    send_packets(namespace, std::slice::from_ref(*packet))
                        .expect("sending through a packet socket works");
                    thread::sleep(INTERVAL);
                }
            });
        }
        let done = packets_pass(lab).and_then(|()| work(lab));
        stop.store(true, Ordering::Relaxed);
        done
    });
    let mut ends = conversations.into_iter().map(|(_, conversation)| conversation.connection);
    ends.try_for_each(Connection::reset)?;
    done
}

/// Waits until packets of every customer have passed in both directions.
fn packets_pass(lab: &Lab) -> Result<()> {
    let count = || -> Result<Vec<_>> {
        customers().map(|(customer, _)| lab.gateway().passed(&lab.topology.gateway, customer)).collect()
    };
    let before = count()?;
    wait_for("packets of every customer to pass in both directions", PATIENCE, || {
        let now = count()?;
        let mut grown = before.iter().zip(&now).map(|(before, now)| (now.0 - before.0, now.1 - before.1));
        Ok(grown.all(|grown| grown.0 >= PACKETS && grown.1 >= PACKETS).then_some(()))
    })
}
