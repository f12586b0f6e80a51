//! Many sequences at once through both sides, and the comparison.
use anyhow::Result;
use gateway_tests_kit::random::Random;

use crate::{
    arena::{Arena, Pair},
    generate,
    purpose::{Judged, PURPOSES},
    segment::{Flow, Segment},
    side::BATCH,
};

/// A sequence that went through.
pub struct Ran {
    /// What generates it.
    pub seed: u64,
    /// Its addresses.
    pub flow: Flow,
    /// Its packets and what became of them, in order.
    pub packets: Vec<Judged>,
}

/// How the two sides compare on one sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// So many packets had the same verdict and bytes.
    pub agreed: usize,
    /// The difference after them.
    pub difference: Option<Difference>,
}

/// Why a comparison ends before the sequence does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// An entry of [`PURPOSES`].
    OnPurpose(usize),
    /// None of them.
    Unexplained,
}

/// Runs sequences of these seeds, their packets mixed, until a batch is full; removes them.
pub fn run(arena: &mut Arena, seeds: &mut Vec<u64>, random: &mut Random) -> Result<Vec<Ran>> {
    let mut sequences: Vec<(u64, Flow, Vec<Segment>)> = Vec::new();
    let mut packets = 0;
    while let Some(seed) = seeds.last().copied() {
        let mut sequence = generate::sequence(seed);
        sequence.truncate(BATCH);
        packets += sequence.len();
        if packets > BATCH {
            break;
        }
        seeds.pop();
        sequences.push((seed, arena.fresh(), sequence));
    }
    let order = mix(&sequences, random);
    let batch: Vec<(Flow, &Segment)> =
        order.iter().map(|(which, at)| (sequences[*which].1, &sequences[*which].2[*at])).collect();
    let pairs = arena.exchange(&batch)?;
    let mut judged: Vec<Vec<Judged>> = sequences.iter().map(|_| Vec::new()).collect();
    for ((which, at), pair) in order.into_iter().zip(pairs) {
        judged[which].push(judge(sequences[which].2[at].clone(), &pair));
    }
    let ran = sequences.into_iter().zip(judged);
    Ok(ran.map(|((seed, flow, _), packets)| Ran { seed, flow, packets }).collect())
}

/// Runs one sequence alone, on a flow of its own of this tunnel.
pub fn alone(arena: &mut Arena, seed: u64, like: &Flow, segments: &[Segment]) -> Result<Ran> {
    let flow = arena.fresh_like(like);
    let batch: Vec<(Flow, &Segment)> = segments.iter().map(|segment| (flow, segment)).collect();
    let pairs = arena.exchange(&batch)?;
    let packets = segments.iter().zip(pairs).map(|(segment, pair)| judge(segment.clone(), &pair)).collect();
    Ok(Ran { seed, flow, packets })
}

/// Sequence and position of each packet, each sequence in order.
fn mix(sequences: &[(u64, Flow, Vec<Segment>)], random: &mut Random) -> Vec<(usize, usize)> {
    const AT_ONCE: usize = 24;
    let mut waiting = (0..sequences.len()).filter(|which| !sequences[*which].2.is_empty());
    let mut open: Vec<(usize, usize)> = waiting.by_ref().take(AT_ONCE).map(|which| (which, 0)).collect();
    let mut order = Vec::new();
    while !open.is_empty() {
        let chosen = random.below(open.len() as u64) as usize;
        order.push(open[chosen]);
        open[chosen].1 += 1;
        if open[chosen].1 == sequences[open[chosen].0].2.len() {
            open.swap_remove(chosen);
            open.extend(waiting.next().map(|which| (which, 0)));
        }
    }
    order
}

fn judge(segment: Segment, pair: &Pair) -> Judged {
    let bytes_differ = match (&pair.kernel, &pair.ours) {
        (Some(kernel), Some(ours)) => kernel != ours,
        _ => false,
    };
    Judged { segment, kernel: pair.kernel.is_some(), ours: pair.ours.is_some(), bytes_differ }
}

impl Ran {
    /// Compares packet by packet up to the first difference.
    pub fn compare(&self) -> Comparison {
        for (at, packet) in self.packets.iter().enumerate() {
            let so_far = &self.packets[..=at];
            let purpose = PURPOSES.iter().position(|purpose| (purpose.applies)(&self.flow, so_far));
            let difference = match purpose {
                Some(purpose) => Difference::OnPurpose(purpose),
                None if !packet.agrees() => Difference::Unexplained,
                None => continue,
            };
            return Comparison { agreed: at, difference: Some(difference) };
        }
        Comparison { agreed: self.packets.len(), difference: None }
    }
}
