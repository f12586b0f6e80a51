//! An attack on GRO, which must not merge two tunnels (docs/facts.md: gro-merges-tunnels).
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
/// Longer than any TCP delays an acknowledgement.
const DELAYED_ACK: Duration = Duration::from_millis(250);
const INJECTED: &[u8] = b"-and-these-are-globexs";

pub const ATTACKS: &[Attack] = &[Attack {
    name: "gro_does_not_merge_two_tunnels",
    title: "globex springfield: inject into acme's flow via GRO",
    expected: Expected::Dropped { customer: "globex", reason: Reason::DestinationNotServer },
    run: inject,
}];

/// Sends the first half of a request from acme's device, and from globex, whose LAN is the same, the segment
/// that would follow it in the same connection. A plug on the last link makes both ESP packets reach the
/// gateway in one burst. Then acme sends its whole request, and acme's server must see exactly that.
///
/// The first half is a raw packet: a socket's packets carry a flow hash through the whole lab, unlike
/// packets of the real internet, and GRO would see two different flows. The sending TCP does not know of the
/// raw packet and sends the same bytes again as part of the request; the server's TCP takes them as a
/// retransmission.
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
    let genuine = last.context("the device sent nothing")?.next(first_half.as_bytes());
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
        Ok(body) => leaks.push(format!("acme's server answered {body:?}")),
        Err(error) => leaks.push(format!("acme's connection is broken: {error:#}")),
    }
    let received = lab.requests.since(received_before);
    let foreign = received.iter().filter(|request| request.customer != "acme" || request.url != OWN_BYTES);
    leaks.extend(foreign.map(|request| format!("{}'s server received {}", request.customer, request.url)));
    Ok(Seen { sent: 1, leaks, ..Seen::default() })
}

/// A queueing discipline that holds back all packets to the gateway. Dropping it releases them.
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
        // A failure here shows soon enough: no packet reaches the gateway any more.
        let _ = tc(self.internet, &["del", "dev", "gateway", "root"]);
    }
}

fn tc(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    output(namespace.command("tc").arg("qdisc").args(arguments)).map(drop)
}
