//! Reads an input from its beginning. Bytes beyond the end are zero, so that every input is valid and
//! libFuzzer may cut it anywhere.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Returns true if nothing is left.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Takes the next two bytes, big-endian.
    pub fn be16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Takes the next four bytes, big-endian.
    pub fn be32(&mut self) -> u32 {
        u32::from(self.be16()) << 16 | u32::from(self.be16())
    }

    /// Takes the remaining bytes, at most `most`.
    pub fn up_to(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
