//! `lab run`: the lab as a demonstration that can fail.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests_kit::interrupt::Interrupt;

use crate::{
    attack::judge,
    attacks,
    charon::Sa,
    device,
    gateway::{PINS, Programs},
    lab::{Lab, in_parallel},
    report::Report,
    server::Request,
    site::{SITES, Spec},
    topology::customers,
};

/// Leaks shown for one attack; the rest is counted.
const SHOWN_DETAILS: usize = 3;

/// The action after the demonstration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Take the lab down.
    End,
    /// Open a shell on the gateway.
    Shell,
    /// Wait for Ctrl-C.
    Stay,
}

/// Brings the lab up and shows tunnels, requests and attacks. Returns true if everything held.
pub fn run(programs: Programs, then: Then, interrupt: &Interrupt) -> Result<bool> {
    let report = Report::new();
    report.section("Bringing the lab up");
    let lab = Lab::up(programs)?;
    report.note(format!(
        "{} customers, {} sites and one cloud gateway, in network namespaces gwlab-*",
        customers().count(),
        SITES.len()
    ));

    report.section("Tunnels");
    show_tunnels(&report, &lab.initiate_all()?);

    report.section("Requests");
    let mut held = show_requests(&report, &lab)?;

    report.section("Attacks");
    report.head(&[(&"attack", 52), (&"expected refusal", 38), (&"packets", 0)]);
    let (mut tried, mut failed) = (0, 0);
    let mut drops = lab.drops()?;
    for attack in attacks::all() {
        let outcome = judge(attack, &lab, &mut drops)?;
        report.check(outcome.held, &[(&attack.title, 52), (&attack.expected, 38), (&outcome.seen, 0)]);
        for detail in outcome.details.iter().take(SHOWN_DETAILS) {
            report.note(format!("  {detail}"));
        }
        if let Some(more @ 1..) = outcome.details.len().checked_sub(SHOWN_DETAILS) {
            report.note(format!("  and {more} more"));
        }
        tried += 1;
        failed += u32::from(!outcome.held);
    }
    held &= failed == 0;
    report.verdict(held, &format!("{} of {tried} attacks refused as expected", tried - failed));

    match then {
        Then::End => {}
        Then::Shell => shell(&report, &lab)?,
        Then::Stay => {
            report.note("The lab stays up until Ctrl-C.");
            interrupt.wait()?;
        }
    }
    Ok(held)
}

fn show_tunnels(report: &Report, tunnels: &[Sa]) {
    report.head(&[(&"customer", 9), (&"site", 12), (&"reqid", 9), (&"peer", 18), (&"cipher", 0)]);
    for (site, sa) in SITES.iter().zip(tunnels) {
        let encapsulation = if sa.encapsulated { ", in UDP (behind NAT)" } else { "" };
        let cipher = format!("{}{encapsulation}", sa.cipher);
        let columns: [(&dyn std::fmt::Display, usize); 5] =
            [(&site.customer, 9), (&site.name, 12), (&sa.reqid, 9), (&sa.remote_host, 18), (&cipher, 0)];
        report.check(true, &columns);
    }
}

/// Has every device report with curl and shows the requests that the servers received.
fn show_requests(report: &Report, lab: &Lab) -> Result<bool> {
    let start = lab.requests.count();
    let sent = in_parallel(lab.sites(), |site| {
        let mut ends = site.spec.ends().into_iter();
        ends.try_for_each(|ends| device::report_date(site.device, site.spec, ends.server).map(drop))
    });
    let expected = SITES.iter().map(|site| site.ends().len()).sum();
    for request in lab.requests.wait_since(start, expected, Duration::from_secs(2)) {
        let site =
            SITES.iter().find(|site| came_from(site, &request)).map_or("unknown site", |site| site.name);
        let from = request.from.map(|address| address.to_string()).unwrap_or_default();
        let server = format!("{} server", request.customer);
        let line = format!("{} {}", request.method, request.url);
        let known = site != "unknown site";
        report
            .check(known, &[(&server, 15), (&"<-", 2), (&from, 17), (&format!("({site})"), 13), (&line, 0)]);
    }
    if let Err(error) = &sent {
        report.check(false, &[(&format!("{error:#}"), 0)]);
    }
    Ok(sent.is_ok())
}

fn came_from(site: &Spec, request: &Request) -> bool {
    site.customer == request.customer && site.ends().iter().any(|ends| request.from == Some(ends.device))
}

fn shell(report: &Report, lab: &Lab) -> Result<()> {
    report.section("Shell on the gateway; exit to take the lab down. Try:");
    for command in [
        format!("bpftool map dump pinned {PINS}/TUNNELS"),
        "ip xfrm state".to_owned(),
        "swanctl -l".to_owned(),
        "tail /run/gatewayd.log /run/charon.log".to_owned(),
        "gatewayctl status; gatewayctl flows; gatewayctl drops".to_owned(),
        "ip netns exec gwlab-acme-berlin-device curl http://10.200.0.11/hello".to_owned(),
    ] {
        report.note(command);
    }
    let status = lab.gateway().shell(&lab.topology.gateway).status().context("cannot start the shell")?;
    ensure!(status.code().is_some(), "the shell was killed");
    Ok(())
}
