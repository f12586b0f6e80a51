//! The eleven eBPF programs of the gateway.
//!
//! - Five are attached, one to each hook of `gateway_common::layout::Hook`: `internet_xdp`,
//!   `internet_ingress` and `internet_egress` to the internet interface, `lan_ingress` and `lan_egress`
//!   to the LAN interface.
//! - Five are tail-called by the two ingress programs (`gateway_common::layout::NextProgram`): `outer`,
//!   `site_v4` and `site_v6` by `internet_ingress`, `server_v4` and `server_v6` by `lan_ingress`.
//! - `expiry` is attached nowhere. The daemon runs it once to arm the timer that removes ended flows.
//!
//! Each attached program reads a frame ([`access`]), asks `gateway_common` for a verdict and lets [`act`]
//! carry it out. [`tables`] gives the decision its view of the [`maps`].
//!
//! Licence: the object says "Dual MIT/GPL", because `bpf_redirect_neigh`, `bpf_ktime_get_ns` and other
//! helpers are reserved for GPL-compatible programs.
#![no_std]
#![no_main]
// The only atomic instructions for eBPF: rustc knows no atomic types for it. The pinned toolchain keeps them stable.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "core_intrinsics")]

mod access;
mod act;
mod charge;
mod clock;
mod cookie;
mod count;
mod lan_budget;
mod lock;
mod maps;
mod next_hop;
mod nodes;
mod programs;
mod tables;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Unreachable in every program: the verifier would reject the endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
