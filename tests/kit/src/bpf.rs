//! Hand-written programs of a few instructions, and the system call bpf to load them: the tests attach them
//! to interfaces beside the gateway's own programs.
use std::{
    ffi::{c_int, c_long},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::{errno::Errno, libc, net::if_::if_nametoindex};

/// A program for the TC hooks. It is unloaded when this and all its [`Link`]s are gone.
#[derive(Debug)]
pub struct Classifier(OwnedFd);

/// A program for the XDP hook.
#[derive(Debug)]
pub struct Driver(OwnedFd);

/// A program on an interface, until dropped.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "held, not read")] OwnedFd);

/// The direction of the packets that a program sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the wire.
    Ingress,
    /// To the wire.
    Egress,
}

/// A number in the kernel that programs increment.
#[derive(Debug)]
pub struct Counter(OwnedFd);

/// The average duration of a run, in nanoseconds.
pub type Nanoseconds = u32;

// linux/bpf.h: commands and types.
const BPF_MAP_CREATE: c_int = 0;
const BPF_MAP_LOOKUP_ELEM: c_int = 1;
const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_TEST_RUN: c_int = 10;
const BPF_LINK_CREATE: c_int = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// `r0 = TCX_NEXT (-1)`.
const LEAVE: u64 = instruction(0xb7, 0, 0, 0, -1);
/// `r0 = TC_ACT_SHOT`.
const DROP: u64 = instruction(0xb7, 0, 0, 0, 2);
const EXIT: u64 = 0x95;

/// Encodes one instruction as `struct bpf_insn` on a little-endian machine.
const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (immediate.cast_unsigned() as u64) << 32
}

impl Classifier {
    /// Loads a program that leaves each packet to the next one.
    pub fn nothing() -> Result<Self> {
        Self::load(&[LEAVE, EXIT])
    }

    /// Loads a program that counts each packet and drops it.
    pub fn counting_drop(counter: &Counter) -> Result<Self> {
        Self::load(&[&counter.add_1()[..], &[DROP, EXIT]].concat())
    }

    /// Loads a program that counts and drops IPv4 packets that are not ESP, and leaves ESP to the next one.
    pub fn counting_drop_of_decrypted(counter: &Counter) -> Result<Self> {
        const PROTOCOL_OFFSET: i32 = 14 + 9;
        const ESP: i32 = 50;
        // r6 = the context; r0 = the protocol byte, or the program ends with 0 if the packet is too short;
        // if r0 != ESP skip the two instructions that leave the packet to the next program.
        let is_esp = [
            instruction(0xbf, 6, 1, 0, 0),
            instruction(0x30, 0, 0, 0, PROTOCOL_OFFSET),
            instruction(0x55, 0, 0, 2, ESP),
            LEAVE,
            EXIT,
        ];
        Self::load(&[&is_esp[..], &counter.add_1(), &[DROP, EXIT]].concat())
    }

    /// Loads a program that sends IPv4 packets of this protocol to an interface with `bpf_redirect_neigh`,
    /// which looks up route and neighbour by the destination address. It leaves others to the next one.
    pub fn redirecting_neigh(protocol: u8, interface: u32) -> Result<Self> {
        const BPF_FUNC_REDIRECT_NEIGH: i32 = 152;
        // r6 = the context; r0 = the EtherType, then the protocol byte; the program ends with 0 if the packet
        // is too short.
        Self::load(&[
            instruction(0xbf, 6, 1, 0, 0),
            instruction(0x28, 0, 0, 0, 12),
            instruction(0x55, 0, 0, 8, 0x0800),
            instruction(0x30, 0, 0, 0, 14 + 9),
            instruction(0x55, 0, 0, 6, protocol.into()),
            // bpf_redirect_neigh(interface, NULL, 0, 0).
            instruction(0xb7, 1, 0, 0, interface.cast_signed()),
            instruction(0xb7, 2, 0, 0, 0),
            instruction(0xb7, 3, 0, 0, 0),
            instruction(0xb7, 4, 0, 0, 0),
            instruction(0x85, 0, 0, 0, BPF_FUNC_REDIRECT_NEIGH),
            EXIT,
            LEAVE,
            EXIT,
        ])
    }

    /// Loads a program that spins for this many rounds, then leaves the packet to the next one.
    pub fn working(rounds: i32) -> Result<Self> {
        Self::load(&[
            instruction(0xb7, 1, 0, 0, rounds.max(1)),
            // r1 -= 1; if r1 != 0 goto -2.
            instruction(0x07, 1, 0, 0, -1),
            instruction(0x55, 1, 0, -2, 0),
            LEAVE,
            EXIT,
        ])
    }

    /// Runs the program `repeat` times on a packet of zeroes and returns the kernel's average for one run.
    pub fn time(&self, repeat: u32) -> Result<Nanoseconds> {
        let packet = [0u8; 64];
        let mut run = TestRun {
            program: self.0.as_raw_fd().cast_unsigned(),
            data_in_bytes: packet.len() as u32,
            data_in: packet.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        // SAFETY: the kernel reads the packet, whose size is given, and writes into `run`. Both live until it
        // returns.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size_of::<TestRun>()) };
        Errno::result(result).context("BPF_PROG_TEST_RUN")?;
        Ok(run.duration)
    }

    /// Attaches it to an interface of this thread's network namespace, behind the programs there.
    pub fn attach(&self, interface: &str, way: Way) -> Result<Link> {
        let attributes = LinkCreate {
            program: self.0.as_raw_fd().cast_unsigned(),
            interface: if_nametoindex(interface).with_context(|| format!("there is no {interface}"))?,
            attach_type: match way {
                Way::Ingress => BPF_TCX_INGRESS,
                Way::Egress => BPF_TCX_EGRESS,
            },
            flags: 0,
        };
        bpf(BPF_LINK_CREATE, &attributes).context("BPF_LINK_CREATE (TCX needs Linux 6.6)").map(Link)
    }

    fn load(instructions: &[u64]) -> Result<Self> {
        load(BPF_PROG_TYPE_SCHED_CLS, instructions).map(Self)
    }
}

impl Driver {
    /// Loads a program that lets each packet pass.
    pub fn pass() -> Result<Self> {
        const XDP_PASS: u64 = instruction(0xb7, 0, 0, 0, 2);
        load(BPF_PROG_TYPE_XDP, &[XDP_PASS, EXIT]).map(Self)
    }

