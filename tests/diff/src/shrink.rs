//! The shortest sequence that still differs.
use anyhow::Result;
use gateway_common::packet::flag;

use super::{
    arena::Arena,
    round::{Difference, Ran, alone},
    segment::{Aside, Segment},
};

/// Leaves out packets, then what is special about them, as long as both sides still differ without
/// explanation on the last packet. None if they agree when the sequence runs alone.
pub fn shrink(arena: &mut Arena, ran: &Ran) -> Result<Option<Ran>> {
    shrink_while(arena, ran, differing)
}

/// Whether a sequence, run alone, still shows what is looked for; and how it ran.
type Shows = fn(&mut Arena, &Ran, &[Segment]) -> Result<Option<Ran>>;

/// The shortest sequence that `shows` something.
pub fn shrink_while(arena: &mut Arena, ran: &Ran, shows: Shows) -> Result<Option<Ran>> {
    let Some(mut best) = shows(arena, ran, &segments(ran))? else { return Ok(None) };
    loop {
        let before = best.packets.len();
        best = without_parts(arena, best, shows)?;
        best = plainer(arena, best, shows)?;
        if best.packets.len() == before {
            return Ok(Some(best));
        }
    }
}

fn differing(arena: &mut Arena, like: &Ran, segments: &[Segment]) -> Result<Option<Ran>> {
    let mut ran = alone(arena, like.seed, &like.flow, segments)?;
    let comparison = ran.compare();
    if comparison.difference != Some(Difference::Unexplained) {
        return Ok(None);
    }
    ran.packets.truncate(comparison.agreed + 1);
    Ok(Some(ran))
}

fn segments(ran: &Ran) -> Vec<Segment> {
    ran.packets.iter().map(|packet| packet.segment.clone()).collect()
}

/// Delta debugging (Zeller, Hildebrandt 2002), by leaving out.
fn without_parts(arena: &mut Arena, mut best: Ran, shows: Shows) -> Result<Ran> {
    let mut part = best.packets.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < best.packets.len() {
            let mut fewer = segments(&best);
            fewer.drain(at..(at + part).min(fewer.len()));
            match shows(arena, &best, &fewer)? {
                Some(ran) => best = ran,
                None => at += part,
            }
        }
        part /= 2;
    }
    Ok(best)
}

fn plainer(arena: &mut Arena, mut best: Ran, shows: Shows) -> Result<Ran> {
    const CHANGES: [fn(&mut Segment); 8] = [
        |segment| segment.aside = Aside::No,
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
                && let Some(ran) = shows(arena, &best, &changed)?
            {
                best = ran;
            }
        }
    }
    let plain = renumbered(&segments(&best));
    if let Some(ran) = shows(arena, &best, &plain)? {
        best = ran;
    }
    Ok(best)
}

/// Initial sequence numbers 1000 and 5000, all others as far from them as before.
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
