//! Loading the programs, and attaching them so that links outlive the daemon: a restarted daemon
//! replaces the program of each link in place, between one packet and the next.
use std::{fs, io};

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
};
use gateway_common::{
    layout::{Hook, NextProgram},
    wheel,
};

use crate::kernel::{interface, pins::Pins};

/// The programs, as build.rs compiled them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gateway-ebpf"));

/// How many entries the maps have room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Tunnel ids run from 1 to this.
    pub tunnels: u32,
    /// Customer ids run from 1 to this.
    pub customers: u32,
    /// IPv4 flows of all customers together.
    pub flows: u32,
    /// IPv6 flows of all customers together.
    pub flows6: u32,
}

/// SAs of one tunnel that may be known at a time: during a rekey there are two, and a peer may
/// have several rekeys under way.
const SPIS_PER_TUNNEL: u32 = 8;
/// Outer addresses of one tunnel's peer that may be known at a time: a site that moves has two for a
/// moment.
pub const PEERS_PER_TUNNEL: u32 = 2;
/// The program that sets the timer going by which flows end. It is attached nowhere.
const EXPIRY: &str = "expiry";

/// Who runs the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The gateway: identity from the kernel's XFRM state.
    Gateway,
    /// Packet-replay tests: identity and time from the test.
    Replay,
    /// The flood test, and benchmarks: identity from the test, time from the kernel.
    ReplayIdentity,
    /// A benchmark that compares: the same, and the stack routes what passes to the servers.
    ReplayIdentityToStack,
}

impl Purpose {
    /// What the programs know it by, `REPLAY` in gateway-ebpf/src/maps.rs.
    const fn number(self) -> u32 {
        match self {
            Self::Gateway => 0,
            Self::Replay => 1,
            Self::ReplayIdentity | Self::ReplayIdentityToStack => 2,
        }
    }
}

/// Loads the programs into the kernel; maps that are pinned already are used, with what is in them.
pub fn load(pins: &Pins, sizes: Sizes, purpose: Purpose) -> Result<Ebpf> {
    let spis = sizes.tunnels.saturating_mul(SPIS_PER_TUNNEL);
    let to_stack = u32::from(purpose == Purpose::ReplayIdentityToStack);
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(pins.directory())
        .override_global("REPLAY", &purpose.number(), true)
        .override_global("FORWARD", &to_stack, true)
        .map_max_entries("TUNNELS", sizes.tunnels + 1)
        .map_max_entries("CUSTOMERS", sizes.customers)
        .map_max_entries("CUSTOMERS6", sizes.customers)
        .map_max_entries("USAGE", sizes.customers + 1)
        .map_max_entries("COUNTERS", sizes.customers + 1)
        .map_max_entries("PEERS", sizes.tunnels.saturating_mul(PEERS_PER_TUNNEL))
        .map_max_entries("INBOUND_SPIS", spis)
        .map_max_entries("OUTBOUND_SPIS", spis)
        .map_max_entries("FLOWS", sizes.flows)
        .map_max_entries("FLOWS6", sizes.flows6)
        // A flow's node is named by a number, and number 0 is none.
        .map_max_entries("NODES", wheel::pairs(sizes.flows))
        .map_max_entries("NODES6", wheel::pairs(sizes.flows6))
        .load(OBJECT)
        .with_context(|| {
            format!(
                "load the eBPF object with maps in {} (if [limits] or the version changed, what is pinned \
                 there does not fit any more: `gatewayctl detach`, then start again)",
                pins.directory().display()
            )
        })?;
    for hook in Hook::ALL {
        match program(&mut ebpf, hook)? {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => bail!("the object's program {} is of an unknown type", hook.name()),
        }
        .with_context(|| format!("load the program {}", hook.name()))?;
    }
    for next in NextProgram::ALL {
        load_next(&mut ebpf, next).with_context(|| format!("load the program {}", next.name()))?;
    }
    classifier(&mut ebpf, EXPIRY)?.load().with_context(|| format!("load the program {EXPIRY}"))?;
    Ok(ebpf)
}

/// Loads a program that others go on in, and tells them where it is: also those of an earlier gatewayd,
/// which are attached still.
fn load_next(ebpf: &mut Ebpf, next: NextProgram) -> Result<()> {
    const MAP: &str = "PROGRAMS";
    let program = classifier(ebpf, next.name())?;
    program.load()?;
    let program = program.fd()?.try_clone()?;
    let map = ebpf.map_mut(MAP).ok_or_else(|| anyhow!("the object has no map {MAP}"))?;
    let mut programs = ProgramArray::try_from(map).with_context(|| format!("map {MAP}"))?;
    programs.set(next as u32, &program, 0).with_context(|| format!("write {MAP}"))
}

/// Sets the timer going by which flows end; what an earlier gatewayd's does goes on with the new
/// program. It needs pinned maps: the kernel stops a timer whose map nobody in user space has.
pub fn arm_expiry(ebpf: &mut Ebpf) -> Result<()> {
    const ARMED: u32 = 0;
    // The kernel takes no packet shorter than an Ethernet header.
    let packet = [0; 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&packet);
    let result =
        classifier(ebpf, EXPIRY)?.test_run(options).with_context(|| format!("run the program {EXPIRY}"))?;
    ensure!(
        result.return_value == ARMED,
        "the timer by which flows end cannot be set: the program {EXPIRY} returned {}",
        result.return_value as i32
    );
    Ok(())
}

/// How XDP runs on the internet interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpState {
    /// In the driver.
    Native,
    /// Not at all: the driver cannot. TCX filters alone, and GRO is off.
    Missing,
}

/// Attaches all programs, or puts them in the place of those that are attached.
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
            _ => bail!("the object's program {} is of an unknown type", hook.name()),
        };
        if attached.with_context(|| format!("attach {} to {name}", hook.name()))? == XdpState::Missing {
            interface::turn_gro_off(name).with_context(|| {
                format!("{name} has no native XDP, and without it GRO could merge packets of two tunnels")
            })?;
            state = XdpState::Missing;
        }
    }
    Ok(state)
}

/// Removes the links of hooks whose interface is not the one they were attached to.
pub fn forget_links(pins: &Pins) -> Result<()> {
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
    program.try_into().with_context(|| format!("the object's program {name} is of an unknown type"))
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut Program> {
    ebpf.program_mut(hook.name()).ok_or_else(|| anyhow!("the object has no program {}", hook.name()))
}

fn attach_xdp(program: &mut Xdp, pins: &Pins, hook: Hook, name: &str) -> Result<XdpState> {
    if let Some(link) = pinned(pins, hook)? {
        match program.attach_to_link(link.try_into()?) {
            Ok(id) => {
                // Stays attached: the pin holds the link.
                drop(program.take_link(id)?);
                return Ok(XdpState::Native);
            }
            Err(error) if is_defunct(&error) => fs::remove_file(pins.link(hook))?,
            Err(error) => return Err(error.into()),
        }
    }
    // Generic XDP is no substitute: it also sees decapsulated packets, indistinguishable from
    // plaintext (FACTS 2).
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
    // Ingress: before anybody else's program. Egress: after, so that the last word is ours.
    let order = match attach_type {
        TcAttachType::Egress => LinkOrder::last(),
        _ => LinkOrder::first(),
    };
    let id = program.attach(&*std::ffi::CString::new(name)?, TcAttach::Tcx { attach_type, order })?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pins.link(hook))?;
    Ok(())
}

/// The pinned link of a hook.
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

/// The link's interface is gone, and with it what it did.
fn is_defunct(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(libc::ENOLINK))
}
