//! The message layer: a tree of sections, key/values and lists, coded by `serde_vici`.
//!
//! This module adds two checks that the codec lacks. Before reading it bounds the nesting: the codec recurses
//! into sections it skips, so a frame of section starts would overflow the stack. Before writing it checks
//! lengths: the codec silently truncates them to 8 and 16 bits.

use serde::{Deserialize, Serialize, Serializer};
use tokio_util::bytes::Bytes;

use super::{error::Error, frame::MAX_FRAME_BYTES};

/// Longest value: its length field has 16 bits.
pub(super) const MAX_VALUE_BYTES: usize = u16::MAX as usize;
/// Deepest nesting of sections. The deepest real message, child-rekey, has 4 levels.
const MAX_DEPTH: usize = 8;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// A received, well-formed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message(Bytes);

impl Message {
    /// Checks the form and returns [`Error::Malformed`] if it is not a message.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, Error> {
        check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Returns the size on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Decodes the message. Content that does not fit `T` is an error, never a panic.
    pub(super) fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_vici::from_slice(&self.0).map_err(|error| Error::malformed(error.to_string()))
    }
}

/// Encodes a message. Callers bound every name and value first (see `check`).
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let message = serde_vici::to_vec(value).map_err(|error| Error::malformed(error.to_string()))?;
    if message.len() > MAX_FRAME_BYTES {
        return Err(Error::invalid("message", "", "at most 512 KiB"));
    }
    Ok(message)
}

