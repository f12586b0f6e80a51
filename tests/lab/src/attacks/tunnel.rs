//! Attacks around tunnels that are down or must never come up.
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use ::gateway::strongswan::Local;
use anyhow::{Result, ensure};
use gateway_common::reason::Reason;
use gateway_tests_kit::process::wait_for;

use super::watched::{send_from_server, watched};
use crate::{
    attack::{Attack, DropCount, Expected, Seen},
    charon::{Charon, Sa},
    conversation::Conversation,
    device::Connection,
    frame::{Packet, send_packets},
    lab::Lab,
    pki::Authority,
    site::{ACME_SERVER, CONNECTION, SITES, connection},
    topology::{STRANGER, gateway_address},
    watch::Watch,
};

/// Longest time until the gateway has ended a tunnel.
const PATIENCE: Duration = Duration::from_secs(60);
/// Packets that a server sends while the tunnel is down.
const BURST: usize = 5;
const BURST_INTERVAL: Duration = Duration::from_millis(10);

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "server_sends_while_tunnel_is_down",
        title: "acme server: keep sending while the tunnel is down",
        expected: Expected::Dropped { customer: "acme", reason: Reason::TunnelDown },
        run: while_tunnel_is_down,
    },
    Attack {
        name: "tunnel_goes_down_under_traffic",
        title: "acme server: keep sending as the tunnel goes down",
        expected: Expected::Dropped { customer: "acme", reason: Reason::TunnelDown },
        run: while_tunnel_goes_down,
    },
    Attack {
        name: "stranger_with_certificate_of_same_authority",
        title: "stranger: our CA's certificate, but for no site",
        expected: Expected::NoTunnel,
        run: |lab| intrude(lab, "stranger.example", &lab.authority),
    },
    Attack {
        name: "stranger_with_sites_identity_from_other_authority",
        title: "stranger: a site's identity, certified by another CA",
        expected: Expected::NoTunnel,
        run: |lab| intrude(lab, SITES[0].identity, &Authority::new("Other root")?),
    },
];

/// Takes the tunnel of an open connection down: the server's replies must not leave in plaintext.
fn while_tunnel_is_down(lab: &Lab) -> Result<Seen> {
    let (connection, replies) = open_connection(lab)?;
    let site = lab.site("berlin")?;
    let tunnel_id = lab.gateway_sa(site.spec)?.reqid;
    site.terminate()?;
    lab.wait_until_down(tunnel_id)?;
    let seen = send_from_server(lab, "acme", &replies);
    recover(lab, connection)?;
    seen
}

/// Takes the tunnel down while the server sends: the first packets are still encrypted, but none may leave
/// in plaintext.
fn while_tunnel_goes_down(lab: &Lab) -> Result<Seen> {
    let (connection, replies) = open_connection(lab)?;
    let server = lab.topology.server("acme")?;
    let site = lab.site("berlin")?;
    let tunnel_id = lab.gateway_sa(site.spec)?.reqid;
    let watch = Watch::start(lab)?;
    let over = AtomicBool::new(false);
    let (sent, down) = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                thread::sleep(BURST_INTERVAL);
                send_packets(server, &replies[..1])?;
                sent += 1;
            }
            Ok(sent)
        });
        thread::sleep(BURST_INTERVAL * 10);
        let down = site.terminate().and_then(|()| lab.wait_until_down(tunnel_id));
        thread::sleep(BURST_INTERVAL * 10);
        over.store(true, Ordering::Relaxed);
        Ok((sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?, down))
    })?;
    let leaks = watch.plaintext_on_the_internet()?;
    down?;
    recover(lab, connection)?;
    Ok(Seen { sent: sent?, dropped: DropCount::AtLeastOne, leaks })
}

/// Opens a connection from berlin's device, and builds replies that its server could send at any time.
fn open_connection(lab: &Lab) -> Result<(Connection, Vec<Packet>)> {
    let Conversation { connection, from_server, .. } = Conversation::open(lab.site("berlin")?, ACME_SERVER)?;
    Ok((connection, vec![from_server; BURST]))
}

/// Brings the tunnel up again; the connection must have survived.
fn recover(lab: &Lab, mut connection: Connection) -> Result<()> {
    lab.site("berlin")?.initiate()?;
    lab.wait_for_tunnels()?;
    connection.get("/after").map(drop)
}

/// Tries to bring berlin's tunnel up from the stranger, with this identity and a certificate for it.
fn intrude(lab: &Lab, identity: &str, issuer: &Authority) -> Result<Seen> {
    let namespace = &lab.topology.stranger;
    let mut charon = Charon::start(namespace, &lab.dir("stranger"))?;
    charon.wait_until_ready()?;
    let issued = issuer.issue(identity)?;
    let local =
        Local { identity: identity.to_owned(), certificate: issued.certificate_pem.as_bytes().into() };
    let way = (STRANGER.into(), gateway_address(&SITES[0]));
    let like_berlin = connection(local, lab.authority.certificate_pem(), way, &SITES[0])?;
    charon.load(&like_berlin, &issued.key_pem)?;

    let mut seen = watched(lab, 1, || {
        let refused = charon.initiate(CONNECTION, Duration::from_secs(20)).is_err();
        ensure!(!refused || was_refused(&charon)?, "initiation failed, but not because of the certificate");
        Ok(())
    })?;
    // charon accepts whoever the authority has certified; gatewayd binds sites only, and ends the others.
    let of_intruder = || -> Result<Vec<_>> {
        let on_both_ends = lab.gateway_sas()?.into_iter().chain(charon.list_sas()?);
        Ok(on_both_ends
            .filter(|sa| sa.remote_host == STRANGER || sa.remote_identity == "gateway.example")
            .collect())
    };
    let ended = wait_for("the gateway to end the intruder's tunnel", PATIENCE, || {
        Ok(of_intruder()?.is_empty().then_some(()))
    });
    let bound = lab.observed()?.bindings.len();
    seen.leaks.extend((bound != SITES.len()).then(|| format!("{bound} CHILD_SAs are bound")));
    if ended.is_err() {
        let described = |sa: Sa| format!("a tunnel with {} ({})", sa.remote_identity, sa.remote_host);
        seen.leaks.extend(of_intruder()?.into_iter().map(described));
    }
    Ok(seen)
}

/// Returns true if the gateway answered with AUTHENTICATION_FAILED.
fn was_refused(charon: &Charon) -> Result<bool> {
    Ok(charon.log()?.contains("received AUTHENTICATION_FAILED"))
}
