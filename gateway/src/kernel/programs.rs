//! Loads the programs, and attaches them so that links outlive the daemon: a restarted daemon replaces the
//! program of each link in place, between one packet and the next.
use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    io,
    num::NonZeroU32,
    panic, thread,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, TcAttach, TcAttachType, TestRun as _,
        TestRunOptions, Xdp,
        links::{FdLink, LinkError, PinnedLink},
        xdp::XdpMode,
    },
    sys::SyscallError,
    util::nr_cpus,
};
pub use gateway_common::layout::map_list::{PEERS_PER_TUNNEL, Sizes};
use gateway_common::{
    layout::map_list::{self, Bound},
    layout::{Hook, NextProgram},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::kernel::{interface, pins::Pins};

/// The programs, as build.rs compiled them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gateway-ebpf"));

/// The program that arms the timers that remove ended flows. It is attached nowhere.
const EXPIRY: &str = "expiry";

/// The purpose that the programs are loaded for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The gateway: the identity comes from the kernel's XFRM state.
    Gateway,
    /// Packet-replay tests: identity and time come from the test.
    Replay,
    /// The flood test and benchmarks: the identity comes from the test, the time from the kernel.
    ReplayIdentity,
    /// A benchmark that compares: as `ReplayIdentity`, and the stack routes packets to the servers.
    ReplayIdentityToStack,
}

impl Purpose {
    /// Returns the value of `REPLAY`, see gateway-ebpf/src/maps.rs.
    const fn number(self) -> u32 {
        match self {
            Self::Gateway => 0,
            Self::Replay => 1,
            Self::ReplayIdentity | Self::ReplayIdentityToStack => 2,
        }
    }

    /// Returns the value of `NEIGHBOUR_KEY`: a secret, except in tests that must run the same each time.
    fn neighbour_key(self) -> u64 {
        /// 2^64 divided by the golden ratio, which spreads addresses well (Knuth, TAOCP 6.4).
        const FIXED: u64 = 0x9e37_79b9_7f4a_7c15;
        match self {
            Self::Replay => FIXED,
            // The hasher's own keys come from the operating system.
            _ => RandomState::new().hash_one(0),
        }
    }
}

/// Loads the programs into the kernel. Adopts maps that are pinned already, with their contents.
pub fn load(pins: &Pins, sizes: Sizes, purpose: Purpose) -> Result<Ebpf> {
    let cpus = possible_cpus()?;
    let (replay, forward) = (purpose.number(), u32::from(purpose == Purpose::ReplayIdentityToStack));
    let neighbour_key = purpose.neighbour_key();
    let mut loader = EbpfLoader::new();
    loader
        .default_map_pin_directory(pins.directory())
        .override_global("REPLAY", &replay, true)
        .override_global("FORWARD", &forward, true)
        .override_global("NEIGHBOUR_KEY", &neighbour_key, true);
    for map in map_list::ALL.iter().filter(|map| !matches!(map.bound, Bound::Fixed(_))) {
        loader.map_max_entries(map.name, map.bound.entries(&sizes, cpus));
    }
    let mut ebpf = loader.load(OBJECT).with_context(|| {
        format!(
            "load the eBPF object with the maps pinned in {} (after a change of [limits] or of the version \
                 they no longer fit: run `gatewayctl detach`, then start again)",
            pins.directory().display()
        )
    })?;
    verify(&mut ebpf)?;
    for next in NextProgram::ALL {
        put_next(&mut ebpf, next).with_context(|| format!("put the program {} into reach", next.name()))?;
    }
    Ok(ebpf)
}

/// Has the kernel verify all programs at the same time, as far as there are CPUs: that is most of a start.
fn verify(ebpf: &mut Ebpf) -> Result<()> {
    let load = |program: &mut Program| match program {
        Program::Xdp(program) => Ok(program.load()?),
        Program::SchedClassifier(program) => Ok(program.load()?),
        _ => bail!("it has an unexpected type"),
    };
    thread::scope(|scope| {
        let programs = ebpf.programs_mut();
        let loading: Vec<_> =
            programs.map(|(name, program)| (name, scope.spawn(move || load(program)))).collect();
        loading.into_iter().try_for_each(|(name, loading)| {
            let loaded = loading.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked));
            loaded.with_context(|| format!("load the program {name}"))
        })
    })
}

/// Puts a program that others tail-call into PROGRAMS. Programs of an earlier gatewayd that are still attached call it
/// from then on, too.
fn put_next(ebpf: &mut Ebpf, next: NextProgram) -> Result<()> {
    const MAP: &str = map_list::PROGRAMS.description.name;
    let program = classifier(ebpf, next.name())?.fd()?.try_clone()?;
    let map = ebpf.map_mut(MAP).ok_or_else(|| anyhow!("the object has no map {MAP}"))?;
    let mut programs = ProgramArray::try_from(map).with_context(|| format!("map {MAP}"))?;
    programs.set(next as u32, &program, 0).with_context(|| format!("write {MAP}"))
}

