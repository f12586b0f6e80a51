//! Numbered requests in the background of a scenario, and the proof that none was lost.
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    capture::{Capture, Frame},
    device::Connection,
    lab::Lab,
    site::{Ends, SITES, Spec},
    topology::Topology,
};

/// Time between two requests. The families of a site take turns.
const INTERVAL: Duration = Duration::from_millis(30);
/// Every eighth request of a family has a connection of its own, so that flows open all the time.
const NEW_CONNECTION_EVERY: u64 = 8;
/// Time after the last answer for acknowledgements and FINs in flight.
const SETTLE: Duration = Duration::from_millis(300);

/// A client on a site's device that sends requests until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    site: &'static Spec,
    /// Position in [`Requests`](super::server::Requests) at the start.
    requests_before: usize,
    client: Client,
    at_device: Capture,
    at_server: Capture,
}

/// The sending thread. Dropping it stops the thread, so that no traffic outlives a failed test.
#[derive(Debug)]
struct Client {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

/// The traffic that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Requests sent; each reached its server once and was answered.
    pub requests: u64,
    /// TCP packets from the device; each reached the server.
    pub to_server: u64,
    /// TCP packets from the server; each reached the device.
    pub to_site: u64,
}

impl Traffic {
    /// Starts a client at the site with this name.
    pub fn start(lab: &Lab, name: &str) -> Result<Self> {
        let index =
            SITES.iter().position(|site| site.name == name).with_context(|| format!("no site {name}"))?;
        let site = &SITES[index];
        let at_device = Capture::start(&lab.topology.devices[index], "eth0")?;
        let at_server = Capture::start(lab.topology.server(site.customer)?, "eth0")?;
        let requests_before = lab.requests.count();
        let client = Client::start(lab.topology.clone(), index);
        Ok(Self { site, requests_before, client, at_device, at_server })
    }

    /// Stops and returns the number of requests. Fails if a request was lost, repeated or not answered;
    /// packets may have been lost and retransmitted.
    pub fn stop_requests(self, lab: &Lab) -> Result<u64> {
        self.end(lab).map(|(requests, ..)| requests)
    }

    /// Stops and returns the tally. Fails if a request was lost, repeated or not answered, or a packet lost.
    pub fn stop(self, lab: &Lab) -> Result<Tally> {
        let site = self.site;
        let (requests, at_device, at_server) = self.end(lab)?;
        let (device, server) = (at_device.stop()?, at_server.stop()?);
        let packets =
            |frames: &[Frame], outgoing: bool, to_server: bool| packets(frames, site, outgoing, to_server);
        let to_server = same(&packets(&device, true, true), &packets(&server, false, true), "to the server")?;
        let to_site = same(&packets(&server, true, false), &packets(&device, false, false), "to the device")?;
        Ok(Tally { requests, to_server, to_site })
    }

    fn end(self, lab: &Lab) -> Result<(u64, Capture, Capture)> {
        let site = self.site;
        let requests = self.client.stop()?;
        thread::sleep(SETTLE);

        let received = lab.requests.since(self.requests_before).into_iter();
        let received: Vec<_> = received.filter(|request| request.url.starts_with(&path_of(site))).collect();
        let astray = received.iter().find(|request| request.customer != site.customer);
        ensure!(
            astray.is_none(),
            "request {} of {} reached another customer's server",
            astray.map_or("", |request| &request.url),
            site.name
        );
        let received: Vec<_> = received.into_iter().map(|request| request.url).collect();
        let sent: Vec<_> = (0..requests).map(|number| format!("{}{number}", path_of(site))).collect();
        ensure!(received == sent, "{} sent {requests} requests, {} arrived", site.name, received.len());
        Ok((requests, self.at_device, self.at_server))
    }
}

impl Client {
    fn start(topology: Arc<Topology>, index: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || send_until(&topology, index, &stop)
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops and returns the number of requests that were sent and answered.
    fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("already stopped")?;
        thread.join().map_err(|_| anyhow!("a client panicked"))?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The test has already failed, with a better message.
            let _ = thread.join();
        }
    }
}

fn send_until(topology: &Topology, index: usize, stop: &AtomicBool) -> Result<u64> {
    let (site, device) = (&SITES[index], &topology.devices[index]);
    let open = |ends: &Ends| Connection::open(device, ends.server);
    let ends = site.ends();
    let mut kept = ends.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = format!("{}{number}", path_of(site));
        let family = number as usize % ends.len();
        let answer = if (number / ends.len() as u64).is_multiple_of(NEW_CONNECTION_EVERY) {
            open(&ends[family])?.get(&path)
        } else {
            kept[family].get(&path)
        };
        let answer = answer.with_context(|| format!("{} sent request {number}", site.name))?;
        ensure!(answer.contains(&path), "the answer to {path} is {answer:?}");
        number += 1;
        thread::sleep(INTERVAL);
    }
    Ok(number)
}

fn path_of(site: &Spec) -> String {
    format!("/traffic/{}/", site.full_name())
}

/// Identifies a packet at both ends: source, ports, numbers, flags, payload. The gateway may change TTL and
/// options.
type Identity = (IpAddr, [u16; 2], [u32; 2], [bool; 4], Vec<u8>);

/// Counts each TCP packet between the site's device and its server, in one direction.
fn packets(frames: &[Frame], site: &Spec, outgoing: bool, to_server: bool) -> BTreeMap<Identity, u64> {
    let ways: Vec<_> = site.ends().into_iter().map(|ends| ends.way(to_server)).collect();
    let mut counts = BTreeMap::new();
    for segment in frames.iter().filter(|frame| frame.outgoing == outgoing).filter_map(Frame::segment) {
        if ways.contains(&(segment.source, segment.destination)) {
            let header = segment.header;
            let flags = [header.syn, header.ack, header.fin, header.rst];
            let ports = [header.source_port, header.destination_port];
            let numbers = [header.sequence_number, header.acknowledgment_number];
            *counts.entry((segment.source, ports, numbers, flags, segment.payload)).or_default() += 1;
        }
    }
    counts
}

/// Returns the number of packets. Fails unless exactly the packets sent have arrived.
fn same(sent: &BTreeMap<Identity, u64>, arrived: &BTreeMap<Identity, u64>, way: &str) -> Result<u64> {
    let (sent_count, arrived_count): (u64, u64) = (sent.values().sum(), arrived.values().sum());
    ensure!(
        sent == arrived,
        "{sent_count} packets sent {way}, {arrived_count} arrived, not exactly those sent"
    );
    Ok(sent_count)
}
