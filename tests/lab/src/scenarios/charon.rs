//! Scenarios of charon as gatewayd sees it: strangers to its one connection, other VICI clients, and hangs.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

use ::gateway::{control::bindings::CONNECTION as SITES_CONNECTION, strongswan::Local};
use anyhow::{Context, Result, ensure};
use gateway_tests_kit::process::{output, wait_for};
use nix::sys::signal::Signal;

use super::tunnels::{MARGIN, PATIENCE, Refused, requests_arrive, tunnels_come_up};
use crate::{
    conversation::Conversation,
    frame::send_packets,
    lab::{Lab, Site},
    scenario::Scenario,
    site::{CONNECTION, SITES, Spec, connection},
    topology::{gateway_address, router_wan},
    traffic::Traffic,
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
    Scenario {
        name: "site_with_64_child_sas_takes_no_room_of_others",
        run: site_with_64_child_sas_takes_no_room_of_others,
    },
    Scenario {
        name: "eight_child_sas_are_rekeyed_at_once_without_loss",
        run: eight_child_sas_are_rekeyed_at_once_without_loss,
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
/// CHILD_SAs that a site asks for to take all room.
const FLOOD: u8 = 64;
/// Time for one of them: most are refused.
const AT_ONCE: Duration = Duration::from_secs(3);

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
    let settled = with_children(lab, MANY, |lab, site| {
        for number in 1..=MANY {
            // The gateway ends the ones beyond eight as soon as they are up, before or after the router's report.
            let _ = site.charon.initiate(&part(number), PATIENCE);
        }
        wait_for_eight(lab, site)?;
        wait_for("charon to have eight CHILD_SAs of springfield", PATIENCE, || {
            let sas = lab.gateway_sas()?;
            let own = sas.iter().filter(|sa| sa.remote_identity == site.spec.identity).count();
            Ok((own == 8).then_some(sas.len()))
        })
    })?;
    ensure!(settled == 8 + SITES.len() - 1, "another site's CHILD_SA is gone");
    tunnels_come_up(lab)?;
    requests_arrive(lab)
}

/// The gateway ends the ones beyond eight, in the end with their IKE_SA, again and again.
fn site_with_64_child_sas_takes_no_room_of_others(lab: &mut Lab) -> Result<()> {
    let most = with_children(lab, FLOOD, |lab, site| {
        let number = lab.site_number(site.spec)?.get();
        let others = ["munich", "london"].map(|name| Traffic::start(lab, name));
        let mut most = 0;
        for child in 1..=FLOOD {
            let _ = site.charon.initiate(&part(child), AT_ONCE);
            let bindings = lab.observed()?.bindings;
            most = most.max(bindings.values().filter(|binding| binding.site == number).count());
            ensure!(bindings.values().any(|binding| binding.site != number), "the others are unbound");
        }
        for traffic in others {
            ensure!(traffic?.stop_requests(lab)? > 0, "nothing was sent");
        }
        Ok(most)
    })?;
    println!("at most {most} CHILD_SAs of springfield were bound at a time");
    ensure!((1..=8).contains(&most), "{most} CHILD_SAs of springfield were bound");
    tunnels_come_up(lab)?;
    requests_arrive(lab)
}

/// A router that makes a CHILD_SA for each prefix, and whose lifetimes end together.
fn eight_child_sas_are_rekeyed_at_once_without_loss(lab: &mut Lab) -> Result<()> {
    with_children(lab, 8, |lab, site| {
        (1..=8).try_for_each(|number| site.charon.initiate(&part(number), PATIENCE))?;
        wait_for_eight(lab, site)?;
        let of_site = |lab: &Lab| -> Result<BTreeMap<u32, u32>> {
            let own = lab.gateway_sas()?.into_iter().filter(|sa| sa.remote_identity == site.spec.identity);
            Ok(own.map(|sa| (sa.child_id, sa.reqid)).collect())
        };
        let before = of_site(lab)?;
        let refused_before = Refused::read(lab, site.spec.name)?;
        let traffic = Traffic::start(lab, site.spec.name)?;
        thread::sleep(MARGIN);
        site.charon.list_sas()?.iter().try_for_each(|sa| site.charon.rekey_child(sa.child_id))?;
        wait_for("eight new SAs with the same reqids", PATIENCE, || {
            let now = of_site(lab)?;
            let reqids = |sas: &BTreeMap<u32, u32>| sas.values().copied().collect::<BTreeSet<_>>();
            let renewed = now.keys().all(|child| !before.contains_key(child));
            Ok((renewed && now.len() == 8 && reqids(&now) == reqids(&before)).then_some(()))
        })?;
        thread::sleep(MARGIN);
        let requests = traffic.stop_requests(lab);
        let refused = Refused::read(lab, site.spec.name)?.since(&refused_before);
        let requests =
            requests.with_context(|| format!("refused meanwhile: {refused:?}, {:?}", lab.observed()))?;
        ensure!(requests > 0, "nothing was sent");
        Ok(())
    })
}

/// Has springfield's router use a connection with a CHILD_SA for each of `count` prefixes during `work`.
fn with_children<T>(lab: &Lab, count: u8, work: impl FnOnce(&Lab, &Site) -> Result<T>) -> Result<T> {
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
    for number in 1..=count {
        let mut child = template.clone();
        child.name = part(number);
        child.reqid = Some(1000 + u32::from(number));
        child.local_ts = vec![format!("192.168.{number}.0/24").parse()?];
        many.children.push(child);
    }
    many.name = "many".to_owned();
    site.terminate()?;
    site.charon.load(&many, &issued.key_pem)?;
    let done = work(lab, &site);
    // Back to one CHILD_SA.
    site.charon.unload(&many.name)?;
    let ikes: BTreeSet<u32> = site.charon.list_sas()?.iter().map(|sa| sa.ike_id).collect();
    ikes.into_iter().try_for_each(|ike| site.charon.terminate(ike))?;
    site.initiate()?;
    lab.wait_for_tunnels()?;
    done
}

/// Returns the name of springfield's child of this number.
fn part(number: u8) -> String {
    format!("part{number}")
}

fn wait_for_eight(lab: &Lab, site: &Site) -> Result<()> {
    let number = lab.site_number(site.spec)?.get();
    let eight = lab.wait_for_maps("eight CHILD_SAs of springfield", |maps| {
        maps.bindings.values().filter(|binding| binding.site == number).count() == 8
    });
    eight.map(drop)
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