/// Arms the timers that remove ended flows, one for each CPU; a timer that an earlier gatewayd armed continues with
/// the new program. The maps have to be pinned: the kernel stops a timer whose map user space no longer holds.
pub fn arm_expiry(ebpf: &mut Ebpf) -> Result<()> {
    let cpus = possible_cpus()?;
    let program = &*classifier(ebpf, EXPIRY)?;
    // A thread of its own, because it moves from CPU to CPU.
    thread::scope(|scope| {
        let arming = scope.spawn(|| (0..cpus).try_for_each(|cpu| arm_wheel(program, cpu)));
        arming.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

/// Arms the timer of one CPU's wheel, on that CPU if this thread may run there: it stays where it is armed. The
/// timer of a CPU that is offline, or that this process may not use, runs on another.
fn arm_wheel(program: &SchedClassifier, cpu: u32) -> Result<()> {
    const ARMED: u32 = 0;
    let mut only = CpuSet::new();
    let _ = only.set(cpu as usize).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    // The kernel rejects a packet shorter than an Ethernet header.
    let packet = [0; 64];
    let context = expiry_context(cpu);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&packet);
    options.ctx_in = Some(&context);
    let result = program.test_run(options).with_context(|| format!("run the program {EXPIRY}"))?;
    ensure!(
        result.return_value == ARMED,
        "cannot arm the timer of CPU {cpu} that removes ended flows: the program {EXPIRY} returned {}",
        result.return_value as i32
    );
    Ok(())
}

/// Returns the context that tells the program `expiry` a CPU: a `struct __sk_buff` with it in `cb[0]`.
fn expiry_context(cpu: u32) -> [u8; 192] {
    const CB: usize = 48;
    let mut context = [0; 192];
    context[CB..CB + 4].copy_from_slice(&cpu.to_ne_bytes());
    context
}

/// Returns the number of CPUs that the kernel could bring online.
fn possible_cpus() -> Result<u32> {
    nr_cpus()
        .map(NonZeroU32::get)
        .map_err(|(file, error)| anyhow::Error::new(error).context(format!("read {file}")))
}

/// How XDP runs on the internet interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpState {
    /// In the driver.
    Native,
    /// Not at all, as the driver does not support it. TCX filters alone, and GRO is off.
    Missing,
}

/// Attaches all programs, or replaces those that are attached.
pub fn attach(ebpf: &mut Ebpf, pins: &Pins, internet: &str, lan: &str) -> Result<XdpState> {
    let mut state = XdpState::Native;
    for hook in Hook::ALL {
        let name = match hook {
            Hook::InternetXdp | Hook::InternetIngress | Hook::InternetEgress => internet,
            Hook::LanIngress | Hook::LanEgress => lan,
        };
        let attached = match program(ebpf, hook)? {
            Program::Xdp(program) => attach_xdp(program, pins, hook, name),
            Program::SchedClassifier(program) => {
                attach_tcx(program, pins, hook, name).map(|()| XdpState::Native)
            }
            _ => bail!("the object's program {} has an unexpected type", hook.name()),
        };
        if attached.with_context(|| format!("attach {} to {name}", hook.name()))? == XdpState::Missing {
            interface::turn_gro_off(name).with_context(|| {
                format!("{name} has no native XDP, and GRO could merge packets of two tunnels without it")
            })?;
            state = XdpState::Missing;
        }
    }
    Ok(state)
}

/// Unpins all links. Their programs are detached unless something else holds the links.
pub fn unpin_links(pins: &Pins) -> Result<()> {
    for hook in Hook::ALL {
        match fs::remove_file(pins.link(hook)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("unpin {}", pins.link(hook).display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier> {
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
    program.try_into().with_context(|| format!("the object's program {name} has an unexpected type"))
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut Program> {
    ebpf.program_mut(hook.name()).ok_or_else(|| anyhow!("the object has no program {}", hook.name()))
}

fn attach_xdp(program: &mut Xdp, pins: &Pins, hook: Hook, name: &str) -> Result<XdpState> {
    if let Some(link) = pinned(pins, hook)? {
        match program.attach_to_link(link.try_into()?) {
            Ok(id) => {
                // The program stays attached: the pin holds the link.
                drop(program.take_link(id)?);
                return Ok(XdpState::Native);
            }
            Err(error) if is_defunct(&error) => fs::remove_file(pins.link(hook))?,
            Err(error) => return Err(error.into()),
        }
    }
    // Generic XDP is no substitute: it also sees decapsulated packets and cannot tell them from plaintext
    // (docs/facts.md: generic-xdp-sees-inner-packets).
    match program.attach(&*std::ffi::CString::new(name)?, XdpMode::Driver) {
        Ok(id) => {
            let link: FdLink = program.take_link(id)?.try_into()?;
            link.pin(pins.link(hook))?;
            Ok(XdpState::Native)
        }
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            Ok(XdpState::Missing)
        }
        Err(error) => Err(error.into()),
    }
}

fn attach_tcx(program: &mut SchedClassifier, pins: &Pins, hook: Hook, name: &str) -> Result<()> {
    if let Some(link) = pinned(pins, hook)? {
        match program.attach_to_link(link.try_into()?) {
            Ok(id) => {
                drop(program.take_link(id)?);
                return Ok(());
            }
            Err(error) if is_defunct(&error) => fs::remove_file(pins.link(hook))?,
            Err(error) => return Err(error.into()),
        }
    }
    let attach_type = match hook {
        Hook::InternetEgress | Hook::LanEgress => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    };
    // Ingress: before every other program. Egress: after every other program.
    let order = match attach_type {
        TcAttachType::Egress => LinkOrder::last(),
        _ => LinkOrder::first(),
    };
    let id = program.attach(&*std::ffi::CString::new(name)?, TcAttach::Tcx { attach_type, order })?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pins.link(hook))?;
    Ok(())
}

/// Opens the pinned link of a hook, if there is one.
fn pinned(pins: &Pins, hook: Hook) -> Result<Option<FdLink>> {
    match PinnedLink::from_pin(pins.link(hook)) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("open {}", pins.link(hook).display())),
    }
}

/// Returns true if the link's interface is gone, which ended the link.
fn is_defunct(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(libc::ENOLINK))
}
