//! Scenarios of charon as gatewayd sees it: strangers to its one connection, other VICI clients, and hangs.
use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use ::gateway::{control::bindings::CONNECTION as SITES_CONNECTION, strongswan::Local};
use anyhow::{Context, Result, ensure};
use gateway_tests_kit::process::{output, wait_for};
use nix::sys::signal::Signal;

use super::tunnels::{MARGIN, PATIENCE, requests_arrive, tunnels_come_up};
use crate::{
    conversation::Conversation,
    frame::send_packets,
    lab::Lab,
    scenario::Scenario,
    site::{CONNECTION, SITES, Spec, connection},
    topology::{gateway_address, router_wan},
    watch::Watch,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "identity_that_changes_while_charon_is_dead_passes_nothing",
        run: identity_that_changes_while_charon_is_dead_passes_nothing,
    },
    Scenario {
        name: "new_charon_leaves_nothing_of_the_former_ones_sas",
        run: new_charon_leaves_nothing_of_the_former_ones_sas,
    },
    Scenario {
        name: "site_with_many_child_sas_keeps_eight_and_disturbs_nobody",
        run: site_with_many_child_sas_keeps_eight_and_disturbs_nobody,
    },
    Scenario { name: "unloaded_connection_is_loaded_again", run: unloaded_connection_is_loaded_again },
    Scenario { name: "stopped_charon_delays_nothing", run: stopped_charon_delays_nothing },
];

/// Longest reaction of gatewayd while charon is stopped. It takes a fraction of it; charon's time limits are longer.
const REACTION: Duration = Duration::from_secs(5);
const ACME: &str = "customers/acme.toml";
const MUNICH: &Spec = &SITES[1];
/// CHILD_SAs that a site asks for, more than the eight it may have.
const MANY: u8 = 12;

/// The old SA is still in the kernel, and the router still sends.
fn identity_that_changes_while_charon_is_dead_passes_nothing(lab: &mut Lab) -> Result<()> {
    let number = lab.site_number(MUNICH)?;
    let conversation = Conversation::open(lab.site("munich")?, MUNICH.server)?;
    let old = spis(lab)?;
    ensure!(old.len() >= 2 * SITES.len(), "the kernel has SAs {old:?}");
    lab.kill_charon()?;
    let policies = lab.gateway().policies()?;
    let changed = policies.example(ACME)?.replacen(MUNICH.identity, "another.acme.example", 1);
    policies.write(ACME, &changed)?;
    lab.gateway().reload()?;
    lab.wait_for_maps("munich to be unbound", |maps| {
        maps.bindings.values().all(|binding| binding.site != number.get())
            && !maps.tunnels.contains_key(&number)
    })?;
    let watch = Watch::start(lab)?;
    send_packets(lab.site("munich")?.device, &vec![conversation.from_device.clone(); 5])?;
    send_packets(lab.topology.server("acme")?, &vec![conversation.from_server.clone(); 5])?;
    let leaks = watch.leaks()?;
    let refused = (leaks.is_empty(), lab.start_charon());
    drop(conversation);
    lab.wait_until_ready()?;
    wait_for("the former charon's SAs to be gone", PATIENCE, || {
        Ok(spis(lab)?.is_disjoint(&old).then_some(()))
    })?;
    lab.reload_example()?;
    reconnect(lab)?;
    ensure!(refused.0, "arrived: {leaks:?}");
    refused.1?;
    ensure!(lab.site_number(MUNICH)? == number, "munich has another number");
    requests_arrive(lab)
}

/// Routers still send on the SAs that the former charon had, whoever has their reqids now.
fn new_charon_leaves_nothing_of_the_former_ones_sas(lab: &mut Lab) -> Result<()> {
    let conversation = Conversation::open(lab.site("munich")?, MUNICH.server)?;
    let old = spis(lab)?;
    lab.kill_charon()?;
    lab.start_charon()?;
    wait_for("the former charon's SAs to be gone", PATIENCE, || {
        Ok(spis(lab)?.is_disjoint(&old).then_some(()))
    })?;
    lab.wait_for_maps("no binding", |maps| maps.bindings.is_empty())?;
    wait_until_loaded(lab)?;
    // Another site connects first and gets the first reqid and the first mark.
    let springfield = lab.site("springfield")?;
    springfield.terminate()?;
    springfield.initiate()?;
    lab.wait_for_maps("springfield's binding", |maps| maps.bindings.len() == 1)?;
    let watch = Watch::start(lab)?;
    send_packets(lab.site("munich")?.device, &vec![conversation.from_device.clone(); 5])?;
    send_packets(lab.topology.server("acme")?, &vec![conversation.from_server.clone(); 5])?;
    let leaks = watch.leaks()?;
    drop(conversation);
    reconnect(lab)?;
    ensure!(leaks.is_empty(), "arrived: {leaks:?}");
    tunnels_come_up(lab)?;
    requests_arrive(lab)
}

