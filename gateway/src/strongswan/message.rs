//! The message layer: a tree of sections, key/values and lists, coded by `serde_vici`.
//!
//! Around that codec this module adds what it leaves out: reading, a bound on nesting (it recurses into
//! sections it skips, so a frame of section starts would overflow the stack); writing, a check of lengths
//! (it cuts them to 8 and 16 bits without a word).

use serde::{Deserialize, Serialize, Serializer};
use tokio_util::bytes::Bytes;

use super::{Error, packet::MAX_FRAME_BYTES};

/// Longest value: its length is coded in 16 bits.
pub(super) const MAX_VALUE_BYTES: usize = u16::MAX as usize;
/// Sections within sections. The deepest real message, child-rekey, has 4.
const MAX_DEPTH: usize = 8;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// A received message whose form has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message(Bytes);

impl Message {
    /// Checks the form: [`Error::Malformed`] if it is not a message.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, Error> {
        check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Size on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Decodes it. What does not fit `T` is an error, never a panic.
    pub(super) fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_vici::from_slice(&self.0).map_err(|error| Error::malformed(error.to_string()))
    }
}

/// Encodes a message. Callers have bounded every name and value (see `connection`, `operations`).
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let message = serde_vici::to_vec(value).map_err(|error| Error::malformed(error.to_string()))?;
    if message.len() > MAX_FRAME_BYTES {
        return Err(Error::invalid("message", "", "at most 512 KiB"));
    }
    Ok(message)
}

/// A value of raw bytes (PEM or DER).
#[derive(Debug)]
pub(super) struct Blob<'a>(pub(super) &'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Walks the elements once: known types, lengths within the message, balanced and shallow sections,
/// lists that hold items only.
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
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| Error::malformed("unopened section"))?;
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
                return Err(Error::malformed(format!(
                    "element type {element} out of place"
                )));
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
        let length = self
            .byte()
            .ok_or_else(|| Error::malformed("name cut short"))?;
        self.skip(usize::from(length))
    }

    fn skip_value(&mut self) -> Result<(), Error> {
        let (Some(high), Some(low)) = (self.byte(), self.byte()) else {
            return Err(Error::malformed("value cut short"));
        };
        self.skip(usize::from(u16::from_be_bytes([high, low])))
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Error> {
        self.0 = self
            .0
            .get(bytes..)
            .ok_or_else(|| Error::malformed("length beyond the message"))?;
        Ok(())
    }
}
