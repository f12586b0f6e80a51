//! Packets in kernel memory: bounds checks that the verifier can follow, and the skb's own fields.
use core::ptr::NonNull;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, bpf_xfrm_state, xdp_md},
    helpers::{
        bpf_loop, bpf_skb_change_tail, bpf_skb_get_xfrm_state, bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
    },
    programs::{TcContext, XdpContext},
};
use gateway_common::{
    decide::Identity,
    packet::MAX_OPTIONS_BYTES,
    wire::{
        Frame, Ipv6Header, LoopBody, NETWORK_OFFSET, TcpHeader, VLAN_TAG_BYTES, Wire, Words, ethertype,
        ethertype_of, has_priority_tag, is_foreign,
    },
};

use crate::maps::REPLAY;

/// Bytes of a frame that the programs read directly: Ethernet, IPv6, and TCP with all options. The
/// kernel's drivers put at least this much into the linear part; if one does not, the bytes are pulled there.
const HEADERS_BYTES: usize =
    NETWORK_OFFSET + size_of::<Ipv6Header>() + size_of::<TcpHeader>() + MAX_OPTIONS_BYTES;

/// A packet whose linear part can be read directly. Reloads the packet bounds on every read: there are no
/// registers to cache them, and a helper may have moved the data.
pub trait DirectPacket: Frame + Copy {
    /// Returns the address of the first byte.
    fn start(self) -> usize;
    /// Returns the address after the last byte of the linear part.
    fn end(self) -> usize;
    /// Implements [`Frame::length`].
    fn length(self) -> usize;
    /// Implements [`Frame::segment_bytes`].
    fn segment_bytes(self) -> u32;

    /// Returns a pointer to `N` readable and writable bytes at an offset.
    #[inline(always)]
    fn bytes_mut<const N: usize>(self, offset: usize) -> Option<*mut [u8; N]> {
        let start = self.start();
        if start + offset + N > self.end() {
            return None;
        }
        Some((start + offset) as *mut [u8; N])
    }
}

/// Implements [`Frame`] for a [`DirectPacket`].
macro_rules! frame {
    ($packet:ty) => {
        impl Frame for $packet {
            #[inline(always)]
            fn read<T: Wire>(&self, offset: usize) -> Option<T> {
                let start = self.start();
                if start + offset + size_of::<T>() > self.end() {
                    return None;
                }
                // SAFETY: the bytes are inside the packet, as just checked (the verifier demands it), and
                // any bytes are a T (Wire). An IP header is 4-aligned here (NET_IP_ALIGN).
                Some(unsafe { *((start + offset) as *const T) })
            }

            #[inline(always)]
            fn words<const N: usize>(&self, offset: usize) -> Option<impl Words> {
                let at = self.start() + offset;
                (at + 4 * N <= self.end()).then_some(PacketWords(at as *const u32))
            }

            #[inline(always)]
            fn length(&self) -> usize {
                DirectPacket::length(*self)
            }

            #[inline(always)]
            fn segment_bytes(&self) -> u32 {
                DirectPacket::segment_bytes(*self)
            }

            #[inline(always)]
            fn repeat<S: LoopBody>(most: u32, state: &mut S) {
                // SAFETY: `one_step` has the signature that bpf_loop calls, and gets the state it expects.
                unsafe {
                    bpf_loop(most, one_step::<S> as *mut core::ffi::c_void, (&raw mut *state).cast(), 0);
                }
            }
        }
    };
}

frame!(Skb);
frame!(Xdp);

/// Words of a packet, all within its bounds.
#[derive(Clone, Copy)]
struct PacketWords(*const u32);

impl Words for PacketWords {
    #[inline(always)]
    fn raw(&self, index: usize) -> u32 {
        // SAFETY: `words` checked the bounds (the verifier demands it); an IP header is 4-aligned here.
        unsafe { *self.0.add(index) }
    }
}

/// The callback of bpf_loop: returns 0 to continue, 1 to stop.
extern "C" fn one_step<S: LoopBody>(_round: u32, state: *mut S) -> i64 {
    // SAFETY: the pointer is the one `repeat` passed, and nobody else uses it meanwhile.
    i64::from(!unsafe { &mut *state }.step())
}

/// The packet of an XDP program.
#[derive(Clone, Copy)]
pub struct Xdp {
    raw: *mut xdp_md,
}

impl Xdp {
    /// Wraps the packet of this context.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { raw: ctx.as_ptr().cast() }
    }

    /// Removes a priority tag, so that the frame is judged, and continues, as the untagged frame it counts as.
    #[inline(always)]
    pub fn remove_priority_tag(self) {
        const ADDRESSES_BYTES: usize = 12;
        if !has_priority_tag(&self) {
            return;
        }
        let Some(addresses) = self.read::<[u8; ADDRESSES_BYTES]>(0) else { return };
        // SAFETY: the helper checks that enough of the frame is left; on failure it stays as it is, tagged.
        if unsafe { bpf_xdp_adjust_head(self.raw, VLAN_TAG_BYTES as i32) } != 0 {
            return;
        }
        self.write(0, addresses);
    }

    /// Cuts the frame off after this many bytes, no more than it has. Returns false if that fails.
    #[inline(always)]
    pub fn cut(self, length: usize) -> bool {
        // SAFETY: the helper checks that enough of the frame is left.
        unsafe { bpf_xdp_adjust_tail(self.raw, length as i32 - DirectPacket::length(self) as i32) == 0 }
    }

    /// Replaces bytes of the frame. Returns false if it does not hold all of them.
    #[inline(always)]
    pub fn write<T: Wire>(self, offset: usize, value: T) -> bool {
        let start = self.start();
        if start + offset + size_of::<T>() > self.end() {
            return false;
        }
        // SAFETY: the bytes are inside the packet, as just checked (the verifier demands it). An IP header is
        // 4-aligned here (NET_IP_ALIGN).
        unsafe { *((start + offset) as *mut T) = value };
        true
    }
}

