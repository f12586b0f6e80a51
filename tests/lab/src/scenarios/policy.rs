//! Scenarios of policy changes under traffic: a valid policy takes effect, a faulty one changes nothing.
use std::{collections::BTreeMap, thread, time::Instant};

use ::gateway::{control::observed::Observed, status::Status};
use anyhow::{Context, Result, ensure};
use gateway_common::{ids::TunnelId, layout::NO_PREFIX, reason::Reason};
use gateway_tests_kit::process::wait_for;

use super::tunnels::{MARGIN, PATIENCE, requests_arrive, without_loss};
use crate::{
    capture::Capture,
    conversation::Conversation,
    frame::send_packets,
    gateway::{Drops, POLICIES, STATE, increase},
    lab::Lab,
    policies::Policies,
    scenario::Scenario,
    site::{SITES, Spec},
    traffic::Traffic,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "adding_a_customer_under_traffic_disturbs_nobody",
        run: adding_a_customer_under_traffic_disturbs_nobody,
    },
    Scenario {
        name: "faulty_file_keeps_the_last_good_version",
        run: faulty_file_keeps_the_last_good_version,
    },
    Scenario {
        name: "narrowed_lan_stops_connections_with_the_next_packet",
        run: narrowed_lan_stops_connections_with_the_next_packet,
    },
    Scenario {
        name: "removed_site_stops_connections_with_the_next_packet",
        run: removed_site_stops_connections_with_the_next_packet,
    },
    Scenario {
        name: "bad_policies_end_with_status_2_and_touch_nothing",
        run: bad_policies_end_with_status_2_and_touch_nothing,
    },
    Scenario {
        name: "second_gatewayd_is_refused_and_touches_nothing",
        run: |lab| {
            second_gatewayd(lab, POLICIES, STATE, 1, &["error: another gatewayd is running".to_owned()])
        },
    },
];

const ACME: &str = "customers/acme.toml";
const HOOLI: &str = "customers/hooli.toml";
const HOOLI_TEXT: &str = r#"server = "10.200.0.15"

[[site]]
name = "palo-alto"
identity = "palo-alto.hooli.example"
lan = ["192.168.0.0/16"]
"#;
/// Packets sent in each direction of a connection that is no longer allowed.
const PROBES: usize = 5;

fn adding_a_customer_under_traffic_disturbs_nobody(lab: &mut Lab) -> Result<()> {
    let (sas, before) = (lab.gateway_sas()?, lab.settled_maps()?);
    without_loss(lab, |lab| {
        let old = lab.status()?.tunnels;
        lab.gateway().policies()?.write(HOOLI, HOOLI_TEXT)?;
        lab.gateway().reload()?;
        let is_hooli = |customer: &str| customer == "hooli";
        let status = lab.wait_for_status("the new customer", |status| {
            status.tunnels.iter().any(|tunnel| is_hooli(&tunnel.customer))
        })?;
        let (new, others): (Vec<_>, Vec<_>) =
            status.tunnels.into_iter().partition(|tunnel| is_hooli(&tunnel.customer));
        ensure!(others == old, "the others' tunnels changed from {old:?} to {others:?}");
        ensure!(matches!(&new[..], [tunnel] if !tunnel.up), "the new customer's tunnels: {new:?}");
        ensure!(
            status.faults.is_empty() && status.failed.is_empty(),
            "gatewayd reports faults {:?} and failures {:?}",
            status.faults,
            status.failed
        );
        let now = lab.observed()?;
        for (id, tunnel) in &before.tunnels {
            ensure!(now.tunnels.get(id) == Some(tunnel), "tunnel {id} changed, it was {tunnel:?}");
        }
        ensure!(now.customers.len() == before.customers.len() + 1, "customers: {:?}", now.customers);
        thread::sleep(MARGIN);

        lab.gateway().policies()?.remove(HOOLI)?;
        lab.gateway().reload()?;
        lab.wait_for_status("the new customer to be gone", |status| status.tunnels == old)?;
        lab.wait_for_maps("the maps to be as before", |maps| *maps == before).map(drop)
    })?;
    ensure!(lab.gateway_sas()? == sas, "the SAs changed");
    Ok(())
}

