//! Scenarios of tunnels and rekeying, and the steps that other scenarios share with them.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::Duration,
};

use ::gateway::status::{Status, TunnelStatus};
use anyhow::{Context, Result, ensure};
use gateway_common::ids::Reqid;
use gateway_tests_kit::process::{output, wait_for};

use crate::{
    capture::{Capture, Frame},
    charon::Sa,
    device::{self, Connection},
    gateway::{Drops, increase, xfrm_stat},
    lab::{Lab, in_parallel},
    scenario::Scenario,
    site::{Ends, SITES, Suite},
    topology::{customers, gateway_address, seen_address},
    traffic::Traffic,
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "tunnels_come_up", run: tunnels_come_up },
    Scenario { name: "requests_arrive", run: |lab| requests_arrive(lab) },
    Scenario {
        name: "same_device_address_and_port_reach_own_server_only",
        run: same_device_address_and_port_reach_own_server_only,
    },
    Scenario {
        name: "tunnels_in_each_family_carry_both",
        run: |lab| ["berlin", "london"].into_iter().try_for_each(|name| carries_both(lab, name)),
    },
    Scenario {
        name: "server_with_another_mac_address_is_reached_again",
        run: server_with_another_mac_address_is_reached_again,
    },
    Scenario {
        name: "killing_and_restarting_gatewayd_loses_no_packet",
        run: kill_and_restart_lose_no_packet,
    },
    Scenario { name: "child_rekey_by_site_loses_no_request", run: |lab| rekey(lab, "austin", child_by_site) },
    Scenario {
        name: "child_rekey_by_gateway_loses_no_request",
        run: |lab| rekey(lab, "berlin", child_by_gateway),
    },
    Scenario {
        name: "child_rekey_by_gateway_of_a_tunnel_in_ipv6_loses_no_request",
        run: |lab| rekey(lab, "london", child_by_gateway),
    },
    Scenario { name: "ike_rekey_by_site_loses_no_request", run: |lab| rekey(lab, "berlin", ike_by_site) },
    Scenario {
        name: "ike_rekey_by_gateway_loses_no_request",
        run: |lab| {
            rekey(lab, "austin", |lab, name| {
                lab.gateway().charon().rekey_ike(lab.gateway_sa(lab.site(name)?.spec)?.ike_id)
            })
        },
    },
];

/// Generous timeout: on an idle machine everything takes a fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(180);
const DAEMON_KILLS: usize = 2;
/// Length of the traffic before and after each event.
pub const MARGIN: Duration = Duration::from_millis(700);

/// Every site has a tunnel of its own with its router's cipher suite, and gatewayctl agrees with charon.
pub fn tunnels_come_up(lab: &mut Lab) -> Result<()> {
    let tunnels = lab.wait_for_tunnels()?;
    let reqids: BTreeSet<_> = tunnels.iter().map(|sa| sa.reqid).collect();
    let marks: BTreeSet<_> = tunnels.iter().map(|sa| sa.mark).collect();
    ensure!(
        (reqids.len(), marks.len()) == (SITES.len(), SITES.len()),
        "sites share reqids or marks: {tunnels:?}"
    );
    // gatewayd writes its status after the maps.
    let all_up = |status: &Status| status.tunnels.iter().all(|tunnel| tunnel.up);
    let status = lab.wait_for_status("gatewayctl to show all tunnels up", all_up)?;
    let bindings = lab.observed()?.bindings;
    for (site, sa) in SITES.iter().zip(&tunnels) {
        let suite = match site.suite {
            Suite::Gcm => "AES_GCM_16 256",
            Suite::Cbc => "AES_CBC 256, HMAC_SHA2_512_256",
        };
        ensure!(sa.cipher == suite, "{} uses {}", site.full_name(), sa.cipher);
        ensure!(
            sa.encapsulated == site.behind_nat,
            "{}: ESP in UDP is {}",
            site.full_name(),
            sa.encapsulated
        );
        let is_site = |told: &&TunnelStatus| (&*told.customer, &*told.site) == (site.customer, site.name);
        let told = status.tunnels.iter().find(is_site).context("the status lacks a site")?;
        ensure!(told.up, "gatewayctl shows {told:?}");
        let binding =
            Reqid::new(sa.reqid).and_then(|reqid| bindings.get(&reqid)).context("a reqid is not bound")?;
        ensure!(
            (binding.site, binding.mark) == (told.id, sa.mark),
            "{sa:?} is bound as {binding:?}, not to {told:?}"
        );
    }
    Ok(())
}

/// curl on every device gets an answer from its own customer's server.
pub fn requests_arrive(lab: &Lab) -> Result<()> {
    in_parallel(lab.sites(), |site| {
        let start = format!("{}: received /telemetry?device={}-sensor", site.spec.customer, site.spec.name);
        site.spec.ends().into_iter().try_for_each(|ends| {
            let answer = device::report_date(site.device, site.spec, ends.server)?;
            ensure!(answer.starts_with(&start), "{} got {answer:?}", site.spec.full_name());
            Ok(())
        })
    })
}