fn site_with_many_child_sas_keeps_eight_and_disturbs_nobody(lab: &mut Lab) -> Result<()> {
    let index = 2;
    let site = lab.site("springfield")?;
    let issued = lab.authority.issue(site.spec.identity)?;
    let local = Local {
        identity: site.spec.identity.to_owned(),
        certificate: issued.certificate_pem.as_bytes().into(),
    };
    let way = (router_wan(index), gateway_address(site.spec));
    let mut many = connection(local, lab.authority.certificate_pem(), way, site.spec)?;
    let template = many.children.remove(0);
    for number in 1..=MANY {
        let mut child = template.clone();
        child.name = format!("part{number}");
        child.reqid = Some(1000 + u32::from(number));
        child.local_ts = vec![format!("192.168.{number}.0/24").parse()?];
        many.children.push(child);
    }
    many.name = "many".to_owned();
    site.terminate()?;
    site.charon.load(&many, &issued.key_pem)?;
    for number in 1..=MANY {
        // The gateway ends the ones beyond eight as soon as they are up, before or after the router's report.
        let _ = site.charon.initiate(&format!("part{number}"), PATIENCE);
    }
    let number = lab.site_number(site.spec)?.get();
    let eight = lab.wait_for_maps("eight CHILD_SAs of springfield", |maps| {
        maps.bindings.values().filter(|binding| binding.site == number).count() == 8
    });
    let settled = wait_for("charon to have eight CHILD_SAs of springfield", PATIENCE, || {
        let sas = lab.gateway_sas()?;
        let own = sas.iter().filter(|sa| sa.remote_identity == site.spec.identity).count();
        Ok((own == 8).then_some(sas.len()))
    });
    // Back to one CHILD_SA.
    site.charon.terminate(site.charon.list_sas()?.first().context("springfield has no SA")?.ike_id)?;
    site.charon.unload(&many.name)?;
    site.initiate()?;
    lab.wait_for_tunnels()?;
    eight?;
    ensure!(settled? == 8 + SITES.len() - 1, "another site's CHILD_SA is gone");
    tunnels_come_up(lab)?;
    requests_arrive(lab)
}

/// `swanctl --load-all` unloads what is not in swanctl's own files. Sites can connect again at once.
fn unloaded_connection_is_loaded_again(lab: &mut Lab) -> Result<()> {
    let restored = lab.status()?.restored;
    let empty = lab.dir("gateway/run/empty-swanctl");
    fs::create_dir_all(&empty)?;
    fs::write(empty.join("swanctl.conf"), "")?;
    let mut swanctl = lab.topology.gateway.command("swanctl");
    swanctl.env("STRONGSWAN_CONF", "/run/strongswan.conf").env("SWANCTL_DIR", "/run/empty-swanctl");
    output(swanctl.args(["--load-all", "--noprompt"]))?;
    let unloaded = Instant::now();
    wait_until_loaded(lab)?;
    println!("loaded again {:?} after swanctl's end", unloaded.elapsed());
    ensure!(unloaded.elapsed() < Duration::from_secs(3), "it took {:?}", unloaded.elapsed());
    lab.wait_for_status("gatewayctl to tell", |status| status.restored > restored)?;
    let munich = lab.site("munich")?;
    munich.terminate()?;
    munich.initiate()?;
    lab.wait_for_tunnels()?;
    requests_arrive(lab)
}

fn stopped_charon_delays_nothing(lab: &mut Lab) -> Result<()> {
    lab.gateway().charon().signal(Signal::SIGSTOP)?;
    let done = while_stopped(lab);
    lab.gateway().charon().signal(Signal::SIGCONT)?;
    if !lab.is_running() {
        lab.start_daemon()?;
    }
    lab.wait_until_ready()?;
    lab.reload_example()?;
    done?;
    reconnect(lab)?;
    requests_arrive(lab)
}

fn while_stopped(lab: &mut Lab) -> Result<()> {
    let number = lab.site_number(MUNICH)?;
    lab.wait_for_status("gatewayctl to say that charon does not answer", |status| {
        status.charon_fault.is_some()
    })?;
    let policies = lab.gateway().policies()?;
    let without = policies.example(ACME)?.rsplit_once("[[site]]").map_or("", |(before, _)| before).to_owned();
    policies.write(ACME, &without)?;
    let asked = Instant::now();
    lab.gateway().reload()?;
    lab.wait_for_maps("munich to be gone", |maps| !maps.tunnels.contains_key(&number))?;
    println!("a site was removed within {:?}", asked.elapsed());
    ensure!(asked.elapsed() < REACTION, "removing a site took {:?}", asked.elapsed());
    let asked = Instant::now();
    lab.end_daemon(Signal::SIGTERM)?;
    println!("gatewayd ended within {:?}", asked.elapsed());
    ensure!(asked.elapsed() < REACTION, "gatewayd took {:?} to end", asked.elapsed());
    Ok(())
}

/// Waits until charon has all that gatewayd gives it.
fn wait_until_loaded(lab: &Lab) -> Result<()> {
    wait_for("connection, authority and key to be loaded", PATIENCE, || {
        let loaded = lab.gateway().charon().loaded()?;
        let all = loaded.connections == [SITES_CONNECTION]
            && loaded.authorities.len() == 1
            && loaded.keys.len() == 1;
        Ok(all.then_some(()))
    })
}

/// Has every site bring up a new tunnel.
fn reconnect(lab: &Lab) -> Result<()> {
    thread::sleep(MARGIN);
    for site in lab.sites() {
        for sa in site.charon.list_sas()? {
            site.charon.terminate(sa.ike_id)?;
        }
        site.charon.initiate(CONNECTION, PATIENCE)?;
    }
    lab.wait_for_tunnels().map(drop)
}

/// Returns the SPIs of the gateway's kernel.
fn spis(lab: &Lab) -> Result<BTreeSet<String>> {
    let text = output(lab.topology.gateway.command("ip").args(["xfrm", "state"]))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok(words.windows(2).filter(|pair| pair[0] == "spi").map(|pair| pair[1].to_owned()).collect())
}
