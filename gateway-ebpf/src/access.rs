//! Packets in kernel memory: bounds checks that the verifier follows, and the skb's own fields.
use core::ptr::NonNull;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, bpf_xfrm_state, xdp_md},
    helpers::{bpf_loop, bpf_skb_get_xfrm_state},
    programs::{TcContext, XdpContext},
};
use gateway_common::{
    decide::Identity,
    packet::MAX_OPTIONS_BYTES,
    wire::{Frame, Ipv6Header, LoopBody, NETWORK_OFFSET, TcpHeader, Wire, Words},
};

use crate::maps::{INBOUND_SPIS, REPLAY};

/// Bytes of a frame that the programs read directly: Ethernet, IPv6, and TCP with all options. The
/// kernel's drivers put at least this much into the linear part; for others it is pulled there.
const HEADERS_BYTES: usize =
    NETWORK_OFFSET + size_of::<Ipv6Header>() + size_of::<TcpHeader>() + MAX_OPTIONS_BYTES;

/// A packet whose linear part can be read directly. Where that is, is asked again for each read: what is kept
/// from one to the next would not fit into registers, and a helper may have moved the data.
pub trait Direct: Frame + Copy {
    /// Where it begins.
    fn start(self) -> usize;
    /// Where it ends.
    fn end(self) -> usize;
    /// As [`Frame::length`].
    fn length(self) -> usize;
    /// As [`Frame::segment_bytes`].
    fn segment_bytes(self) -> u32;

    /// `N` bytes at an offset, to be read or written.
    #[inline(always)]
    fn bytes_mut<const N: usize>(self, offset: usize) -> Option<*mut [u8; N]> {
        let start = self.start();
        if start + offset + N > self.end() {
            return None;
        }
        Some((start + offset) as *mut [u8; N])
    }
}

/// [`Frame`] for what is [`Direct`].
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
                (at + 4 * N <= self.end()).then_some(Checked(at as *const u32))
            }

            #[inline(always)]
            fn length(&self) -> usize {
                Direct::length(*self)
            }

            #[inline(always)]
            fn segment_bytes(&self) -> u32 {
                Direct::segment_bytes(*self)
            }

            #[inline(always)]
            fn repeat<S: LoopBody>(most: u32, state: &mut S) {
                // SAFETY: `one_step` has the signature bpf_loop calls, and gets the state it is made for.
                unsafe {
                    bpf_loop(most, one_step::<S> as *mut core::ffi::c_void, (&raw mut *state).cast(), 0);
                }
            }
        }
    };
}

frame!(Skb);
frame!(Xdp);

/// Words of a packet that ends behind the last one that is read.
#[derive(Clone, Copy)]
struct Checked(*const u32);

impl Words for Checked {
    #[inline(always)]
    fn raw(&self, index: usize) -> u32 {
        // SAFETY: `words` checked the bounds (the verifier demands it); an IP header is 4-aligned here.
        unsafe { *self.0.add(index) }
    }
}

/// bpf_loop's callback: 0 goes on, 1 ends.
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
    /// As the driver hands it over.
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> Self {
        Self { raw: ctx.as_ptr().cast() }
    }
}

impl Direct for Xdp {
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

    /// Nothing was merged yet.
    #[inline(always)]
    fn segment_bytes(self) -> u32 {
        0
    }
}

impl Direct for Skb {
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

/// The packet of a TC program.
#[derive(Clone, Copy)]
pub struct Skb {
    raw: *mut __sk_buff,
}

impl Skb {
    /// As it is: what is not in the linear part cannot be read.
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        Self { raw: ctx.as_ptr().cast() }
    }

    /// Pulls the headers into the linear part if they are not there.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        let length = ctx.len() as usize;
        let wanted = if length < HEADERS_BYTES { length } else { HEADERS_BYTES };
        if ctx.data_end() - ctx.data() < wanted {
            // On failure the headers stay unreadable, and the packet is dropped as malformed.
            let _ = ctx.pull_data(wanted as u32);
        }
        Self::of(ctx)
    }

    /// How many packets GRO merged into it; 1 if it did not.
    #[inline(always)]
    pub fn segments(self) -> u32 {
        // SAFETY: as in `mark`.
        let segments = unsafe { (*self.raw).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    /// For logging.
    #[inline(always)]
    pub fn context(self) -> TcContext {
        // SAFETY: the kernel's, of a program that runs.
        TcContext::new(unsafe { NonNull::new_unchecked(self.raw) })
    }

    /// For helpers.
    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.raw
    }

    /// skb->mark.
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

    /// Who sent it, if it came out of a tunnel (FACTS 1: index 0 of the decapsulated packet, an
    /// error for everything else).
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

    /// Sets what [`Skb::identity`] reads in a replay, by the SPI in the source MAC address.
    #[inline(always)]
    pub fn replay_identity(self) {
        const SPI_OFFSET: usize = 8;
        let Some(bytes) = self.read::<[u8; 4]>(SPI_OFFSET) else { return };
        let spi = u32::from_be_bytes(bytes);
        // SAFETY: an element that is replaced meanwhile stays readable (RCU).
        let tunnel = unsafe { INBOUND_SPIS.get(&spi) }.copied().unwrap_or(0);
        self.set_mark(tunnel);
        // SAFETY: as in `mark`; the indices are constant.
        unsafe {
            (*self.raw).cb[0] = tunnel;
            (*self.raw).cb[1] = spi;
        }
    }

    #[inline(always)]
    fn replayed_identity(self) -> Option<Identity> {
        // SAFETY: as in `mark`; the indices are constant.
        let (reqid, spi) = unsafe { ((*self.raw).cb[0], (*self.raw).cb[1]) };
        (reqid != 0).then(|| Identity { reqid, spi, mark: self.mark() })
    }
}
