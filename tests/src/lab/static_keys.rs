//! Keeps the kernel's code as it is while the lab is up.
//!
//! TC hooks that no program is attached to cost nothing, since the kernel patches the calls into its own
//! code when the first one comes and out when the last one goes (`tcx_needed_key`, `ingress_needed_key`,
//! `egress_needed_key` in net/core/dev.c). QEMU's emulation of several processors (7.2, TCG) does not
//! always get that right: a processor that is running this very code may die of "Oops: int3". So programs
//! that do nothing hold those hooks in use while gatewayd's come and go under traffic.
use std::{
    ffi::{c_int, c_long},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::{errno::Errno, libc, net::if_::if_nametoindex};

use super::namespace::Namespace;

/// The links of two programs on an interface that has no traffic.
#[derive(Debug)]
pub struct StaticKeys {
    _links: [OwnedFd; 2],
    _namespace: Namespace,
}

// linux/bpf.h.
const BPF_PROG_LOAD: c_int = 5;
const BPF_LINK_CREATE: c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// Leaves each packet to the next program: `r0 = TCX_NEXT (-1); exit`.
static NOTHING: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the rest counts as zero.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE; the rest counts as zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl StaticKeys {
    /// Holds the TC hooks of both directions in use, in a namespace of its own.
    pub fn hold() -> Result<Self> {
        let namespace = Namespace::create("static-keys", false)?;
        let links = namespace.enter(|| {
            let program = load()?;
            let interface = if_nametoindex("lo")?;
            Ok([attach(&program, interface, BPF_TCX_INGRESS)?, attach(&program, interface, BPF_TCX_EGRESS)?])
        });
        Ok(Self { _links: links.context("cannot hold the TC hooks in use")?, _namespace: namespace })
    }
}

fn load() -> Result<OwnedFd> {
    let program = ProgramLoad {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: NOTHING.len() as u32,
        instructions: NOTHING.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &program).context("BPF_PROG_LOAD")
}

fn attach(program: &OwnedFd, interface: u32, attach_type: u32) -> Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    bpf(BPF_LINK_CREATE, &LinkCreate { program, interface, attach_type, flags: 0 })
        .context("BPF_LINK_CREATE (TCX needs Linux 6.6)")
}

/// The system call bpf, for commands that return a descriptor.
fn bpf<T>(command: c_int, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, and what its pointers point at is
    // static; it writes nothing.
    let descriptor: c_long =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let descriptor = c_int::try_from(Errno::result(descriptor)?)?;
    // SAFETY: it is a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
