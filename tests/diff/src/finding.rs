//! A difference that nothing explains, for people.
use std::fmt::Write;

use anyhow::{Result, ensure};
use gateway_common::tcp::Direction;
use gateway_tests_kit::{packet::Packet, world::TUNNELS};

use super::{purpose::Judged, round::Ran, segment::Aside};

/// What makes two findings the same one: directions and flags, and what became of the last packet.
pub fn signature(ran: &Ran) -> String {
    let mut text = String::new();
    if ran.packets.iter().any(|packet| packet.segment.aside == Aside::IpChecksum) {
        return "IPv4 header checksum".to_owned();
    }
    for packet in &ran.packets {
        let arrow = if packet.segment.direction == Direction::ToServer { '>' } else { '<' };
        let _ = write!(text, "{arrow}{}", packet.segment.flags());
        if packet.segment.aside != Aside::No {
            let _ = write!(text, "({:?})", packet.segment.aside);
        }
        text.push(' ');
    }
    text + outcome(ran.packets.last())
}

fn outcome(packet: Option<&Judged>) -> &'static str {
    match packet {
        Some(Judged { kernel: true, ours: false, .. }) => "kernel passes, we drop",
        Some(Judged { kernel: false, ours: true, .. }) => "kernel drops, we pass",
        Some(Judged { bytes_differ: true, .. }) => "other bytes",
        _ => "no difference",
    }
}

/// A trace, and a replay case that expects the kernel's verdicts.
pub fn describe(ran: &Ran, loose: bool) -> Result<String> {
    let mut text = format!("seed {:#018x} loose {}: {}\n", ran.seed, u8::from(loose), signature(ran));
    text += &trace(ran)?;
    writeln!(text, "\n[[case]]\nname = \"\"\nsteps = [")?;
    for (at, packet) in ran.packets.iter().enumerate() {
        writeln!(text, "{}", step(ran, at, packet)?)?;
    }
    text += "]\n";
    Ok(text)
}

/// Packets and verdicts, line by line.
pub fn trace(ran: &Ran) -> Result<String> {
    let mut text = String::new();
    for packet in &ran.packets {
        let line = ran.flow.line(&packet.segment)?;
        let (line_frame, frame) =
            (line.parse::<Packet>()?, ran.flow.packet(&packet.segment, 0x1234)?.frame()?);
        ensure!(line_frame.frame()?[14..] == frame[14..], "{line:?} is not the packet it describes");
        let word = |passed| if passed { "passes" } else { "drops" };
        let marker = if packet.agrees() { "  " } else { "! " };
        writeln!(text, "{marker}kernel {:<6} we {}  {line}", word(packet.kernel), our_word(packet))?;
    }
    Ok(text)
}

fn our_word(packet: &Judged) -> &'static str {
    match packet {
        Judged { bytes_differ: true, .. } => "pass other bytes",
        Judged { ours: true, .. } => "pass",
        _ => "drop",
    }
}

fn step(ran: &Ran, at: usize, packet: &Judged) -> Result<String> {
    let tunnel = match packet.segment.aside {
        Aside::Tunnel(other) => TUNNELS[other].name,
        _ => ran.flow.tunnel().name,
    };
    let customer = ran.flow.customer().0;
    let to_server = packet.segment.direction == Direction::ToServer;
    let from = if to_server { format!("from = \"{tunnel}\"") } else { "hook = \"lan_ingress\"".to_owned() };
    let opened = if at == 0 && to_server { ", opened" } else { "" };
    let (verdict, counts) = match (packet.kernel, to_server) {
        (true, true) => ("to server".to_owned(), format!("{customer}: to_server{opened}")),
        (true, false) => (format!("to tunnel {tunnel}"), format!("{customer}: to_site")),
        // Which reason is ours to say: the kernel has none.
        (false, _) => ("drop TcpStateInvalid".to_owned(), format!("{customer} via {tunnel}: dropped 1")),
    };
    let line = ran.flow.line(&packet.segment)?;
    Ok(format!("  {{ {from}, packet = \"{line}\", verdict = \"{verdict}\", counts = \"{counts}\" }},"))
}
