//! Passphrases of private keys.
use std::fmt;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Rounds of PBKDF2-HMAC-SHA256 for a key that is encrypted. OWASP asked for 600,000 in 2023; an authority's key is
/// used rarely and attacked offline.
pub const ROUNDS: u32 = 1_000_000;

/// Fewest bytes of a passphrase for a new key.
const MIN_BYTES: usize = 12;
const MAX_BYTES: usize = 1024;

/// A passphrase, cleared from memory when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the first line of a file or of the terminal, without its end.
    pub fn from_line(line: Zeroizing<Vec<u8>>) -> Result<Self> {
        let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
        if line[end..].len() > 1 {
            return Err(Error::BadPassphrase("has a second line"));
        }
        let text = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        match text {
            [] => Err(Error::BadPassphrase("is empty")),
            text if text.len() > MAX_BYTES => Err(Error::BadPassphrase("has more than 1024 bytes")),
            text if text.iter().any(u8::is_ascii_control) => {
                Err(Error::BadPassphrase("has a control character"))
            }
            text => Ok(Self(Zeroizing::new(text.to_vec()))),
        }
    }

    /// Fails if the passphrase is too short to protect a new key.
    pub fn check_strength(&self) -> Result<()> {
        match self.0.len() {
            0..MIN_BYTES => {
                Err(Error::BadPassphrase("is too short for a new key: use at least 12 characters"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The encryption of a new key.
#[derive(Clone, Copy, Debug)]
pub struct KeyProtection<'p> {
    /// Its passphrase.
    pub passphrase: &'p Passphrase,
    /// Rounds of PBKDF2-HMAC-SHA256: [`ROUNDS`] but for tests.
    pub rounds: u32,
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Passphrase> {
        Passphrase::from_line(Zeroizing::new(line.as_bytes().to_vec()))
    }

    #[test]
    fn one_line_is_a_passphrase_with_or_without_its_end() {
        for line in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            assert_eq!(read(line).unwrap().bytes(), b"correct horse", "{line:?}");
        }
        for (line, fault) in
            [("", "is empty"), ("\n", "is empty"), ("a\nb", "second line"), ("a\0b", "control")]
        {
            assert!(read(line).unwrap_err().to_string().contains(fault), "{line:?}");
        }
    }

    #[test]
    fn short_passphrase_opens_a_key_but_protects_no_new_one() {
        assert!(read("12345678901").unwrap().check_strength().is_err());
        assert!(read("123456789012").unwrap().check_strength().is_ok());
    }

    #[test]
    fn debug_output_has_no_secret() {
        assert_eq!(format!("{:?}", read("correct horse").unwrap()), "Passphrase");
    }
}
