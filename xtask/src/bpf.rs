//! Probes whether this process may run eBPF programs with BPF_PROG_TEST_RUN on this kernel.
use std::mem::{size_of, zeroed};

use nix::{
    errno::Errno,
    libc::{SYS_bpf, syscall},
};

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_TEST_RUN: u32 = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// The head of `union bpf_attr` for BPF_PROG_LOAD (linux/bpf.h); the kernel reads missing fields as 0.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The head of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Loads `return 0` as a TC program and runs it on an empty frame.
///
/// # Errors
/// Says whether loading or running failed; completes "this kernel …".
pub fn can_test_run() -> Result<(), String> {
    // r0 = 0; exit
    let instructions: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let mut load = Load {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let program =
        bpf(BPF_PROG_LOAD, &mut load).map_err(|error| format!("cannot load eBPF programs: {error}"))?;
    let frame = [0_u8; 64];
    // SAFETY: all fields are integers.
    let mut run: TestRun = unsafe { zeroed() };
    run.program = program as u32;
    run.data_size_in = frame.len() as u32;
    run.data_in = frame.as_ptr() as u64;
    run.repeat = 1;
    let ran = bpf(BPF_PROG_TEST_RUN, &mut run);
    let _ = nix::unistd::close(program);
    ran.map(|_| ()).map_err(|error| format!("cannot run eBPF programs for testing: {error}"))
}

fn bpf<T>(command: u32, attributes: &mut T) -> Result<i32, Errno> {
    // SAFETY: the kernel accesses `attributes` within the given size; the addresses in it point to buffers that
    // outlive the call, with correct sizes.
    let result = unsafe { syscall(SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    Errno::result(result).map(|result| result as i32)
}