/// Two customers' devices use the same address and port at the same time: acme-berlin's and
/// globex-springfield's in IPv4, acme-berlin's and wonka-london's in IPv6.
fn same_device_address_and_port_reach_own_server_only(lab: &mut Lab) -> Result<()> {
    same_address_and_port(lab, ["berlin", "springfield"], IpAddr::is_ipv4)?;
    same_address_and_port(lab, ["berlin", "london"], IpAddr::is_ipv6)
}

fn same_address_and_port(lab: &Lab, sites: [&str; 2], of_family: fn(&IpAddr) -> bool) -> Result<()> {
    const PORT: u16 = 25_000;
    let start = lab.requests.count();
    let mut connections = sites
        .map(|name| lab.site(name))
        .into_iter()
        .map(|site| {
            let site = site?;
            let ends = site.spec.ends().into_iter().find(|ends| of_family(&ends.device));
            let Ends { device, server } = ends.context("the site lacks this address family")?;
            Ok((site.spec, Connection::open_from(site.device, device, PORT, server)?))
        })
        .collect::<Result<Vec<_>>>()?;
    for (site, connection) in &mut connections {
        let answer = connection.get(&format!("/from/{}", site.customer))?;
        ensure!(
            answer == format!("{0}: received /from/{0}\n", site.customer),
            "{} got {answer:?}",
            site.name
        );
    }
    let received = lab.requests.since(start);
    ensure!(received.len() == 2, "sent 2 requests, the servers received {received:?}");
    Ok(())
}

/// Requests of both families go through one tunnel, only as ESP between the site's router and the gateway, in
/// the family of the router's uplink.
fn carries_both(lab: &Lab, name: &str) -> Result<()> {
    const ESP: u8 = 50;
    let site = lab.site(name)?;
    let (router, gateway) = (seen_address(site.spec), gateway_address(site.spec));
    ensure!(lab.gateway_sa(site.spec)?.remote_host == router, "{name}'s tunnel is not with {router}");
    let ends = site.spec.ends();
    ensure!(ends.len() == 2, "{name} has {ends:?}");
    for Ends { server, .. } in ends {
        let capture = Capture::start(&lab.topology.internet, "gateway")?;
        Connection::open(site.device, server)?.get("/in-a-tunnel")?;
        let frames: Vec<_> = capture.stop()?.into_iter().filter(|frame| !frame.is_link_control()).collect();
        let esp = |way| {
            let way = Some(way);
            let of_way =
                frames.iter().filter(|frame| frame.ip_protocol() == Some(ESP) && frame.addresses() == way);
            of_way.count()
        };
        let (to_gateway, from_gateway) = (esp((router, gateway)), esp((gateway, router)));
        // SYN, ACK and request; SYN-ACK and answer.
        ensure!(
            to_gateway >= 3 && from_gateway >= 2 && to_gateway + from_gateway == frames.len(),
            "the requests to {server} travelled as {:?}",
            frames.iter().map(Frame::describe).collect::<Vec<_>>()
        );
    }
    Ok(())
}

/// gatewayd dies and restarts twice. No packet is lost, and the counters show every packet: a restart does
/// not start them from zero.
fn kill_and_restart_lose_no_packet(lab: &mut Lab) -> Result<()> {
    without_loss(lab, |lab| {
        for _ in 0..DAEMON_KILLS {
            lab.kill_daemon()?;
            thread::sleep(MARGIN);
            lab.start_daemon()?;
            thread::sleep(MARGIN);
        }
        Ok(())
    })
}

/// Runs `work` under traffic of all sites. No packet may be lost or dropped, and the programs must count
/// every packet.
pub fn without_loss(lab: &mut Lab, work: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let passed = |lab: &Lab| -> Result<Vec<_>> {
        let of = |(customer, _)| Ok((customer, lab.gateway().passed(&lab.topology.gateway, customer)?));
        customers().map(of).collect()
    };
    let (passed_before, drops_before) = (passed(lab)?, lab.drops()?);
    let traffic = SITES.iter().map(|site| Traffic::start(lab, site.name)).collect::<Result<Vec<_>>>()?;
    thread::sleep(MARGIN);
    let done = work(lab);
    thread::sleep(MARGIN);
    // Stop all traffic before anything can fail: the next scenario counts packets, too.
    let tallies: Vec<_> = traffic.into_iter().map(|one| one.stop(lab)).collect();
    done?;
    let tallies = tallies.into_iter().collect::<Result<Vec<_>>>()?;
    for ((customer, before), (_, after)) in passed_before.iter().zip(passed(lab)?) {
        let of_customer = || SITES.iter().zip(&tallies).filter(|(site, _)| site.customer == *customer);
        ensure!(of_customer().all(|(_, tally)| tally.requests > 0), "{customer} sent nothing");
        let exchanged = of_customer().fold((0, 0), |(to_server, to_site), (_, tally)| {
            (to_server + tally.to_server, to_site + tally.to_site)
        });
        let counted = (after.0 - before.0, after.1 - before.1);
        ensure!(
            counted == exchanged,
            "{customer} exchanged {exchanged:?} packets, the gateway counted {counted:?}"
        );
    }
    let drops = lab.drops()?;
    ensure!(drops == drops_before, "packets were dropped: {drops_before:?}, then {drops:?}");
    Ok(())
}

