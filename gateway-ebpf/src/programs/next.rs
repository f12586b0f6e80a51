//! Tail calls. An ingress program that cannot decide a packet at once calls one of five programs, one for
//! each rule and address family: this keeps each within the verifier's limits and the 512-byte stack.
use aya_ebpf::programs::TcContext;
use gateway_common::layout::NextProgram;

use crate::maps::PROGRAMS;

/// The return value of a fast path that leaves the packet to a [`NextProgram`]; no action of the kernel.
pub const UNDECIDED: i32 = i32::MIN;

/// Continues in another program. Returns only if that program is missing; the caller drops the packet.
#[inline(always)]
pub fn tail_call(ctx: &TcContext, next: NextProgram) {
    // SAFETY: does not return unless the slot is empty.
    unsafe { PROGRAMS.tail_call(ctx, next as u32) };
}
