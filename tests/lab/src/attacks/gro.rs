//! GRO must not merge two tunnels (FACTS 8).
use std::{thread, time::Duration};

use anyhow::{Context, Result};
use gateway_common::reason::Reason;
use gateway_tests_kit::{namespace::Namespace, process::output};

use crate::{
    attack::{Attack, Expected, Seen},
    capture::Capture,
    device::Connection,
    frame::send_packets,
    lab::Lab,
    site::ACME_SERVER,
};

const OWN_BYTES: &str = "/gro?these-are-acmes-own-bytes";
/// Longer than any TCP waits with an acknowledgement.
const DELAYED_ACK: Duration = Duration::from_millis(250);
const INJECTED: &[u8] = b"-and-these-are-globexs";

pub const ATTACKS: &[Attack] = &[Attack {
    name: "gro_does_not_merge_two_tunnels",
    what: "two tunnels' segments back to back, GRO on",
    expected: Expected::Dropped { customer: "globex", reason: Reason::DestinationNotServer },
    run: inject,
}];

/// acme's device sends the first half of a request; globex, whose LAN is the same, the segment that
/// would come next in that very connection. A plug on the last link lets both ESP packets reach the
/// gateway in one burst. Then acme sends all of its request, and its server must see just that.
///
/// The first half is a raw packet, since a socket's carries a flow hash from end to end of the lab,
/// as no packet of the real internet does, and GRO would find the two different. Its sender's TCP does
/// not know of it and sends it once more as part of the whole, which its server's TCP has then already.
fn inject(lab: &Lab) -> Result<Seen> {
    let (berlin, springfield) = (lab.site("berlin")?, lab.site("springfield")?);
    let internet = &lab.topology.internet;
    let sent = Capture::start(berlin.device, "eth0")?;
    let mut connection = Connection::open(berlin.device, ACME_SERVER)?;
    connection.get("/before")?;
    thread::sleep(DELAYED_ACK);
    let received_before = lab.requests.count();
    let request = connection.request(OWN_BYTES);
    let (first_half, _) = request.split_at(request.find(" HTTP").context("no request line")?);
    let last = sent
        .stop()?
        .into_iter()
        .filter(|frame| frame.outgoing)
        .filter_map(|frame| frame.segment())
        .next_back();
    let genuine = last.context("the device has sent nothing")?.next(first_half.as_bytes());
    let injected = genuine.next(INJECTED);

    let arrivals = [Capture::start(internet, "berlin")?, Capture::start(internet, "springfield")?];
    let plug = Plug::insert(internet)?;
    for ((site, segment), arrival) in [(berlin, genuine), (springfield, injected)].into_iter().zip(&arrivals)
    {
        send_packets(site.device, &[segment.to_packet()])?;
        arrival.wait_for("an ESP packet", |frame| frame.is_esp_in().then_some(()))?;
    }
    plug.release()?;

    connection.send(request.as_bytes())?;
    let mut leaks = Vec::new();
    match connection.receive() {
        Ok(body) if body.contains(&format!("{OWN_BYTES}\n")) => {}
        Ok(body) => leaks.push(format!("acme's server answers {body:?}")),
        Err(error) => leaks.push(format!("acme's connection is broken: {error:#}")),
    }
    let received = lab.requests.since(received_before);
    let foreign = received.iter().filter(|request| request.customer != "acme" || request.url != OWN_BYTES);
    leaks.extend(foreign.map(|request| format!("{}'s server received {}", request.customer, request.url)));
    Ok(Seen { sent: 1, leaks, ..Seen::default() })
}

/// A queueing discipline that holds all packets to the gateway back. Dropping it lets them go.
struct Plug<'a> {
    internet: &'a Namespace,
}

impl<'a> Plug<'a> {
    fn insert(internet: &'a Namespace) -> Result<Self> {
        tc(internet, &["add", "dev", "gateway", "root", "plug", "limit", "1000000"])?;
        Ok(Self { internet })
    }

    fn release(self) -> Result<()> {
        tc(self.internet, &["change", "dev", "gateway", "root", "plug", "release_indefinite"])
    }
}

impl Drop for Plug<'_> {
    fn drop(&mut self) {
        // What fails here shows as a lab without a way to the gateway.
        let _ = tc(self.internet, &["del", "dev", "gateway", "root"]);
    }
}

fn tc(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    output(namespace.command("tc").arg("qdisc").args(arguments)).map(drop)
}
