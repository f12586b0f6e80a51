//! Shrinks a sequence to the shortest that still differs.
use anyhow::Result;
use gateway_common::packet::flag;

use super::{
    arena::Arena,
    round::{Difference, SequenceRun, run_alone},
    segment::{Deviation, Segment},
};

/// Leaves out packets, then simplifies the rest, as long as the two sides still show an unexplained
/// difference on the last packet. Returns `None` if they agree when the sequence runs alone.
pub fn shrink(arena: &mut Arena, run: &SequenceRun) -> Result<Option<SequenceRun>> {
    shrink_while(arena, run, differing)
}

/// Runs a sequence alone and returns it if it still shows the wanted effect.
type Shows = fn(&mut Arena, &SequenceRun, &[Segment]) -> Result<Option<SequenceRun>>;

/// Returns the shortest sequence for which `shows` returns one.
pub fn shrink_while(arena: &mut Arena, run: &SequenceRun, shows: Shows) -> Result<Option<SequenceRun>> {
    let Some(mut best) = shows(arena, run, &segments(run))? else { return Ok(None) };
    loop {
        let before = best.packets.len();
        best = without_parts(arena, best, shows)?;
        best = simplified(arena, best, shows)?;
        if best.packets.len() == before {
            return Ok(Some(best));
        }
    }
}

fn differing(arena: &mut Arena, like: &SequenceRun, segments: &[Segment]) -> Result<Option<SequenceRun>> {
    let mut run = run_alone(arena, like.seed, &like.flow, segments)?;
    let comparison = run.compare();
    if comparison.difference != Some(Difference::Unexplained) {
        return Ok(None);
    }
    run.packets.truncate(comparison.agreed + 1);
    Ok(Some(run))
}

fn segments(run: &SequenceRun) -> Vec<Segment> {
    run.packets.iter().map(|packet| packet.segment.clone()).collect()
}

/// Leaves out packets by delta debugging (Zeller, Hildebrandt 2002).
fn without_parts(arena: &mut Arena, mut best: SequenceRun, shows: Shows) -> Result<SequenceRun> {
    let mut part = best.packets.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < best.packets.len() {
            let mut fewer = segments(&best);
            fewer.drain(at..(at + part).min(fewer.len()));
            match shows(arena, &best, &fewer)? {
                Some(run) => best = run,
                None => at += part,
            }
        }
        part /= 2;
    }
    Ok(best)
}

/// Simplifies single packets.
fn simplified(arena: &mut Arena, mut best: SequenceRun, shows: Shows) -> Result<SequenceRun> {
    const CHANGES: [fn(&mut Segment); 8] = [
        |segment| segment.deviation = Deviation::None,
        |segment| segment.tcp.options.clear(),
        |segment| segment.tcp.data_offset = None,
        |segment| segment.tcp.window = 64240,
        |segment| segment.tcp.length = 0,
        |segment| segment.tcp.flags &= !flag::PSH & !flag::URG & 0x3f,
        |segment| segment.ttl = 64,
        |segment| {
            segment.tcp.options.pop();
        },
    ];
    for at in 0..best.packets.len() {
        for change in CHANGES {
            let mut changed = segments(&best);
            let Some(segment) = changed.get_mut(at) else { break };
            let before = segment.clone();
            change(segment);
            if *segment != before
                && let Some(run) = shows(arena, &best, &changed)?
            {
                best = run;
            }
        }
    }
    let plain = renumbered(&segments(&best));
    if let Some(run) = shows(arena, &best, &plain)? {
        best = run;
    }
    Ok(best)
}

/// Shifts all numbers so that the initial sequence numbers are 1000 and 5000.
fn renumbered(segments: &[Segment]) -> Vec<Segment> {
    let mut segments = segments.to_vec();
    let first = |direction: usize| segments.iter().find(|s| s.direction as usize == direction).map(|s| s.seq);
    let acknowledged = |direction: usize| {
        let acks = |s: &&Segment| s.direction as usize != direction && s.tcp.flags & flag::ACK != 0;
        segments.iter().find(acks).map(|s| s.ack.wrapping_sub(1))
    };
    let bases = [0, 1].map(|direction| first(direction).or_else(|| acknowledged(direction)).unwrap_or(0));
    let moved = [1000u32.wrapping_sub(bases[0]), 5000u32.wrapping_sub(bases[1])];
    for segment in &mut segments {
        let direction = segment.direction as usize;
        segment.seq = segment.seq.wrapping_add(moved[direction]);
        if segment.ack != 0 {
            segment.ack = segment.ack.wrapping_add(moved[direction ^ 1]);
        }
    }
    segments
}
