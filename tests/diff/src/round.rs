//! Rounds: many sequences at once through both sides, and their comparison.
use anyhow::Result;
use gateway_tests_kit::random::Random;

use crate::{
    arena::{Arena, Pair},
    generate,
    purpose::{ComparedPacket, PURPOSES},
    segment::{Flow, Segment},
    side::BATCH,
};

/// A sequence and its verdicts.
pub struct SequenceRun {
    /// The seed that generates it.
    pub seed: u64,
    /// Its addresses.
    pub flow: Flow,
    /// Its packets with their verdicts, in order.
    pub packets: Vec<ComparedPacket>,
}

/// How the two sides compare on one sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// Packets with the same verdict and bytes.
    pub agreed: usize,
    /// The difference after those, if any.
    pub difference: Option<Difference>,
}

/// Why a comparison ends before the sequence does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// An intended one: the index into [`PURPOSES`].
    OnPurpose(usize),
    /// Any other.
    Unexplained,
}

/// Takes seeds until a batch is full and runs their sequences, with their packets interleaved.
pub fn run(arena: &mut Arena, seeds: &mut Vec<u64>, random: &mut Random) -> Result<Vec<SequenceRun>> {
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
        sequences.push((seed, arena.new_flow(), sequence));
    }
    let order = interleave(&sequences, random);
    let batch: Vec<(Flow, &Segment)> =
        order.iter().map(|(which, at)| (sequences[*which].1, &sequences[*which].2[*at])).collect();
    let pairs = arena.exchange(&batch)?;
    let mut compared: Vec<Vec<ComparedPacket>> = sequences.iter().map(|_| Vec::new()).collect();
    for ((which, at), pair) in order.into_iter().zip(pairs) {
        compared[which].push(compare_packet(sequences[which].2[at].clone(), &pair));
    }
    let run = sequences.into_iter().zip(compared);
    Ok(run.map(|((seed, flow, _), packets)| SequenceRun { seed, flow, packets }).collect())
}

/// Runs one sequence alone, on a new flow of the same tunnel and family as `like`.
pub fn run_alone(arena: &mut Arena, seed: u64, like: &Flow, segments: &[Segment]) -> Result<SequenceRun> {
    let flow = arena.new_flow_like(like);
    let batch: Vec<(Flow, &Segment)> = segments.iter().map(|segment| (flow, segment)).collect();
    let pairs = arena.exchange(&batch)?;
    let packets =
        segments.iter().zip(pairs).map(|(segment, pair)| compare_packet(segment.clone(), &pair)).collect();
    Ok(SequenceRun { seed, flow, packets })
}

/// Returns sequence and position of each packet in a random order that keeps each sequence's own.
fn interleave(sequences: &[(u64, Flow, Vec<Segment>)], random: &mut Random) -> Vec<(usize, usize)> {
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

fn compare_packet(segment: Segment, pair: &Pair) -> ComparedPacket {
    let bytes_differ = match (&pair.kernel, &pair.ours) {
        (Some(kernel), Some(ours)) => kernel != ours,
        _ => false,
    };
    ComparedPacket { segment, kernel: pair.kernel.is_some(), ours: pair.ours.is_some(), bytes_differ }
}

impl SequenceRun {
    /// Compares the two sides packet by packet up to the first difference.
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
