//! Reading a frame.

/// A frame to read headers from: a packet in eBPF, a slice on the host.
pub trait Frame {
    /// The header at this offset in bytes, if the frame holds all of it.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;
    /// So many words from this offset on, if the frame holds all of them.
    fn words<const N: usize>(&self, offset: usize) -> Option<impl Words>;
    /// Bytes of the whole frame, also of those that cannot be read directly.
    fn length(&self) -> usize;
    /// Bytes of payload in each of the segments that GRO merged into it; 0 if it did not.
    #[inline(always)]
    fn segment_bytes(&self) -> u32 {
        0
    }

    /// Takes steps until one is the last, at most so many. In eBPF by `bpf_loop`, whose body the
    /// verifier looks at once and not once for each round.
    #[inline(always)]
    fn repeat<S: LoopBody>(most: u32, state: &mut S) {
        for _ in 0..most {
            if !state.step() {
                return;
            }
        }
    }
}

/// Words of a frame. Each is read when it is asked for: eBPF has registers for few, and a word that was put
/// aside costs as much as one that is read again.
pub trait Words: Copy {
    /// This one of them, as it lies in memory.
    fn raw(&self, index: usize) -> u32;

    /// This one of them, in host byte order.
    #[inline(always)]
    fn get(&self, index: usize) -> u32 {
        u32::from_be(self.raw(index))
    }
}

/// What [`Frame::repeat`] repeats.
pub trait LoopBody {
    /// False if this was the last step.
    fn step(&mut self) -> bool;
}

/// A type that any bytes of its size are a value of.
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
    /// In host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// As it lies in memory.
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
    /// In host byte order.
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
