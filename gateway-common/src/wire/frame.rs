//! Frames, and the values that can be read from them.

/// A frame to read headers from: a packet in eBPF, a slice on the host.
pub trait Frame {
    /// Reads a header at this offset in bytes, if the frame holds all of it.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;
    /// Returns `N` words from this offset on, if the frame holds all of them.
    fn words<const N: usize>(&self, offset: usize) -> Option<impl Words>;
    /// Returns the bytes of the whole frame, including those that cannot be read directly.
    fn length(&self) -> usize;
    /// Returns the payload bytes of each segment that GRO merged into the frame; 0 if it merged none.
    #[inline(always)]
    fn segment_bytes(&self) -> u32 {
        0
    }

    /// Runs a loop body until it ends the loop, at most `most` times. In eBPF this is `bpf_loop`, whose
    /// body the verifier checks once and not once for each round.
    #[inline(always)]
    fn repeat<S: LoopBody>(most: u32, state: &mut S) {
        for _ in 0..most {
            if !state.step() {
                return;
            }
        }
    }
}

/// Words of a frame. Each call reads the frame again: eBPF has few registers, and a spilled word costs as
/// much as a second read.
pub trait Words: Copy {
    /// Returns a word in memory order.
    fn raw(&self, index: usize) -> u32;

    /// Returns a word in host byte order.
    #[inline(always)]
    fn get(&self, index: usize) -> u32 {
        u32::from_be(self.raw(index))
    }
}

/// The body of a [`Frame::repeat`] loop, with its state.
pub trait LoopBody {
    /// Runs one round; returns false to end the loop.
    fn step(&mut self) -> bool;
}

/// A type for which any bytes of its size are a valid value.
///
/// # Safety
/// No padding, no invalid bit patterns.
pub unsafe trait Wire: Copy {}

impl Frame for [u8] {
    #[inline]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` has T's size, every pattern is a T (Wire), and the read is unaligned.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    #[inline]
    fn words<const N: usize>(&self, offset: usize) -> Option<impl Words> {
        let (words, []) = self.get(offset..offset.checked_add(4 * N)?)?.as_chunks::<4>() else { return None };
        Some(words)
    }

    fn length(&self) -> usize {
        self.len()
    }
}

impl Words for &[[u8; 4]] {
    #[inline]
    fn raw(&self, index: usize) -> u32 {
        u32::from_ne_bytes(self[index])
    }
}

/// 16 bits in network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// Converts from host byte order.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// Returns the number in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// Converts from memory order.
    #[inline(always)]
    pub(crate) const fn from_raw(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number in memory order.
    #[inline(always)]
    pub(super) const fn raw(self) -> u16 {
        self.0
    }
}

/// 32 bits in network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    /// Converts from host byte order.
    #[inline(always)]
    pub const fn new(number: u32) -> Self {
        Self(number.to_be())
    }

    /// Returns the number in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

// SAFETY: all are integers, or arrays of integers, without padding (see the sizes below).
unsafe impl Wire for u8 {}

// SAFETY: as above.
unsafe impl Wire for Be16 {}

// SAFETY: as above.
unsafe impl Wire for Be32 {}

// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u8; N] {}