/// Starts a rekey at a site.
pub type Trigger = fn(&Lab, &str) -> Result<()>;

pub fn child_by_site(lab: &Lab, name: &str) -> Result<()> {
    let charon = lab.site(name)?.charon;
    charon.rekey_child(only(&charon.list_sas()?)?.child_id)
}

pub fn child_by_gateway(lab: &Lab, name: &str) -> Result<()> {
    lab.gateway().charon().rekey_child(lab.gateway_sa(lab.site(name)?.spec)?.child_id)
}

pub fn ike_by_site(lab: &Lab, name: &str) -> Result<()> {
    let charon = lab.site(name)?.charon;
    charon.rekey_ike(only(&charon.list_sas()?)?.ike_id)
}

/// Has `trigger` start a rekey under traffic and waits until the gateway uses the new SA. The gateway may
/// drop nothing.
fn rekey(lab: &mut Lab, name: &str, trigger: Trigger) -> Result<()> {
    let refused = refused_in_rekey(lab, name, trigger)?;
    ensure!(refused.by_gateway.is_empty(), "refused: {refused:?}");
    Ok(())
}

/// Runs such a rekey, in which no request may be lost, and returns the packets refused meanwhile.
pub fn refused_in_rekey(lab: &mut Lab, name: &str, trigger: Trigger) -> Result<Refused> {
    let spec = lab.site(name)?.spec;
    let before = lab.gateway_sa(spec)?;
    let refused_before = Refused::read(lab, name)?;
    let traffic = Traffic::start(lab, name)?;
    thread::sleep(MARGIN);
    trigger(lab, name)?;
    wait_for("the new SA", PATIENCE, || {
        let sas = lab.gateway_sas()?;
        let of_site: Vec<_> = sas.iter().filter(|sa| sa.remote_identity == spec.identity).collect();
        let renewed = |sa: &Sa| (sa.ike_id, sa.child_id) != (before.ike_id, before.child_id);
        Ok(matches!(of_site[..], [sa] if renewed(sa) && sa.reqid == before.reqid).then_some(()))
    })?;
    thread::sleep(MARGIN);
    // Packets may be lost: the kernel drops one that is about to be encrypted when charon deletes the old SA
    // (XfrmOutStateInvalid, seen at the gateway).
    let requests = traffic.stop_requests(lab);
    let refused = Refused::read(lab, name)?.since(&refused_before);
    let requests = requests.with_context(|| format!("refused meanwhile: {refused:?}"))?;
    ensure!(requests > 0, "nothing was sent");
    Ok(refused)
}

/// The packets that the gateway's programs and the two kernels have refused.
#[derive(Debug)]
pub struct Refused {
    /// Drops of the gateway, by customer and reason.
    pub by_gateway: Drops,
    /// XFRM errors of the gateway's kernel.
    pub by_gateways_kernel: BTreeMap<String, u64>,
    /// XFRM errors of the router's kernel.
    pub by_routers_kernel: BTreeMap<String, u64>,
}

impl Refused {
    pub fn read(lab: &Lab, name: &str) -> Result<Self> {
        Ok(Self {
            by_gateway: lab.drops()?,
            by_gateways_kernel: xfrm_stat(&lab.topology.gateway)?,
            by_routers_kernel: xfrm_stat(lab.site(name)?.router)?,
        })
    }

    pub fn since(&self, before: &Self) -> Self {
        Self {
            by_gateway: increase(&before.by_gateway, &self.by_gateway),
            by_gateways_kernel: increase(&before.by_gateways_kernel, &self.by_gateways_kernel),
            by_routers_kernel: increase(&before.by_routers_kernel, &self.by_routers_kernel),
        }
    }
}

/// The programs cache a server's MAC address for a second (docs/decisions/0010); the kernel's neighbour table
/// learns a new one from the server's announcement (`arp_notify`).
fn server_with_another_mac_address_is_reached_again(lab: &mut Lab) -> Result<()> {
    let site = lab.site("munich")?;
    let server = lab.topology.server(site.spec.customer)?;
    server.set_sysctl("ipv4/conf/eth0/arp_notify", "1")?;
    server.set_sysctl("ipv6/conf/eth0/ndisc_notify", "1")?;
    let set =
        |mac: &str| output(server.command("ip").args(["link", "set", "eth0", "address", mac])).map(drop);
    let link = output(server.command("ip").args(["-brief", "link", "show", "eth0"]))?;
    let before = link.split_whitespace().nth(2).context("eth0 has no MAC address")?;
    for mac in ["02:00:00:00:99:01", before] {
        device::report_date(site.device, site.spec, site.spec.server.into())?;
        set(mac)?;
        wait_for(&format!("an answer from the server at {mac}"), PATIENCE, || {
            Ok(device::report_date(site.device, site.spec, site.spec.server.into()).ok())
        })?;
    }
    Ok(())
}

fn only(sas: &[Sa]) -> Result<&Sa> {
    match sas {
        [sa] => Ok(sa),
        _ => anyhow::bail!("the router has {} SAs", sas.len()),
    }
}
