//! Instructions through real ESP: what decapsulation costs, and what firewall and forwarding do after it; and
//! of bulk upload, where packets of a stream are merged before the firewall sees them.
//!
//! | workload | `ingress-drop`, which is subtracted | others |
//! |---|---|---|
//! | `decapsulation` | dropped in the gateway's driver | dropped at the first hook after decryption |
//! | `firewall-and-forwarding`, `bulk-…` | dropped at the first hook after decryption | at the server |
use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use gateway::kernel::programs::Purpose;
use gateway_common::packet::flag;
use gateway_tests_kit::process;

use super::{
    case::{Case, Measured},
    contender,
    figure::{Choice, Contender, Place, Unit, Workload},
    firewall::Firewall,
    frames::{Flow, Segment, Side},
    rules::Policy,
    statistics::{extremes, median},
    traffic::Traffic,
    tunnel::{CUSTOMER, End, SEGMENT_BYTES, SEGMENTS, Tunnel},
};

/// All that these measurements answer.
pub const WORKLOADS: [Workload; 4] =
    [Workload::Decapsulation, Workload::FirewallAndForwarding, Workload::BulkGro, Workload::BulkNoGro];
/// AES-GCM keys, as the proposals that are offered first have them.
const KEY_BITS: u32 = 256;

/// What a measurement of a workload came to.
#[derive(Default)]
struct Rounds {
    /// Instructions for each segment.
    instructions: Vec<f64>,
    /// Segments for each packet at the end.
    merged: Vec<f64>,
}

/// Measures these workloads of these contenders, those that there are for ESP.
pub fn run(contenders: &[Contender], workloads: &[Workload], rounds: u32, seed: u64) -> Result<()> {
    for (module, why) in [
        ("esp4", "ESP"),
        ("esp4_offload", "merging packets of one tunnel"),
        ("aesni_intel", "AES in hardware, as every gateway's processor has it"),
    ] {
        process::output(std::process::Command::new("modprobe").arg(module))
            .with_context(|| format!("the kernel's {module}: {why}"))?;
    }
    // The first forwards nothing, the second says nothing here, and for the third the gateway has no mode: it
    // redirects.
    let contenders = contenders.iter().filter(|one| {
        !matches!(one, Contender::NftablesNetdevDrop | Contender::CallsOnly | Contender::Stack)
    });
    let mut ours: Option<Firewall> = None;
    for contender in contenders {
        for workload in WORKLOADS.into_iter().filter(|workload| workloads.contains(workload)) {
            let rounds = measure(*contender, workload, rounds, seed, &mut ours)
                .with_context(|| format!("{contender:?}, {workload:?}"))?;
            report(*contender, workload, &rounds)?;
        }
    }
    Ok(())
}

/// `ours` is loaded when it is needed for the first time.
fn measure(
    contender: Contender,
    workload: Workload,
    rounds: u32,
    seed: u64,
    ours: &mut Option<Firewall>,
) -> Result<Rounds> {
    let end = match (workload, contender) {
        (Workload::Decapsulation, Contender::IngressDrop) => End::Driver,
        (Workload::Decapsulation, _) | (_, Contender::IngressDrop) => End::Decrypted,
        _ => End::Server,
    };
    let mut tunnel = Tunnel::create("esp", KEY_BITS, end, workload == Workload::BulkGro)?;
    let mut _attached = None;
    if end == End::Server {
        if contender.is_ours() {
            tunnel.free_driver();
            if ours.is_none() {
                let mut loaded = Firewall::load(Purpose::Gateway, "esp", CUSTOMER, 1 << 12)?;
                loaded.set_customers(CUSTOMER)?;
                *ours = Some(loaded);
            }
            let ours = ours.as_mut().context("not loaded")?;
            _attached = Some(ours.protect_tunnels(&tunnel.gateway, &[tunnel.identity()?])?);
        } else {
            contender::start_tool(&tunnel.gateway, contender, &Policy::of(CUSTOMER))?;
        }
    }
    // As in `instructions`: until the last one is taken apart.
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

/// The slope between N and 2N, for each segment, and segments for each packet that comes to the end.
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
        ensure!(right, "{packets} packets arrived of {sent}");
    }
    let sent = (2 * units * segments) as f64;
    Ok(((lasted[2] - lasted[1]) / (units * segments) as f64, sent / arrived as f64))
}

fn handshake(flow: &mut Flow) -> Vec<Segment> {
    [
        (Side::Site, flag::SYN),
        (Side::Lan, flag::SYN | flag::ACK),
        (Side::Site, flag::ACK),
        // The window of a SYN is never scaled: only this opens all of it.
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
    let case = Case {
        workload,
        customers: CUSTOMER,
        flows: 1,
        place: Place::Last,
        choice: Choice::Uniform,
        frame_bytes: if bulk { 54 + SEGMENT_BYTES as u32 } else { 64 },
    };
    let figure = |unit, values: &[f64]| {
        let (low, high) = extremes(values);
        case.report(
            contender,
            unit,
            Measured { value: median(values), low, high, rounds: values.len() as u32 },
        )
    };
    figure(Unit::Instructions, &rounds.instructions)?;
    if bulk {
        figure(Unit::Segments, &rounds.merged)?;
    }
    Ok(())
}
