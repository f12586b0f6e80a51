//! The VICI client against real charons.

mod charon;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use charon::{Pair, days, load};
use gateway::{
    control::{bindings::CONNECTION, desired::Credentials},
    session::{Session, Setup},
    strongswan::{
        ChildState, Client, Error, Event, EventKind, Events, IkeState, Loaded, Marks, Notice, PeerIdentity,
        Supervisor,
    },
};
use gateway_tests_kit::pki::{Authority, Revoked};
use libtest_mimic::{Arguments, Trial};
use tokio::time::{sleep, timeout};

/// Time limit of a wait, far above what any step needs and far below charon's own timeouts.
const PATIENCE: Duration = Duration::from_secs(20);
const SITE: &str = "berlin.acme.example";

type Test = fn() -> Result<()>;

fn main() -> std::process::ExitCode {
    let tests: [(&str, Test); 17] = [
        ("version_is_that_of_charon", || run(version_is_that_of_charon)),
        ("connections_are_loaded_listed_and_unloaded", || run(connections_are_loaded)),
        ("garbage_is_refused_with_charons_message", || run(garbage_is_refused)),
        ("tunnel_is_listed_with_identity_reqid_and_spis", || run(tunnel_is_listed)),
        ("child_rekey_keeps_the_reqid_and_sends_an_event", || run(child_rekey_sends_an_event)),
        ("ike_rekey_and_reauthentication_keep_the_reqid", || run(ike_rekey_keeps_reqid)),
        ("tunnel_to_a_dead_peer_is_terminated_at_once", || run(terminate_dead_peer)),
        ("crashed_site_replaces_its_own_tunnel", || run(crashed_site_replaces)),
        ("another_identity_neither_connects_nor_displaces", || run(stranger_is_refused)),
        ("wildcard_connection_serves_any_identity_and_events_tell_it", || run(wildcard_serves_any)),
        ("what_is_loaded_is_told_and_unloading_is_seen", || run(loaded_is_told)),
        ("session_without_credentials_leaves_charon_what_it_has", || run(session_without_credentials)),
        ("revoked_certificate_is_refused", || run(revoked_is_refused)),
        ("pending_command_fails_at_once_when_charon_is_killed", || run(killed_charon_fails_pending)),
        ("hung_charon_times_out_and_the_connection_closes", || run(hung_charon_times_out)),
        ("supervisor_reconnects_after_charon_was_killed", || run(supervisor_reconnects)),
        ("dropped_call_does_not_shift_answers", || run(dropped_call_is_harmless)),
    ];
    let missing = charon::missing();
    if let Some(reason) = &missing {
        eprintln!("SKIPPED: all tests with a real charon: {reason}");
    }
    let trials = tests
        .map(|(name, test)| {
            Trial::test(name, move || test().map_err(|error| format!("{error:#}").into()))
                .with_ignored_flag(missing.is_some())
        })
        .into();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs a test with a new pair. A failure includes the log of the gateway's charon.
fn run(test: impl AsyncFnOnce(&mut Pair) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut pair = Pair::start()?;
    let outcome = runtime.block_on(test(&mut pair));
    outcome.with_context(|| format!("gateway's charon:\n{}", pair.gateway.log()))
}

async fn version_is_that_of_charon(pair: &mut Pair) -> Result<()> {
    let version = Client::connect(&pair.gateway.socket()).await?.version().await?;
    ensure!(version.daemon == "charon" && version.version.starts_with('5'), "{version:?}");
    Ok(())
}

async fn connections_are_loaded(pair: &mut Pair) -> Result<()> {
    let client = Client::connect(&pair.gateway.socket()).await?;
    for site in ["berlin.acme.example", "paris.acme.example"] {
        let (mut connection, issued) = pair.gateway_connection(site)?;
        connection.children[0].marks = Marks::Fixed(101);
        load(&client, (connection, issued)).await?;
    }
    let mut names = client.list_conns().await?;
    names.sort();
    ensure!(names == ["to-berlin.acme.example", "to-paris.acme.example"], "{names:?}");
    client.unload_conn("to-berlin.acme.example").await?;
    ensure!(client.list_conns().await? == ["to-paris.acme.example"]);
    let again = client.unload_conn("to-berlin.acme.example").await;
    ensure!(matches!(again, Err(Error::Refused { .. })), "{again:?}");
    Ok(())
}

async fn garbage_is_refused(pair: &mut Pair) -> Result<()> {
    let client = Client::connect(&pair.gateway.socket()).await?;
    let key = client.load_key(b"no key").await;
    ensure!(matches!(&key, Err(Error::Refused { reason, .. }) if reason.contains("key")), "{key:?}");
    let (mut connection, issued) = pair.gateway_connection(SITE)?;
    let id = client.load_key(issued.key_pem.as_bytes()).await?;
    ensure!(id.len() == 40, "{id}");
    client.unload_key(&id).await?;
    connection.proposals = vec!["rot13".into()];
    let loaded = client.load_conn(&connection).await;
    ensure!(matches!(loaded, Err(Error::Refused { .. })), "{loaded:?}");
    connection.remote.identity = PeerIdentity::Name("*.acme.example".into());
    let loaded = client.load_conn(&connection).await;
    ensure!(matches!(loaded, Err(Error::Invalid { .. })), "{loaded:?}");
    // The VICI connection stays usable.
    client.load_authority("root", pair.authority.certificate_pem().as_bytes()).await?;
    client.load_certificate(issued.certificate_pem.as_bytes()).await?;
    client.clear_credentials().await?;
    Ok(())
}

async fn tunnel_is_listed(pair: &mut Pair) -> Result<()> {
    let (gateway, _site) = pair.up().await?;
    let list = gateway.list_sas().await?;
    ensure!(list.faults.is_empty() && list.sas.len() == 1, "{list:?}");
    let sa = &list.sas[0];
    ensure!(sa.name == "to-berlin.acme.example" && sa.state == IkeState::Established, "{sa:?}");
    ensure!(sa.remote_id == SITE && sa.local_id == "gateway.example" && !sa.initiator, "{sa:?}");
    ensure!(sa.remote_host.to_string() == charon::SITE, "{sa:?}");
    ensure!(sa.algorithms.to_string() == "AES_GCM_16_256/PRF_HMAC_SHA2_512/CURVE_25519", "{sa:?}");
    let [child] = &sa.children[..] else { bail!("{sa:?}") };
    ensure!(child.reqid == 101 && child.state == ChildState::Installed, "{child:?}");
    ensure!(child.spi_in.is_some() && child.spi_out.is_some() && child.encap, "{child:?}");
    ensure!(child.algorithms.to_string() == "AES_GCM_16_256", "{child:?}");
    let selectors = format!("{:?} {:?}", child.local_ts, child.remote_ts);
    ensure!(selectors == "[Net(10.200.0.11/32)] [Net(192.168.0.0/16)]", "{selectors}");
    Ok(())
}

async fn child_rekey_sends_an_event(pair: &mut Pair) -> Result<()> {
    let mut events = Events::connect(&pair.gateway.socket()).await?;
    let (gateway, _site) = pair.up().await?;
    let up = wait_for(&mut events, EventKind::ChildUp).await?;
    ensure!(up.children.len() == 1 && up.children[0].reqid == 101, "{up:?}");
    gateway.rekey_child(up.children[0].unique_id).await?;
    let rekey = wait_for(&mut events, EventKind::ChildRekey).await?;
    let [old, new] = &rekey.children[..] else { bail!("{rekey:?}") };
    ensure!(old.spi_in == up.children[0].spi_in && new.spi_in != old.spi_in, "{rekey:?}");
    ensure!(new.reqid == 101 && rekey.ike == "to-berlin.acme.example", "{rekey:?}");
    // Perfect forward secrecy: from the first rekey on, a CHILD_SA has its own key exchange.
    ensure!(new.algorithms.key_exchange.as_deref() == Some("CURVE_25519"), "{new:?}");
    Ok(())
}

async fn ike_rekey_keeps_reqid(pair: &mut Pair) -> Result<()> {
    let mut events = Events::connect(&pair.gateway.socket()).await?;
    let (gateway, site) = pair.up().await?;
    let before = gateway.list_sas().await?.sas.remove(0);
    gateway.rekey_ike(before.unique_id).await?;
    let rekey = wait_for(&mut events, EventKind::IkeRekey).await?;
    ensure!(rekey.unique_id.is_some_and(|id| id != before.unique_id), "{rekey:?}");
    let after = established(&gateway).await?;
    ensure!(after.children.len() == 1 && after.children[0].reqid == 101, "{after:?}");
    ensure!(after.children[0].spi_in == before.children[0].spi_in, "{after:?}");
    let id = established(&site).await?.unique_id;
    site.reauthenticate(id).await?;
    wait_for(&mut events, EventKind::IkeDown).await?;
    let up = wait_for(&mut events, EventKind::ChildUp).await?;
    ensure!(up.children[0].reqid == 101, "{up:?}");
    Ok(())
}

async fn terminate_dead_peer(pair: &mut Pair) -> Result<()> {
    let (gateway, _site) = pair.up().await?;
    pair.site.freeze()?;
    let sa = established(&gateway).await?;
    let asked = Instant::now();
    // Without waiting for the peer, which does not answer.
    gateway.terminate_child(sa.children[0].unique_id).await?;
    gateway.terminate_ike(sa.unique_id).await?;
    ensure!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let list = gateway.list_sas().await?;
    ensure!(list.sas.is_empty(), "{list:?}");
    Ok(())
}

async fn crashed_site_replaces(pair: &mut Pair) -> Result<()> {
    let (gateway, _site) = pair.up().await?;
    let old = established(&gateway).await?;
    pair.site.stop();
    pair.site.start()?;
    let site = Client::connect(&pair.site.socket()).await?;
    load(&site, pair.site_connection(SITE)?).await?;
    site.initiate("tunnel", Duration::from_secs(20)).await?;
    let list = gateway.list_sas().await?;
    let [new] = &list.sas[..] else { bail!("expected one IKE_SA: {list:?}") };
    ensure!(new.unique_id != old.unique_id && new.children[0].reqid == 101, "{new:?}");
    Ok(())
}

async fn stranger_is_refused(pair: &mut Pair) -> Result<()> {
    let (gateway, site) = pair.up().await?;
    let before = established(&gateway).await?;
    // A valid certificate of the same CA, for a site without a connection.
    let (mut connection, issued) = pair.site_connection("paris.acme.example")?;
    connection.name = "stranger".into();
    connection.children[0].name = "stranger".into();
    load(&site, (connection.clone(), issued.clone())).await?;
    let refused = site.initiate("stranger", Duration::from_secs(5)).await;
    ensure!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    // The site's identity, certified by another CA of the same name.
    let foreign = Authority::new("test root", days(-1, 30))?.issue(SITE, days(-1, 30))?;
    connection.local.identity = SITE.into();
    connection.local.certificate = foreign.certificate_pem.as_bytes().into();
    site.clear_credentials().await?;
    load(&site, (connection, foreign)).await?;
    let refused = site.initiate("stranger", Duration::from_secs(5)).await;
    ensure!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let received = pair.gateway.log().contains("received end entity cert \"CN=berlin");
    ensure!(received, "the gateway did not receive the certificate");
    let after = established(&gateway).await?;
    ensure!(after.unique_id == before.unique_id, "displaced: {after:?}");
    ensure!(after.children[0].spi_in == before.children[0].spi_in, "displaced: {after:?}");
    Ok(())
}

/// One connection for all: the authenticated identity is in the events, and one CHILD_SA of several ends alone.
async fn wildcard_serves_any(pair: &mut Pair) -> Result<()> {
    let mut events = Events::connect(&pair.gateway.socket()).await?;
    let gateway = Client::connect(&pair.gateway.socket()).await?;
    let site = Client::connect(&pair.site.socket()).await?;
    let (mut connection, issued) = pair.gateway_connection(SITE)?;
    connection.name = "sites".into();
    connection.remote.identity = PeerIdentity::Any;
    let child = &mut connection.children[0];
    (child.reqid, child.marks) = (None, Marks::Unique);
    (child.local_ts, child.remote_ts) = (vec!["0.0.0.0/0".parse()?], vec!["0.0.0.0/0".parse()?]);
    load(&gateway, (connection, issued)).await?;
    let (mut connection, issued) = pair.site_connection("paris.acme.example")?;
    let mut second = connection.children[0].clone();
    second.name = "second".into();
    second.remote_ts = vec!["10.200.0.0/24".parse()?];
    connection.children.push(second);
    load(&site, (connection, issued)).await?;
    site.initiate("tunnel", PATIENCE).await?;
    let up = wait_for(&mut events, EventKind::ChildUp).await?;
    let sa = up.sa.as_ref().context("the event has no IKE_SA")?;
    ensure!(sa.remote_id == "paris.acme.example" && sa.state == IkeState::Established, "{up:?}");
    ensure!(sa.remote_host.to_string() == charon::SITE && up.ike == "sites", "{up:?}");
    let [first] = &up.children[..] else { bail!("{up:?}") };
    ensure!(first.reqid != 0 && first.mark_in != 0 && first.mark_in == first.mark_out, "{first:?}");
    let selectors = format!("{:?} {:?}", first.local_ts, first.remote_ts);
    ensure!(selectors == "[Net(10.200.0.11/32)] [Net(192.168.0.0/16)]", "{selectors}");

    site.initiate("second", PATIENCE).await?;
    let up = wait_for(&mut events, EventKind::ChildUp).await?;
    ensure!(up.children[0].mark_in > first.mark_in, "{up:?}");
    gateway.terminate_child(up.children[0].unique_id).await?;
    let down = wait_for(&mut events, EventKind::ChildDown).await?;
    ensure!(down.children[0].unique_id == up.children[0].unique_id, "{down:?}");
    let list = gateway.list_sa(sa.unique_id).await?.sas;
    let [left] = &list[..] else { bail!("{list:?}") };
    ensure!(left.children.iter().any(|child| child.unique_id == first.unique_id), "{left:?}");
    ensure!(gateway.list_sa(sa.unique_id + 1).await?.sas.is_empty());

    gateway.rekey_ike(sa.unique_id).await?;
    let rekey = wait_for(&mut events, EventKind::IkeRekey).await?;
    ensure!(rekey.replaced == Some(sa.unique_id) && rekey.unique_id > rekey.replaced, "{rekey:?}");
    ensure!(rekey.sa.is_some_and(|sa| sa.remote_id == "paris.acme.example"));
    Ok(())
}

async fn loaded_is_told(pair: &mut Pair) -> Result<()> {
    let client = Client::connect(&pair.gateway.socket()).await?;
    ensure!(client.loaded().await? == Loaded::default());
    let (connection, issued) = pair.gateway_connection(SITE)?;
    let key = client.load_key(issued.key_pem.as_bytes()).await?;
    client.load_authority("gateway", pair.authority.certificate_pem().as_bytes()).await?;
    client.load_conn(&connection).await?;
    let all = Loaded {
        connections: vec![connection.name.clone()],
        authorities: vec!["gateway".into()],
        keys: vec![key],
    };
    ensure!(client.loaded().await? == all);
    let other = Client::connect(&pair.gateway.socket()).await?;
    other.clear_credentials().await?;
    other.unload_conn(&connection.name).await?;
    ensure!(client.loaded().await? == Loaded { authorities: all.authorities, ..Loaded::default() });
    let process = client.process().context("the process is not told")?;
    ensure!(other.process() == Some(process));
    pair.gateway.stop();
    pair.gateway.start()?;
    let anew = Client::connect(&pair.gateway.socket()).await?.process();
    ensure!(anew.is_some() && anew != Some(process), "{anew:?}, before {process:?}");
    Ok(())
}

async fn session_without_credentials(pair: &mut Pair) -> Result<()> {
    let client = Client::connect(&pair.gateway.socket()).await?;
    let (mut connection, issued) = pair.gateway_connection(SITE)?;
    connection.name = CONNECTION.into();
    let authority = pair.authority.certificate_pem().as_bytes();
    client.load_authority("gateway", authority).await?;
    load(&client, (connection.clone(), issued.clone())).await?;
    let before = client.loaded().await?;
    client.load_conn(&pair.gateway_connection("paris.acme.example")?.0).await?;
    let session = Session::start(pair.gateway.socket(), pair.directory.join("record"), None);
    // Its look unloads what is foreign, and nothing else.
    wait_until_loaded(&client, |loaded| *loaded == before).await?;
    client.unload_conn(CONNECTION).await?;
    sleep(Duration::from_millis(1200)).await;
    ensure!(client.loaded().await? == Loaded { connections: Vec::new(), ..before.clone() });
    let credentials = Credentials {
        certificate: issued.certificate_pem.as_bytes().into(),
        private_key: issued.key_pem.as_bytes().into(),
        authority: authority.into(),
    };
    session.set_up(Setup { credentials, connection });
    wait_until_loaded(&client, |loaded| *loaded == before).await
}

/// Waits until what charon has loaded satisfies `holds`.
async fn wait_until_loaded(client: &Client, holds: impl Fn(&Loaded) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds(&client.loaded().await?) {
        ensure!(Instant::now() < deadline, "charon has loaded {:?}", client.loaded().await?);
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn revoked_is_refused(pair: &mut Pair) -> Result<()> {
    let (gateway, site) =
        (Client::connect(&pair.gateway.socket()).await?, Client::connect(&pair.site.socket()).await?);
    load(&gateway, pair.gateway_connection(SITE)?).await?;
    let (connection, issued) = pair.site_connection(SITE)?;
    let serial = issued.serial.clone();
    load(&site, (connection, issued)).await?;
    let crl = pair.authority.revoke(&[], 1, days(-1, 30))?;
    gateway.load_crl(crl.as_bytes()).await?;
    site.initiate("tunnel", PATIENCE).await.context("the certificate is not revoked yet, but was refused")?;
    gateway.terminate_ike(established(&gateway).await?.unique_id).await?;
    let at = days(-1, 0).from;
    let crl = pair.authority.revoke(&[Revoked { serial, at }], 2, days(-1, 30))?;
    gateway.load_crl(crl.as_bytes()).await?;
    let refused = site.initiate("tunnel", PATIENCE).await;
    ensure!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    Ok(())
}

async fn killed_charon_fails_pending(pair: &mut Pair) -> Result<()> {
    let client = Client::connect(&pair.gateway.socket()).await?;
    // A stopped charon cannot answer, so the command stays pending.
    pair.gateway.freeze()?;
    let pending = tokio::spawn({
        let client = client.clone();
        async move { client.list_sas().await }
    });
    let queued = tokio::spawn({
        let client = client.clone();
        async move { client.version().await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(!pending.is_finished() && !queued.is_finished());
    let killed = Instant::now();
    pair.gateway.stop();
    let (pending, queued) = (pending.await?, queued.await?);
    ensure!(matches!(pending, Err(Error::Closed | Error::Io(_))), "{pending:?}");
    ensure!(matches!(queued, Err(Error::Closed)), "{queued:?}");
    ensure!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    client.closed().await;
    Ok(())
}

async fn hung_charon_times_out(pair: &mut Pair) -> Result<()> {
    let client = Client::connect(&pair.gateway.socket()).await?;
    pair.gateway.freeze()?;
    let answer = timeout(Duration::from_secs(12), client.version()).await?;
    ensure!(matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
    // The late answer must not be taken for that of the next command.
    pair.gateway.thaw()?;
    timeout(PATIENCE, client.closed()).await?;
    ensure!(matches!(client.list_sas().await, Err(Error::Closed)));
    Ok(())
}

async fn supervisor_reconnects(pair: &mut Pair) -> Result<()> {
    let mut supervisor = Supervisor::start(pair.gateway.socket());
    for _ in 0..2 {
        let Notice::Connected(client) = notice(&mut supervisor).await? else { bail!("no client") };
        client.version().await?;
        let killed = Instant::now();
        pair.gateway.stop();
        let gone = notice(&mut supervisor).await?;
        ensure!(matches!(gone, Notice::Disconnected(_)), "{gone:?}");
        ensure!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        pair.gateway.start()?;
    }
    let Notice::Connected(client) = notice(&mut supervisor).await? else { bail!("no client") };
    load(&client, pair.gateway_connection(SITE)?).await?;
    let site = Client::connect(&pair.site.socket()).await?;
    load(&site, pair.site_connection(SITE)?).await?;
    site.initiate("tunnel", PATIENCE).await?;
    loop {
        match notice(&mut supervisor).await? {
            Notice::Event(Event { kind: EventKind::ChildUp, children, .. }) => {
                ensure!(children[0].reqid == 101, "{children:?}");
                return Ok(());
            }
            Notice::Event(_) => {}
            other => bail!("{other:?}"),
        }
    }
}

async fn dropped_call_is_harmless(pair: &mut Pair) -> Result<()> {
    let (gateway, _site) = pair.up().await?;
    let expected = gateway.version().await?;
    for microseconds in 0..200 {
        let _ = timeout(Duration::from_micros(microseconds * 10), gateway.list_sas()).await;
        let _ = timeout(Duration::from_micros(microseconds * 10), gateway.list_conns()).await;
        ensure!(gateway.version().await? == expected);
    }
    ensure!(gateway.list_sas().await?.sas.len() == 1);
    Ok(())
}

async fn wait_for(events: &mut Events, kind: EventKind) -> Result<Event> {
    let next = async {
        loop {
            let event = events.next().await?;
            if event.kind == kind {
                return Ok(event);
            }
        }
    };
    timeout(PATIENCE, next).await.with_context(|| format!("no {kind:?}"))?
}

async fn notice(supervisor: &mut Supervisor) -> Result<Notice> {
    timeout(PATIENCE, supervisor.next()).await.context("no notice")
}

/// Waits until exactly one IKE_SA with children is established and returns it.
async fn established(client: &Client) -> Result<gateway::strongswan::IkeSa> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut sas = client.list_sas().await?.sas;
        sas.retain(|sa| sa.state == IkeState::Established && !sa.children.is_empty());
        match sas.pop() {
            Some(sa) if sas.is_empty() => return Ok(sa),
            _ => ensure!(Instant::now() < deadline, "there is not exactly one established IKE_SA"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
