//! The packet layer: each frame holds one packet: a type byte, a name for some types, then a message.

use tokio_util::bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{error::Error, frame::MAX_FRAME_BYTES, message::Message};

const CMD_REQUEST: u8 = 0;
const CMD_RESPONSE: u8 = 1;
const CMD_UNKNOWN: u8 = 2;
const EVENT_REGISTER: u8 = 3;
const EVENT_CONFIRM: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
const EVENT: u8 = 7;

/// A packet from charon.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Response(Message),
    UnknownCommand,
    EventConfirm,
    UnknownEvent,
    Event { name: String, message: Message },
}

/// Returns the packet of a command with its encoded arguments.
pub(super) fn request(command: &str, message: &[u8]) -> Result<Bytes, Error> {
    named(CMD_REQUEST, command, message)
}

/// Returns the packet that registers for an event.
pub(super) fn register(event: &str) -> Result<Bytes, Error> {
    named(EVENT_REGISTER, event, &[])
}

fn named(kind: u8, name: &str, message: &[u8]) -> Result<Bytes, Error> {
    let length =
        u8::try_from(name.len()).map_err(|_| Error::invalid("command", name, "at most 255 bytes"))?;
    if 2 + name.len() + message.len() > MAX_FRAME_BYTES {
        return Err(Error::invalid("message", name, "at most 512 KiB"));
    }
    let mut packet = BytesMut::with_capacity(2 + name.len() + message.len());
    packet.put_u8(kind);
    packet.put_u8(length);
    packet.put_slice(name.as_bytes());
    packet.put_slice(message);
    Ok(packet.freeze())
}

impl Packet {
    /// Parses one frame including its message. Returns [`Error::Malformed`] if it is not a packet.
    pub(super) fn parse(mut frame: Bytes) -> Result<Self, Error> {
        match frame.try_get_u8().map_err(|_| Error::malformed("empty packet"))? {
            CMD_RESPONSE => Ok(Self::Response(Message::parse(frame)?)),
            CMD_UNKNOWN => Ok(Self::UnknownCommand),
            EVENT_CONFIRM => Ok(Self::EventConfirm),
            EVENT_UNKNOWN => Ok(Self::UnknownEvent),
            EVENT => {
                let name = event_name(&mut frame)?;
                Ok(Self::Event { name, message: Message::parse(frame)? })
            }
            other => Err(Error::malformed(format!("packet type {other}"))),
        }
    }
}

fn event_name(frame: &mut Bytes) -> Result<String, Error> {
    let length = frame.try_get_u8().map_err(|_| Error::malformed("event without a name"))?;
    if frame.len() < usize::from(length) {
        return Err(Error::malformed("event name cut short"));
    }
    let name = frame.split_to(usize::from(length));
    String::from_utf8(name.into()).map_err(|_| Error::malformed("event name is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_written_as_the_readme_says() {
        assert_eq!(request("version", b"").unwrap(), b"\x00\x07version"[..]);
        assert_eq!(register("list-sa").unwrap(), b"\x03\x07list-sa"[..]);
        assert!(request(&"x".repeat(256), b"").is_err());
        assert!(request("load-cert", &vec![0; MAX_FRAME_BYTES]).is_err());
    }

    #[test]
    fn packets_are_read_as_the_readme_says() {
        let parse = |bytes: &'static [u8]| Packet::parse(Bytes::from_static(bytes));
        let message = |bytes: &'static [u8]| Message::parse(Bytes::from_static(bytes)).unwrap();
        let (response, event) = (b"\x01\x03\x01k\x00\x01v", b"\x07\x07list-sa\x03\x01k\x00\x01v");
        assert_eq!(parse(response).unwrap(), Packet::Response(message(&response[1..])));
        let name = "list-sa".into();
        assert_eq!(parse(event).unwrap(), Packet::Event { name, message: message(&event[9..]) });
        assert_eq!(parse(b"\x02").unwrap(), Packet::UnknownCommand);
        assert_eq!(parse(b"\x05").unwrap(), Packet::EventConfirm);
        assert_eq!(parse(b"\x06").unwrap(), Packet::UnknownEvent);
    }

    #[test]
    fn packets_only_a_client_sends_are_malformed() {
        for bytes in [&b""[..], b"\x00\x07version", b"\x03\x01x", b"\x04\x01x", b"\x08", b"\x07\x05ab"] {
            let parsed = Packet::parse(Bytes::copy_from_slice(bytes));
            assert!(matches!(parsed, Err(Error::Malformed(_))), "{bytes:?}: {parsed:?}");
        }
    }
}