/// A file that is not TOML and one with an invalid value: only the operator notices.
fn faulty_file_keeps_the_last_good_version(lab: &mut Lab) -> Result<()> {
    let good = lab.gateway().policies()?.example(ACME)?.to_owned();
    let syntax = good.replacen("10.200.0.11\"", "10.200.0.11", 1);
    let meaning = good.replacen("10.200.0.11", "10.99.0.11", 1);
    let (sas, before) = (lab.gateway_sas()?, lab.settled_maps()?);
    for (bad, needle) in [(syntax, "10.200.0.11"), (meaning, "10.99.0.11")] {
        ensure!(bad != good, "the example has changed");
        without_loss(lab, |lab| {
            lab.gateway().policies()?.write(ACME, &bad)?;
            lab.gateway().reload()?;
            let status = lab.wait_for_status("the fault", |status| !status.faults.is_empty())?;
            let place = format!("{POLICIES}/{ACME}:{}:", line_of(&bad, needle)?);
            let (consequence, faults) = status.faults.split_last().context("no fault")?;
            ensure!(
                !faults.is_empty() && faults.iter().all(|fault| fault.starts_with(&place)),
                "the fault is at {place}, gatewayctl reports {faults:?}"
            );
            let expected = "customers whose last good version is in force (1): acme";
            ensure!(consequence == expected, "the consequence is {consequence:?}");
            requests_arrive(lab)?;
            ensure!(lab.observed()? == before, "the maps changed");
            lab.reload_example()
        })?;
    }
    ensure!(lab.gateway_sas()? == sas, "the SAs changed");
    ensure!(lab.observed()? == before, "the maps are not as before");
    Ok(())
}

/// A LAN is narrowed to exclude the device; its tunnel stays up.
fn narrowed_lan_stops_connections_with_the_next_packet(lab: &mut Lab) -> Result<()> {
    let narrow = |text: &str| text.replacen("10.20.0.0/16", "10.20.128.0/17", 1);
    let gone = |maps: &Observed, id| {
        maps.tunnels.get(&id).is_none_or(|t| t.v4.mark_of(munich().device.into()) == NO_PREFIX)
    };
    let expected = [Reason::InnerSourceNotInSite, Reason::FlowNoLongerAllowed];
    connection_stops(lab, narrow, gone, &expected, |lab| lab.reload_example())
}

/// A site is removed and its tunnel torn down. Once restored, the site has its old tunnel id and its tunnel
/// may come up again.
fn removed_site_stops_connections_with_the_next_packet(lab: &mut Lab) -> Result<()> {
    let remove = |text: &str| text.rsplit_once("[[site]]").map_or("", |(before, _)| before).to_owned();
    let gone = |maps: &Observed, id| maps.tunnels.get(&id).is_none_or(|tunnel| tunnel.customer == 0);
    // The server's packets are counted for the customer. The site's are nobody's, if its SA is still there.
    let expected = [Reason::UnknownTunnel];
    connection_stops(lab, remove, gone, &expected, |lab| {
        wait_for("the tunnel of munich's router to end", PATIENCE, || {
            Ok(lab.site("munich")?.charon.list_sas()?.is_empty().then_some(()))
        })?;
        ensure!(lab.gateway_sa(munich()).is_err(), "the removed site's tunnel is still there");
        lab.reload_example()?;
        lab.site("munich")?.initiate()?;
        lab.wait_for_tunnels().map(drop)
    })
}

/// Applies `change` to acme's file while a connection of munich is open. Then none of its packets passes in
/// either direction, for exactly the `expected` reasons; other sites lose none. After `restore` the
/// connection continues.
fn connection_stops(
    lab: &mut Lab,
    change: impl Fn(&str) -> String,
    is_in_force: impl Fn(&Observed, TunnelId) -> bool,
    expected: &[Reason],
    restore: impl Fn(&Lab) -> Result<()>,
) -> Result<()> {
    let id = lab.site_number(munich())?;
    let mut munichs = Conversation::open(lab.site("munich")?, munich().server)?;
    let others = SITES.iter().filter(|site| site.name != munich().name);
    let traffic = others.map(|site| Traffic::start(lab, site.name)).collect::<Result<Vec<_>>>()?;
    thread::sleep(MARGIN);
    let before = lab.drops()?;

    let refused = || -> Result<()> {
        let policies = lab.gateway().policies()?;
        policies.write(ACME, &change(policies.example(ACME)?))?;
        lab.gateway().reload()?;
        lab.wait_for_maps("the change", |maps| is_in_force(maps, id))?;
        let counted = |reason: &Reason| (("acme".to_owned(), reason.name().to_owned()), PROBES as u64);
        let expected: BTreeMap<_, _> = expected.iter().map(counted).collect();
        let arrived = probe(lab, &munichs, || {
            // Once that many were dropped, the programs have judged every packet that reached them.
            wait_for("the packets to be dropped", PATIENCE, || {
                let dropped = of_customers(increase(&before, &lab.drops()?));
                Ok((dropped.values().sum::<u64>() >= expected.values().sum()).then_some(()))
            })
        })?;
        ensure!(arrived.is_empty(), "no longer allowed, but arrived: {arrived:?}");
        let dropped = of_customers(increase(&before, &lab.drops()?));
        ensure!(dropped == expected, "dropped: {dropped:?}, expected: {expected:?}");
        Ok(())
    }();
    let restored = restore(lab);
    thread::sleep(MARGIN);
    let tallies: Vec<_> = traffic.into_iter().map(|one| one.stop(lab)).collect();
    refused?;
    restored?;
    tallies.into_iter().collect::<Result<Vec<_>>>()?;
    munichs.connection.get("/after").context("the connection after it was allowed again")?;
    ensure!(lab.site_number(munich())? == id, "munich has another number");
    Ok(())
}

