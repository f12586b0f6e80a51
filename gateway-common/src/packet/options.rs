//! TCP options.
use crate::{
    seq::Seq,
    wire::{Frame, LoopBody, TcpHeader},
};

/// The first bytes of the options of nearly every segment of most connections: two of padding, then a
/// timestamp that fills the rest of 12 bytes (RFC 7323 appendix A).
pub const TIMESTAMP_ALONE: [u8; 4] = [1, 1, 8, 10];

/// Most bytes of TCP options: 60 of header less 20.
pub const MAX_OPTIONS_BYTES: usize = 40;

/// Bytes of a buffer for them: the next power of two.
const OPTIONS_BUFFER_BYTES: usize = 64;

/// The options of a segment (RFC 9293 section 3.2, RFC 7323 section 2.2, RFC 2018).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Options {
    /// The highest right edge of the first SACK option's blocks, or the acknowledgment number.
    pub highest_sack: Seq,
    mss: u16,
    /// 0: no MSS option. No option's value is at 0.
    mss_at: u8,
    /// [`NO_SCALE`] or at most 14.
    scale: u8,
    /// There are options.
    pub present: bool,
    /// SACK is permitted.
    pub sack_permitted: bool,
    /// Bytes of the TCP header including options.
    pub header_bytes: u8,
    _reserved: u8,
}

/// An MSS option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mss {
    /// Offset of its value, in bytes from the first option.
    pub at: u8,
    /// The MSS in bytes.
    pub bytes: u16,
}

impl Options {
    /// Returns the first MSS option.
    #[inline(always)]
    pub fn mss(&self) -> Option<Mss> {
        (self.mss_at != 0).then_some(Mss { at: self.mss_at, bytes: self.mss })
    }

    /// Returns the last window scale option, at most 14.
    #[inline(always)]
    pub fn window_scale(&self) -> Option<u8> {
        (self.scale != NO_SCALE as u8).then_some(self.scale)
    }

    /// Parses the options of a TCP header that begins at `transport` and has `header_bytes` bytes. Returns
    /// `None` if the frame is shorter.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(
        frame: &F,
        transport: usize,
        header_bytes: u16,
        acknowledgment: Seq,
    ) -> Option<Self> {
        let options = transport + size_of::<TcpHeader>();
        let none = Self {
            highest_sack: acknowledgment,
            mss: 0,
            mss_at: 0,
            scale: NO_SCALE as u8,
            present: false,
            sack_permitted: false,
            header_bytes: header_bytes as u8,
            _reserved: 0,
        };
        let length = (header_bytes as usize).saturating_sub(size_of::<TcpHeader>());
        if length == 0 {
            return Some(none);
        }
        if length == 12 && frame.read::<[u8; 4]>(options)? == TIMESTAMP_ALONE {
            return Some(Self { present: true, ..none });
        }
        let mut read = none;
        read.scan(frame, options, length).then_some(read)
    }

    /// Reads `length` bytes of options at this offset one by one; returns false if the frame is shorter.
    /// Out of line: keeps its locals off the caller's 512-byte stack.
    #[inline(never)]
    fn scan<F: Frame + ?Sized>(&mut self, frame: &F, options: usize, length: usize) -> bool {
        let mut scan = Scan {
            bytes: [0; OPTIONS_BUFFER_BYTES],
            length: length as u32,
            at: 0,
            mss_at: 0,
            mss: 0,
            scale: NO_SCALE,
            sack_permitted: 0,
            sack_seen: 0,
            highest_sack: self.highest_sack,
        };
        let mut word = 0;
        while word < MAX_OPTIONS_BYTES / 4 {
            if word * 4 < length {
                let Some(read) = frame.read::<[u8; 4]>(options + word * 4) else { return false };
                scan.bytes[word * 4] = read[0];
                scan.bytes[word * 4 + 1] = read[1];
                scan.bytes[word * 4 + 2] = read[2];
                scan.bytes[word * 4 + 3] = read[3];
            }
            word += 1;
        }
        F::repeat(MAX_OPTIONS_BYTES as u32, &mut scan);
        self.highest_sack = scan.highest_sack;
        self.mss = scan.mss as u16;
        self.mss_at = scan.mss_at as u8;
        self.scale = scan.scale as u8;
        self.present = true;
        self.sack_permitted = scan.sack_permitted == 1;
        true
    }
}

/// [`Options::scale`]: no window scale option.
const NO_SCALE: u32 = 255;

/// Reads options one by one. Plain words, which the eBPF verifier follows best.
struct Scan {
    bytes: [u8; OPTIONS_BUFFER_BYTES],
    length: u32,
    at: u32,
    /// 0: none yet. No option's value is at 0.
    mss_at: u32,
    mss: u32,
    scale: u32,
    sack_permitted: u32,
    sack_seen: u32,
    highest_sack: Seq,
}

impl Scan {
    #[inline(always)]
    fn byte(&self, at: u32) -> u32 {
        u32::from(self.bytes[core::hint::black_box(at) as usize & (OPTIONS_BUFFER_BYTES - 1)])
    }

    #[inline(always)]
    fn be16(&self, at: u32) -> u32 {
        self.byte(at) << 8 | self.byte(at + 1)
    }

    /// Raises the highest SACK edge to the highest right edge of a SACK option's blocks.
    #[inline(always)]
    fn sack(&mut self, size: u32) {
        const MAX_BLOCKS: u32 = 4;
        self.sack_seen = 1;
        let mut block = 0;
        while block < MAX_BLOCKS {
            if 2 + (block + 1) * 8 <= size {
                let edge = self.at + 2 + block * 8 + 4;
                let right = Seq(self.be16(edge) << 16 | self.be16(edge + 2));
                if self.highest_sack.before(right) {
                    self.highest_sack = right;
                }
            }
            block += 1;
        }
    }
}

impl LoopBody for Scan {
    /// Reads one option as nf_conntrack does (`tcp_options`, `tcp_sack`): a nonsensical length ends the list.
    #[inline(always)]
    fn step(&mut self) -> bool {
        const END: u32 = 0;
        const NO_OPERATION: u32 = 1;
        const MSS: u32 = 2;
        const WINDOW_SCALE: u32 = 3;
        const SACK_PERMITTED: u32 = 4;
        const SACK: u32 = 5;
        const MAX_SCALE: u32 = 14;
        if self.at >= self.length {
            return false;
        }
        let kind = self.byte(self.at);
        if kind == NO_OPERATION {
            self.at += 1;
            return true;
        }
        let size = self.byte(self.at + 1);
        if kind == END || size < 2 || self.at + size > self.length {
            return false;
        }
        if kind == MSS && size == 4 && self.mss_at == 0 {
            self.mss_at = self.at + 2;
            self.mss = self.be16(self.at + 2);
        } else if kind == WINDOW_SCALE && size == 3 {
            let scale = self.byte(self.at + 2);
            self.scale = if scale > MAX_SCALE { MAX_SCALE } else { scale };
        } else if kind == SACK_PERMITTED && size == 2 {
            self.sack_permitted = 1;
        } else if kind == SACK && size >= 10 && (size - 2).is_multiple_of(8) && self.sack_seen == 0 {
            self.sack(size);
        }
        self.at += size;
        true
    }
}
