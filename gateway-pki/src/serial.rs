//! Serial numbers of certificates.
use std::fmt;
use std::str::FromStr;

use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const BYTES: usize = 16;

/// A serial number: 126 random bits, in 32 hexadecimal digits. RFC 5280, 4.1.2.2 demands a positive integer of at
/// most 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial([u8; BYTES]);

impl Serial {
    pub(crate) fn random(random: &dyn SecureRandom) -> Result<Self> {
        let mut bytes = [0; BYTES];
        random.fill(&mut bytes)?;
        // The DER integer has exactly these bytes: not negative, no leading zero.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Ok(Self(bytes))
    }

    /// Returns the number, big-endian.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; BYTES];
        let exact = text.len() == 2 * BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0).filter(|_| exact) {
            *byte = digit(pair[0]).unwrap_or(0) << 4 | digit(pair[1]).unwrap_or(0);
        }
        if exact { Ok(Self(bytes)) } else { Err(Error::Unknown(text.to_owned())) }
    }
}

impl TryFrom<String> for Serial {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