/// Returns the drops without those of nobody's packets from tunnels: an SA that is unbound already may bring some.
fn of_customers(mut drops: Drops) -> Drops {
    drops.remove(&("-".to_owned(), Reason::UnknownTunnel.name().to_owned()));
    drops
}

/// Sends packets of munich's connection from both ends, runs `judged` to wait until the programs have seen
/// them, and returns descriptions of those that arrived.
fn probe(lab: &Lab, munichs: &Conversation, judged: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let (device, server) = (lab.site("munich")?.device, lab.topology.server("acme")?);
    let captures = [
        (Capture::start(server, "eth0")?, munich().device),
        (Capture::start(device, "eth0")?, munich().server),
    ];
    send_packets(device, &vec![munichs.from_device.clone(); PROBES])?;
    send_packets(server, &vec![munichs.from_server.clone(); PROBES])?;
    let judged = judged();
    thread::sleep(MARGIN);
    let mut arrived = Vec::new();
    for (capture, source) in captures {
        let frames = capture.stop()?.into_iter().filter(|frame| !frame.outgoing);
        let frames = frames.filter(|frame| frame.addresses().is_some_and(|(from, _)| from == source));
        arrived.extend(frames.map(|frame| frame.describe()));
    }
    judged.with_context(|| format!("arrived: {arrived:?}"))?;
    Ok(arrived)
}

/// A second gatewayd, with faulty policies, reports every fault and ends.
fn bad_policies_end_with_status_2_and_touch_nothing(lab: &mut Lab) -> Result<()> {
    const BAD: &str = "/run/bad-policies";
    let bad = Policies::copy(lab.gateway().example_dir(), &lab.dir("gateway/run/bad-policies"))?;
    let acme = bad.example(ACME)?.replacen("10.200.0.11", "10.200.0.300", 1).replacen("name =", "nmae =", 1);
    bad.write(ACME, &acme)?;
    bad.write("gateway.toml", &bad.example("gateway.toml")?.replacen("eth_lan", "eth lan", 1))?;
    bad.write("customers/globex.toml", "server = ")?;
    let expected = [
        format!("{BAD}/{ACME}:{}:", line_of(&acme, "10.200.0.300")?),
        format!("{BAD}/{ACME}:{}:", line_of(&acme, "nmae")?),
        format!("{BAD}/gateway.toml:{}:", line_of(bad.example("gateway.toml")?, "eth_lan")?),
        format!("{BAD}/customers/globex.toml:1:"),
    ];
    // Without a last good version of gateway.toml.
    second_gatewayd(lab, BAD, "/run/no-state", 2, &expected)
}

/// Runs a second gatewayd under traffic. It must end with `exit_status` and print lines that start with
/// `expected`, and must change nothing.
fn second_gatewayd(
    lab: &mut Lab,
    policies: &str,
    state: &str,
    exit_status: i32,
    expected: &[String],
) -> Result<()> {
    // The status without its times: the running gatewayd reconciles meanwhile.
    let status = |lab: &Lab| {
        anyhow::Ok(Status {
            written_unix_seconds: 0,
            attempted_ns: 0,
            reconciled_ns: None,
            audited_ns: None,
            audit_took_ms: 0,
            ..lab.status()?
        })
    };
    let look = |lab: &Lab| anyhow::Ok((lab.observed()?, lab.attached()?, status(lab)?));
    let before = look(lab)?;
    without_loss(lab, |lab| {
        let start = Instant::now();
        let output = lab.gateway().run_second_daemon(&lab.topology.gateway, policies, state)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(exit_status), "gatewayd ended with {}:\n{said}", output.status);
        ensure!(start.elapsed() < PATIENCE, "gatewayd took {:?} to end", start.elapsed());
        for place in expected {
            ensure!(said.lines().any(|line| line.starts_with(place)), "no line starts with {place}:\n{said}");
        }
        Ok(())
    })?;
    let after = look(lab)?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    Ok(())
}

fn line_of(text: &str, needle: &str) -> Result<usize> {
    Ok(text.lines().position(|line| line.contains(needle)).with_context(|| format!("no {needle}"))? + 1)
}

fn munich() -> &'static Spec {
    &SITES[1]
}