    /// Loads a program that counts each packet and drops it.
    pub fn counting_drop(counter: &Counter) -> Result<Self> {
        const XDP_DROP: u64 = instruction(0xb7, 0, 0, 0, 1);
        load(BPF_PROG_TYPE_XDP, &[&counter.add_1()[..], &[XDP_DROP, EXIT]].concat()).map(Self)
    }

    /// Loads a program that counts IPv4 packets of this protocol and lets each packet pass.
    pub fn counting_pass(counter: &Counter, protocol: u8) -> Result<Self> {
        const ETHERTYPE_IPV4: i32 = 0x0800_u16.to_be() as i32;
        const XDP_PASS: u64 = instruction(0xb7, 0, 0, 0, 2);
        // r2 = data; r3 = data_end; unless the packet has at least 24 bytes, is IPv4, and of the protocol,
        // skip the instructions that count it.
        let is_of_protocol = [
            instruction(0x61, 2, 1, 0, 0),
            instruction(0x61, 3, 1, 4, 0),
            instruction(0xbf, 4, 2, 0, 0),
            instruction(0x07, 4, 0, 0, 24),
            instruction(0x2d, 4, 3, 8, 0),
            instruction(0x69, 4, 2, 12, 0),
            instruction(0x55, 4, 0, 6, ETHERTYPE_IPV4),
            instruction(0x71, 4, 2, 14 + 9, 0),
            instruction(0x55, 4, 0, 4, protocol.into()),
        ];
        let program = [&is_of_protocol[..], &counter.add_1(), &[XDP_PASS, EXIT]].concat();
        load(BPF_PROG_TYPE_XDP, &program).map(Self)
    }

    /// Attaches it to the driver of an interface of this thread's network namespace.
    pub fn attach(&self, interface: &str) -> Result<Link> {
        // linux/if_link.h.
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        self.attach_with(interface, XDP_FLAGS_DRV_MODE).context("BPF_LINK_CREATE in the driver")
    }

    /// Attaches it in generic mode, behind the driver, to an interface of this thread's network namespace.
    pub fn attach_generic(&self, interface: &str) -> Result<Link> {
        // linux/if_link.h.
        const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
        self.attach_with(interface, XDP_FLAGS_SKB_MODE).context("BPF_LINK_CREATE in generic mode")
    }

    fn attach_with(&self, interface: &str, flags: u32) -> Result<Link> {
        let attributes = LinkCreate {
            program: self.0.as_raw_fd().cast_unsigned(),
            interface: if_nametoindex(interface).with_context(|| format!("there is no {interface}"))?,
            attach_type: BPF_XDP,
            flags,
        };
        bpf(BPF_LINK_CREATE, &attributes).map(Link)
    }
}

fn load(program_type: u32, instructions: &[u64]) -> Result<OwnedFd> {
    let attributes = ProgramLoad {
        program_type,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &attributes).context("BPF_PROG_LOAD")
}

impl Counter {
    /// Makes a counter that starts at 0.
    pub fn new() -> Result<Self> {
        let attributes = MapCreate { map_type: BPF_MAP_TYPE_ARRAY, key_bytes: 4, value_bytes: 8, entries: 1 };
        bpf(BPF_MAP_CREATE, &attributes).context("BPF_MAP_CREATE").map(Self)
    }

    /// Returns instructions that add 1 to it. They overwrite r1 and r2.
    fn add_1(&self) -> [u64; 4] {
        const PSEUDO_MAP_VALUE: u8 = 2;
        [
            // r1 = the counter's address, in two instructions; r2 = 1; lock *(u64 *)r1 += r2.
            instruction(0x18, 1, PSEUDO_MAP_VALUE, 0, self.0.as_raw_fd()),
            0,
            instruction(0xb7, 2, 0, 0, 1),
            instruction(0xdb, 1, 2, 0, 0),
        ]
    }

    /// Reads the counter.
    pub fn get(&self) -> Result<u64> {
        let (key, mut value) = (0u32, 0u64);
        let attributes = MapElement {
            map: self.0.as_raw_fd().cast_unsigned(),
            _padding: 0,
            key: (&raw const key) as u64,
            value: (&raw mut value) as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads 4 bytes of `key` and writes 8 bytes of `value`, as the map was made.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, &raw const attributes, size_of::<MapElement>())
        };
        Errno::result(result).context("BPF_MAP_LOOKUP_ELEM")?;
        Ok(value)
    }
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes the rest as zero.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
}

/// The beginning of `union bpf_attr` for BPF_MAP_LOOKUP_ELEM.
#[repr(C)]
struct MapElement {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The beginning of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Makes the system call, for commands that return a descriptor.
fn bpf<T>(command: c_int, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, whose pointers point at data that
    // lives until it returns. It writes nothing.
    let descriptor: c_long =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let descriptor = c_int::try_from(Errno::result(descriptor)?)?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
