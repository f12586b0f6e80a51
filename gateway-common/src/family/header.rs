//! What an IP header says of its packet.
use crate::wire::{Frame, Wire};

/// What a packet's header says, extension headers left behind.
#[derive(Clone, Copy, Debug)]
pub struct Header<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// See [`protocol`].
    pub protocol: u8,
    /// Whether the packet is whole.
    pub fragment: Fragment,
    /// Where the transport header begins, in bytes from the frame's start.
    pub transport: u8,
    /// Bytes from there to the packet's end.
    pub payload_bytes: u16,
}

impl<A> Header<A> {
    /// A header this many bytes into the payload, where the IP header says there is one: what
    /// follows in the frame may be padding.
    #[inline(always)]
    pub fn payload<F: Frame + ?Sized, T: Wire>(&self, frame: &F, offset: usize) -> Result<T, Fault> {
        if (self.payload_bytes as usize) < offset + size_of::<T>() {
            return Err(Fault::Malformed);
        }
        frame.read(self.transport as usize + offset).ok_or(Fault::Malformed)
    }

    /// True for the first or a later fragment.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment as u8 != Fragment::No as u8
    }

    /// True for a later fragment.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment as u8 == Fragment::Later as u8
    }
}

/// Whether a packet is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fragment {
    /// It is.
    No = 0,
    /// It begins with the transport header, and others follow.
    First = 1,
    /// It holds no transport header.
    Later = 2,
}

/// What a header says of a packet that is not there.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// See [`protocol`].
    pub protocol: u8,
}

/// What is wrong with a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is longer than the frame, or contradicts itself.
    Malformed,
    /// It has IPv4 options, or IPv6 extension headers other than one fragment header.
    Options,
}

/// Type and code of an ICMP message.
pub type IcmpHead = [u8; 2];

impl Fragment {
    #[inline(always)]
    pub(super) const fn new(later: bool, more: bool) -> Self {
        match (later, more) {
            (true, _) => Self::Later,
            (false, true) => Self::First,
            (false, false) => Self::No,
        }
    }
}
