//! Everything that becomes of a frame from charon, without charon; for tests/fuzz.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use tokio_util::bytes::Bytes;

use super::{
    Event, IkeSa, Version,
    message::Message,
    packet::Packet,
    raw_sa::RawIkeSa,
    reply::{OneNamed, Reply},
};

/// What could be read in a frame.
#[derive(Debug, Default)]
pub struct Frame {
    /// It is a packet, its message well formed.
    pub packet: bool,
    /// Of a streamed `list-sa`.
    pub sa: Option<IkeSa>,
    /// Of any other event.
    pub event: Option<Event>,
}

/// Reads a frame (without its length) as `Client` and `Events` would.
pub fn read(frame: &[u8]) -> Frame {
    match Packet::parse(Bytes::copy_from_slice(frame)) {
        Err(_) => Frame::default(),
        Ok(Packet::Response(message)) => {
            let _ = message.decode::<Version>();
            let _ = Reply::decode("load-conn", &message);
            Frame { packet: true, ..Frame::default() }
        }
        Ok(Packet::Event { name, message }) if name == "list-sa" => {
            Frame { packet: true, sa: read_sa(&message), event: None }
        }
        Ok(Packet::Event { name, message }) => {
            let _ = message.decode::<BTreeMap<String, IgnoredAny>>();
            Frame { packet: true, sa: None, event: Event::decode(&name, &message).ok() }
        }
        Ok(Packet::UnknownCommand | Packet::EventConfirm | Packet::UnknownEvent) => {
            Frame { packet: true, ..Frame::default() }
        }
    }
}

fn read_sa(message: &Message) -> Option<IkeSa> {
    let OneNamed(name, raw) = message.decode::<OneNamed<RawIkeSa<'_>>>().ok()?;
    raw.parse(name, &mut Vec::new()).ok()
}