/// A value of raw bytes, PEM or DER.
#[derive(Debug)]
pub(super) struct Blob<'a>(pub(super) &'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Checks all elements in one pass: known types, lengths within the message, balanced sections of bounded
/// depth, and lists that contain items only.
fn check(message: &[u8]) -> Result<(), Error> {
    let mut rest = Cursor(message);
    let mut depth = 0_usize;
    let mut in_list = false;
    while let Some(element) = rest.byte() {
        match (element, in_list) {
            (SECTION_START, false) if depth == MAX_DEPTH => {
                return Err(Error::malformed("sections nested too deep"));
            }
            (SECTION_START, false) => {
                rest.skip_name()?;
                depth += 1;
            }
            (SECTION_END, false) => {
                depth = depth.checked_sub(1).ok_or_else(|| Error::malformed("unopened section"))?;
            }
            (KEY_VALUE, false) => {
                rest.skip_name()?;
                rest.skip_value()?;
            }
            (LIST_START, false) => {
                rest.skip_name()?;
                in_list = true;
            }
            (LIST_ITEM, true) => rest.skip_value()?,
            (LIST_END, true) => in_list = false,
            _ => {
                return Err(Error::malformed(format!("element type {element} out of place")));
            }
        }
    }
    if depth > 0 || in_list {
        return Err(Error::malformed("section or list left open"));
    }
    Ok(())
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip_name(&mut self) -> Result<(), Error> {
        let length = self.byte().ok_or_else(|| Error::malformed("name cut short"))?;
        self.skip(usize::from(length))
    }

    fn skip_value(&mut self) -> Result<(), Error> {
        let (Some(high), Some(low)) = (self.byte(), self.byte()) else {
            return Err(Error::malformed("value cut short"));
        };
        self.skip(usize::from(u16::from_be_bytes([high, low])))
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Error> {
        self.0 = self.0.get(bytes..).ok_or_else(|| Error::malformed("length beyond the message"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// The README's "Encoding example".
    const EXAMPLE: &[u8] = b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\
        \x03\x04key2\x00\x06value2\x02\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02";

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Example {
        key1: String,
        section1: Section,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Section {
        sub_section: BTreeMap<String, String>,
        list1: Vec<String>,
    }

    fn example() -> Example {
        Example {
            key1: "value1".into(),
            section1: Section {
                sub_section: BTreeMap::from([("key2".into(), "value2".into())]),
                list1: vec!["item1".into(), "item2".into()],
            },
        }
    }

    fn is_malformed(bytes: &'static [u8]) -> bool {
        matches!(Message::parse(Bytes::from_static(bytes)), Err(Error::Malformed(_)))
    }

    #[test]
    fn readme_example_is_encoded_and_decoded() {
        assert_eq!(encode(&example()).unwrap(), EXAMPLE);
        let message = Message::parse(Bytes::from_static(EXAMPLE)).unwrap();
        assert_eq!(message.decode::<Example>().unwrap(), example());
    }

    #[test]
    fn every_cut_of_the_example_is_malformed() {
        // After key1 = value1 the message is whole.
        for length in (1..EXAMPLE.len()).filter(|&length| length != 14) {
            assert!(is_malformed(&EXAMPLE[..length]), "{length}");
        }
    }

    #[test]
    fn elements_out_of_place_are_malformed() {
        assert!(is_malformed(b"\x02"), "section end without start");
        assert!(is_malformed(b"\x05\x00\x01x"), "item outside a list");
        assert!(is_malformed(b"\x04\x01l\x03\x01k\x00\x00\x06"), "key/value in a list");
        assert!(is_malformed(b"\x04\x01l\x04\x01m\x06\x06"), "list in a list");
        assert!(is_malformed(b"\x07"), "unknown element");
        assert!(is_malformed(b"\x03\x01k\xff\xffshort"), "value beyond the message");
    }

    #[test]
    fn nesting_is_bounded_before_it_recurses() {
        let nested = |depth: usize| {
            let mut bytes = b"\x01\x01s".repeat(depth);
            bytes.extend(vec![SECTION_END; depth]);
            Message::parse(bytes.into())
        };
        assert!(nested(MAX_DEPTH).unwrap().decode::<BTreeMap<String, IgnoredAny>>().is_ok());
        assert!(nested(MAX_DEPTH + 1).is_err());
        // This depth overflows the stack of a recursive decoder.
        assert!(nested(100_000).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            decode_as_everything(bytes);
        }

        /// Bytes that resemble messages reach deeper code than arbitrary ones.
        #[test]
        fn arbitrary_elements_never_panic(elements in proptest::collection::vec(element(), 0..60)) {
            decode_as_everything(elements.concat());
        }

        #[test]
        fn changed_example_never_panics(at in 0..EXAMPLE.len(), to in any::<u8>()) {
            let mut bytes = EXAMPLE.to_vec();
            bytes[at] = to;
            if let Ok(message) = Message::parse(bytes.into()) {
                let _ = message.decode::<Example>();
            }
        }
    }

    fn element() -> impl Strategy<Value = Vec<u8>> {
        let key = prop_oneof![
            Just("child-sas"),
            Just("up"),
            Just("old"),
            Just("new"),
            Just("uniqueid"),
            Just("reqid"),
            Just("state"),
            Just("local-ts"),
            Just("spi-in"),
            Just("site"),
            Just("name"),
            Just("local-host")
        ];
        let value = prop_oneof![
            Just("yes"),
            Just("1"),
            Just("INSTALLED"),
            Just("ESTABLISHED"),
            Just("c0ffee00"),
            Just(""),
            Just("10.0.0.0/8"),
            Just("%any"),
            Just("\u{1b}[2J"),
            Just("99999999999999999999")
        ];
        (prop_oneof![4 => 1_u8..=6, 1 => 0_u8..=8], key, value).prop_map(|(kind, key, value)| {
            let mut bytes = vec![kind];
            if matches!(kind, SECTION_START | KEY_VALUE | LIST_START) {
                bytes.push(u8::try_from(key.len()).unwrap());
                bytes.extend(key.bytes());
            }
            if matches!(kind, KEY_VALUE | LIST_ITEM) {
                bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
                bytes.extend(value.bytes());
            }
            bytes
        })
    }

    fn decode_as_everything(bytes: Vec<u8>) {
        use super::super::{Event, packet::Packet, raw_sa::RawIkeSa};
        let _ = Packet::parse(bytes.clone().into());
        let Ok(message) = Message::parse(bytes.into()) else {
            return;
        };
        let _ = message.decode::<BTreeMap<String, IgnoredAny>>();
        if let Ok(raw) = message.decode::<RawIkeSa<'_>>() {
            let _ = raw.parse("site", &mut Vec::new());
        }
        for event in ["ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update", "x"] {
            let _ = Event::decode(event, &message);
        }
    }
}
