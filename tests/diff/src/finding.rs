//! Reports of unexplained differences.
use std::fmt::Write;

use anyhow::{Result, ensure};
use gateway_common::tcp::Direction;
use gateway_tests_kit::{packet::Packet, world::TUNNELS};

use super::{purpose::ComparedPacket, round::SequenceRun, segment::Deviation};

/// Returns the signature by which findings are grouped: directions and flags of all packets, and the outcome
/// of the last.
pub fn signature(run: &SequenceRun) -> String {
    let mut text = String::new();
    if run.packets.iter().any(|packet| packet.segment.deviation == Deviation::IpChecksum) {
        return "IPv4 header checksum".to_owned();
    }
    for packet in &run.packets {
        let arrow = if packet.segment.direction == Direction::ToServer { '>' } else { '<' };
        let _ = write!(text, "{arrow}{}", packet.segment.flags());
        if packet.segment.deviation != Deviation::None {
            let _ = write!(text, "({:?})", packet.segment.deviation);
        }
        text.push(' ');
    }
    text + outcome(run.packets.last())
}

fn outcome(packet: Option<&ComparedPacket>) -> &'static str {
    match packet {
        Some(ComparedPacket { kernel: true, ours: false, .. }) => "kernel passes, we drop",
        Some(ComparedPacket { kernel: false, ours: true, .. }) => "kernel drops, we pass",
        Some(ComparedPacket { bytes_differ: true, .. }) => "both pass, different bytes",
        _ => "no difference",
    }
}

/// Returns a trace, and a replay case that expects the kernel's verdicts.
pub fn describe(run: &SequenceRun, loose: bool) -> Result<String> {
    let mut text = format!("seed {:#018x} loose {}: {}\n", run.seed, u8::from(loose), signature(run));
    text += &trace(run)?;
    writeln!(text, "\n[[case]]\nname = \"\"\nsteps = [")?;
    for (at, packet) in run.packets.iter().enumerate() {
        writeln!(text, "{}", step(run, at, packet)?)?;
    }
    text += "]\n";
    Ok(text)
}

/// Returns the packets and their verdicts on both sides, one packet a line.
pub fn trace(run: &SequenceRun) -> Result<String> {
    let mut text = String::new();
    for packet in &run.packets {
        let line = run.flow.line(&packet.segment)?;
        let (line_frame, frame) =
            (line.parse::<Packet>()?, run.flow.packet(&packet.segment, 0x1234)?.frame()?);
        ensure!(line_frame.frame()?[14..] == frame[14..], "{line:?} does not describe its packet");
        let word = |passed| if passed { "passes" } else { "drops" };
        let marker = if packet.agrees() { "  " } else { "! " };
        writeln!(text, "{marker}kernel {:<6} we {}  {line}", word(packet.kernel), our_word(packet))?;
    }
    Ok(text)
}

fn our_word(packet: &ComparedPacket) -> &'static str {
    match packet {
        ComparedPacket { bytes_differ: true, .. } => "pass different bytes",
        ComparedPacket { ours: true, .. } => "pass",
        _ => "drop",
    }
}

fn step(run: &SequenceRun, at: usize, packet: &ComparedPacket) -> Result<String> {
    let tunnel = match packet.segment.deviation {
        Deviation::Tunnel(other) => TUNNELS[other].name,
        _ => run.flow.tunnel().name,
    };
    let customer = run.flow.customer().0;
    let to_server = packet.segment.direction == Direction::ToServer;
    let from = if to_server { format!("from = \"{tunnel}\"") } else { "hook = \"lan_ingress\"".to_owned() };
    let opened = if at == 0 && to_server { ", opened" } else { "" };
    let (verdict, counts) = match (packet.kernel, to_server) {
        (true, true) => ("to server".to_owned(), format!("{customer}: to_server{opened}")),
        (true, false) => (format!("to tunnel {tunnel}"), format!("{customer}: to_site")),
        // The kernel has no reasons: any of ours will do.
        (false, _) => ("drop TcpStateInvalid".to_owned(), format!("{customer} via {tunnel}: dropped 1")),
    };
    let line = run.flow.line(&packet.segment)?;
    Ok(format!("  {{ {from}, packet = \"{line}\", verdict = \"{verdict}\", counts = \"{counts}\" }},"))
}