impl DirectPacket for Xdp {
    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the context of an XDP program is an `xdp_md`.
        unsafe { (*self.raw).data as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: as in `start`.
        unsafe { (*self.raw).data_end as usize }
    }

    #[inline(always)]
    fn length(self) -> usize {
        self.end() - self.start()
    }

    /// Returns 0: GRO runs after XDP.
    #[inline(always)]
    fn segment_bytes(self) -> u32 {
        0
    }
}

/// The packet of a TC program.
#[derive(Clone, Copy)]
pub struct Skb {
    raw: *mut __sk_buff,
}

impl DirectPacket for Skb {
    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the context of a TC program is a `__sk_buff`.
        unsafe { (*self.raw).data as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: as in `start`.
        unsafe { (*self.raw).data_end as usize }
    }

    #[inline(always)]
    fn length(self) -> usize {
        // SAFETY: as in `start`.
        unsafe { (*self.raw).len as usize }
    }

    #[inline(always)]
    fn segment_bytes(self) -> u32 {
        // SAFETY: as in `start`.
        unsafe { (*self.raw).gso_size }
    }
}

impl Skb {
    /// Wraps the packet of this context as it is: bytes outside the linear part cannot be read.
    #[inline(always)]
    pub fn as_is(ctx: &TcContext) -> Self {
        Self { raw: ctx.as_ptr().cast() }
    }

    /// Wraps the packet of this context, and pulls its headers into the linear part if they are not there.
    #[inline(always)]
    pub fn pulled(ctx: &TcContext) -> Self {
        let length = ctx.len() as usize;
        let wanted = if length < HEADERS_BYTES { length } else { HEADERS_BYTES };
        if ctx.data_end() - ctx.data() < wanted {
            // On failure the headers stay unreadable, and the packet is dropped as malformed.
            let _ = ctx.pull_data(wanted as u32);
        }
        Self::as_is(ctx)
    }

    /// Returns true for an Ethernet frame that holds IPv6.
    #[inline(always)]
    pub fn is_ipv6(&self) -> bool {
        ethertype_of(self) == Some(ethertype::IPV6)
    }

    /// Returns true for a frame for another MAC address or VLAN, see [`is_foreign`].
    #[inline(always)]
    pub fn is_foreign(self) -> bool {
        // SAFETY: as in `mark`.
        let (packet_type, vlan_tag) = unsafe { ((*self.raw).pkt_type, (*self.raw).vlan_tci) };
        is_foreign(packet_type, vlan_tag)
    }

    /// Returns how many packets GRO merged into this one; 1 if none.
    #[inline(always)]
    pub fn segments(self) -> u32 {
        // SAFETY: as in `mark`.
        let segments = unsafe { (*self.raw).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    /// Returns the context, for logging.
    #[inline(always)]
    pub fn context(self) -> TcContext {
        // SAFETY: the kernel's pointer to the context of the running program.
        TcContext::new(unsafe { NonNull::new_unchecked(self.raw) })
    }

    /// Returns the kernel's structure, for helpers.
    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.raw
    }

    /// Shortens the frame to this many bytes. Returns false if the kernel could not; the frame is then as it was.
    #[inline(always)]
    pub fn cut(self, bytes: u32) -> bool {
        // SAFETY: the context of a TC program is a `__sk_buff`. Readers reload the packet's bounds.
        unsafe { bpf_skb_change_tail(self.raw, bytes, 0) == 0 }
    }

    /// Returns skb->mark.
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: the context of a TC program is a `__sk_buff`.
        unsafe { (*self.raw).mark }
    }

    /// Sets skb->mark.
    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as in `mark`; the field is writable for TC programs.
        unsafe { (*self.raw).mark = mark }
    }

    /// Returns the sender's identity if the packet came out of a tunnel. The helper gives index 0 for a
    /// decapsulated packet and an error for any other (docs/facts.md: tc-ingress-runs-twice).
    #[inline(always)]
    pub fn identity(self) -> Option<Identity> {
        if REPLAY.load() != 0 {
            return self.replayed_identity();
        }
        // SAFETY: zero is a valid value of a C structure of integers.
        let mut state: bpf_xfrm_state = unsafe { core::mem::zeroed() };
        // SAFETY: pointer and size are those of `state`.
        let result = unsafe {
            bpf_skb_get_xfrm_state(self.raw, 0, &raw mut state, size_of::<bpf_xfrm_state>() as u32, 0)
        };
        (result == 0).then(|| Identity {
            reqid: state.reqid,
            spi: u32::from_be(state.spi),
            mark: self.mark(),
        })
    }

    /// Returns the identity that a test wrote into skb->cb.
    #[inline(always)]
    fn replayed_identity(self) -> Option<Identity> {
        // SAFETY: as in `mark`; the indices are constant.
        let (reqid, spi) = unsafe { ((*self.raw).cb[0], (*self.raw).cb[1]) };
        (reqid != 0).then(|| Identity { reqid, spi, mark: self.mark() })
    }
}
