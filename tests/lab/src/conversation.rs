//! An open connection, and packets of it to test what the gateway lets through.
use std::{cmp::Ordering, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use gateway_tests_kit::process::wait_for;

use crate::{
    capture::{Capture, Segment},
    device::Connection,
    frame::Packet,
    lab::Site,
};

/// Timeout until both ends have acknowledged everything. TCP delays an acknowledgement by at most 200 ms.
const QUIET: Duration = Duration::from_secs(60);

/// An open connection with nothing in flight.
#[derive(Debug)]
pub struct Conversation {
    /// The device's end.
    pub connection: Connection,
    /// A duplicate of the device's last acknowledgement. It is within the window of any tracker and changes
    /// nothing at either end.
    pub from_device: Packet,
    /// A duplicate of the server's last acknowledgement.
    pub from_server: Packet,
}

impl Conversation {
    /// Connects a site's device to its server at this address, sends one request, and waits until both ends
    /// have acknowledged everything.
    pub fn open(site: Site<'_>, server: impl Into<IpAddr>) -> Result<Self> {
        let capture = Capture::start(site.device, "eth0")?;
        let mut connection = Connection::open(site.device, server)?;
        connection.get("/before")?;
        let port = connection.local_port()?;
        let (device, server) = wait_for("both ends to be quiet", QUIET, || {
            let frames = capture.frames();
            let furthest = |outgoing, port_of: fn(&Segment) -> u16| {
                frames
                    .iter()
                    .filter(|frame| frame.outgoing == outgoing)
                    .filter_map(|frame| frame.segment())
                    .filter(|segment| port_of(segment) == port)
                    .map(|segment| segment.next(b""))
                    .max_by(progress)
            };
            let device = furthest(true, |segment| segment.header.source_port);
            let server = furthest(false, |segment| segment.header.destination_port);
            let quiet = |(a, b): &(Segment, Segment)| acknowledges(a, b) && acknowledges(b, a);
            Ok(device.zip(server).filter(quiet))
        })
        .with_context(|| format!("the connection of {}", site.spec.full_name()))?;
        Ok(Self { connection, from_device: device.to_packet(), from_server: server.to_packet() })
    }
}

/// Orders segments of one end by sequence number, then acknowledgement. Order of arrival will not do:
/// segments may be retransmitted or reordered.
fn progress(one: &Segment, other: &Segment) -> Ordering {
    let serial = |a: u32, b: u32| a.wrapping_sub(b).cast_signed().cmp(&0);
    let acknowledged = |segment: &Segment| segment.header.acknowledgment_number;
    serial(one.header.sequence_number, other.header.sequence_number)
        .then_with(|| serial(acknowledged(one), acknowledged(other)))
}

fn acknowledges(one: &Segment, other: &Segment) -> bool {
    one.header.acknowledgment_number == other.header.sequence_number
}
