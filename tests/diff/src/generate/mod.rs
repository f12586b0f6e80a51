//! Generates sequences of packets of one connection: of TCPs, of networks that lose and reorder, of
//! attackers.
mod conversation;
mod flags;
mod generator;
mod hostile;
mod options;

use gateway_tests_kit::random::Random;

use self::generator::{Character, End, Generator};
use crate::segment::Segment;

/// Generates the sequence of a seed, always the same one. Some sequences begin in the middle of a connection.
pub fn sequence(seed: u64) -> Vec<Segment> {
    let mut random = Random::new(seed);
    let character = Character {
        hostile: random.pick(&[0, 20, 100, 300]),
        loss: random.pick(&[0, 0, 30, 150]),
        duplication: random.pick(&[0, 20, 100]),
        reordering: random.pick(&[0, 30, 150]),
    };
    let mut generator = Generator { random, ends: [End::default(); 2], character, packets: Vec::new() };
    let incarnations = generator.random.pick(&[1, 1, 1, 2, 3]);
    for incarnation in 0..incarnations {
        generator.connection(incarnation != 0);
    }
    generator.network()
}
