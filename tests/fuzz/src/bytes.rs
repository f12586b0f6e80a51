//! An input, taken apart from its beginning. What is missing at its end is zero, so that every input means
//! something and libFuzzer may cut it anywhere.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Nothing is left.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next two, big endian.
    pub fn be16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next four, big endian.
    pub fn be32(&mut self) -> u32 {
        u32::from(self.be16()) << 16 | u32::from(self.be16())
    }

    /// As many as there are, at most `most`.
    pub fn up_to(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
