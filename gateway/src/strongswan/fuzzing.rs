//! Parses a frame from charon in every way that `Client` and `Events` do. Entry point of tests/fuzz.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use tokio_util::bytes::Bytes;

use super::{
    events::Event,
    message::Message,
    packet::Packet,
    raw_sa::RawIkeSa,
    reply::{NamedSection, Reply},
    sa::IkeSa,
    version::Version,
};

/// The readable content of a frame.
#[derive(Debug, Default)]
pub struct Frame {
    /// True if the frame is a packet with a well-formed message.
    pub packet: bool,
    /// The IKE_SA of a streamed `list-sa`.
    pub sa: Option<IkeSa>,
    /// Any other event.
    pub event: Option<Event>,
}

/// Reads a frame, without its length field, as `Client` and `Events` do.
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
    let NamedSection(name, raw) = message.decode::<NamedSection<RawIkeSa<'_>>>().ok()?;
    raw.parse(name, &mut Vec::new()).ok()
}
