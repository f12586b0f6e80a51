//! Instructions through real ESP: the cost of decapsulation, the cost of firewall and forwarding after it,
//! and the cost of bulk upload, whose packets are merged before the firewall sees them.
//!
//! | workload | `ingress-drop`, the part to subtract | others |
//! |---|---|---|
//! | `decapsulation` | dropped in the gateway's driver | dropped at the first hook after decryption |
//! | `firewall-and-forwarding`, `bulk-…` | dropped at the first hook after decryption | at the server |
use std::{thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use gateway::kernel::programs::Purpose;
use gateway_common::packet::flag;
use gateway_tests_kit::process;

use super::{
    case::Case,
    contender::{Contender, Setup},
    figure::{Figure, Measured, Unit},
    firewall::Firewall,
    frames::{Flow, Segment, Side},
    rules::Policy,
    statistics::{extremes, median},
    traffic::Traffic,
    tunnel::{CUSTOMER, End, SEGMENT_BYTES, SEGMENTS, Tunnel},
    working,
    workload::Workload,
};

/// The workloads measured here.
pub const WORKLOADS: [Workload; 4] =
    [Workload::Decapsulation, Workload::FirewallAndForwarding, Workload::BulkGro, Workload::BulkNoGro];
/// Size of the AES-GCM keys, as in the preferred proposals.
const KEY_BITS: u32 = 256;

/// The rounds of one workload.
#[derive(Default)]
struct Rounds {
    /// Instructions for each segment.
    instructions: Vec<f64>,
    /// Segments for each packet at the end.
    merged: Vec<f64>,
}

/// Measures the given contenders at the given workloads.
pub fn run(contenders: &[Contender], workloads: &[Workload], rounds: u32, seed: u64) -> Result<()> {
    for (module, why) in [
        ("esp4", "ESP"),
        ("esp4_offload", "merging packets of one tunnel"),
        ("aesni_intel", "AES in hardware, as every gateway's processor has it"),
    ] {
        process::output(std::process::Command::new("modprobe").arg(module))
            .with_context(|| format!("the kernel's {module}: {why}"))?;
    }
    let mut ours: Option<Firewall> = None;
    for contender in contenders {
        for workload in WORKLOADS.into_iter().filter(|workload| workloads.contains(workload)) {
            let rounds = measure(*contender, workload, rounds, seed, &mut ours)
                .with_context(|| format!("{contender}, {workload:?}"))?;
            report(*contender, workload, &rounds)?;
        }
    }
    Ok(())
}

/// Measures one contender at one workload. Loads `ours` on first use.
fn measure(
    contender: Contender,
    workload: Workload,
    rounds: u32,
    seed: u64,
    ours: &mut Option<Firewall>,
) -> Result<Rounds> {
    let dropped = contender.row().setup == Setup::DropAtIngress;
    let end = match (workload == Workload::Decapsulation, dropped) {
        (true, true) => End::Driver,
        (true, false) | (false, true) => End::Decrypted,
        (false, false) => End::Server,
    };
    let mut tunnel = Tunnel::create("esp", KEY_BITS, end, workload == Workload::BulkGro)?;
    let mut _attached = None;
    if end == End::Server {
        match contender.row().setup {
            Setup::DropAtIngress | Setup::Nothing => {}
            Setup::CallsOnly => bail!("{contender} is not measured through ESP"),
            Setup::Gateway(_) => {
                tunnel.free_driver();
                if ours.is_none() {
                    let mut loaded = Firewall::load(Purpose::Gateway, "esp", CUSTOMER, 1 << 12)?;
                    loaded.set_customers(CUSTOMER)?;
                    *ours = Some(loaded);
                }
                let ours = ours.as_mut().context("not loaded")?;
                _attached = Some(ours.protect_tunnels(&tunnel.gateway, &[tunnel.identity()?])?);
            }
            Setup::Ruleset(ruleset) => {
                working::load_ruleset(&tunnel.gateway, ruleset, contender, &Policy::of(CUSTOMER))?;
            }
        }
    }
    // Same wait as in `instructions`: the kernel tears down the previous namespace meanwhile.
    thread::sleep(Duration::from_secs(1));
    let mut traffic = Traffic::of(Workload::Established, 64, &[CUSTOMER], 1, seed);
    let rounds = (0..rounds).try_fold(Rounds::default(), |mut done, _| {
        let (instructions, merged) = round(&tunnel, &mut traffic, workload, end)?;
        done.instructions.push(instructions);
        done.merged.push(merged);
        Ok::<_, anyhow::Error>(done)
    })?;
    tunnel.remove()?;
    Ok(rounds)
}

/// Returns the slope between N and 2N for each segment, and the segments for each packet that reaches the
/// end.
fn round(tunnel: &Tunnel, traffic: &mut Traffic, workload: Workload, end: End) -> Result<(f64, f64)> {
    let bulk = matches!(workload, Workload::BulkGro | Workload::BulkNoGro);
    let (units, segments) = if bulk { (10, SEGMENTS) } else { (2000, 1) };
    let mut flow = traffic.flow();
    tunnel.send(&handshake(&mut flow))?;
    let mut lasted = [0.0; 3];
    let mut arrived = 0;
    for (lasted, units) in lasted.iter_mut().zip([units / 5, units, 2 * units]) {
        let sent: Vec<_> = (0..units).map(|_| data(&mut flow, bulk)).collect();
        let (time, packets) = tunnel.send(&sent)?;
        (*lasted, arrived) = (time.as_nanos() as f64, packets);
        let sent = (units * segments) as u64;
        let whole = end == End::Driver || workload != Workload::BulkGro;
        let right = if whole { packets == sent } else { (units as u64..=sent).contains(&packets) };
        ensure!(right, "{packets} packets arrived, {sent} segments sent");
    }
    let sent = (2 * units * segments) as f64;
    Ok(((lasted[2] - lasted[1]) / (units * segments) as f64, sent / arrived as f64))
}

fn handshake(flow: &mut Flow) -> Vec<Segment> {
    [
        (Side::Site, flag::SYN),
        (Side::Lan, flag::SYN | flag::ACK),
        (Side::Site, flag::ACK),
        // The window of a SYN is never scaled (RFC 7323 section 2.2); this ACK opens the whole window.
        (Side::Lan, flag::ACK),
    ]
    .map(|(from, flags)| flow.segment(from, flags, 0))
    .to_vec()
}

fn data(flow: &mut Flow, bulk: bool) -> Segment {
    const HEADERS: usize = 54;
    let bytes = if bulk { HEADERS + SEGMENTS * SEGMENT_BYTES } else { 64 };
    let flags = if bulk { flag::ACK } else { flag::ACK | flag::PSH };
    flow.segment(Side::Site, flags, bytes)
}

fn report(contender: Contender, workload: Workload, rounds: &Rounds) -> Result<()> {
    let bulk = matches!(workload, Workload::BulkGro | Workload::BulkNoGro);
    let usual = Case::usual(workload, CUSTOMER);
    let case = if bulk { Case { frame_bytes: 54 + SEGMENT_BYTES as u32, ..usual } } else { usual };
    let figure = |unit, values: &[f64]| {
        let (low, high) = extremes(values);
        let measured = Measured { value: median(values), low, high, rounds: values.len() as u32 };
        Figure::of_case(&case, contender, unit, measured).report()
    };
    figure(Unit::Instructions, &rounds.instructions)?;
    if bulk {
        figure(Unit::Segments, &rounds.merged)?;
    }
    Ok(())
}
