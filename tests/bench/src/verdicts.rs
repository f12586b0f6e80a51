//! Before anything is measured: contenders that claim an equal policy give the same verdict on each of
//! thousands of random packets, of connections that begin, go on and end, and of what is not allowed.
//! docs/differences.md says where ours differ on purpose; such packets are not among them.
use anyhow::{Result, bail, ensure};
use gateway_common::{packet::flag, wire::protocol};
use gateway_tests_kit::random::Random;

use super::{
    contender::Working,
    figure::{Contender, Workload},
    firewall::Firewalls,
    frames::{Batch, Flow, Segment, Side, spi},
    rules::{Policy, device, server},
    traffic::Traffic,
};

/// Connections at a time.
const FLOWS: usize = 64;
/// The policy: customers, and devices of each.
pub const POLICY: (u32, u32) = (10, 4);
/// Whose packets there are.
const CUSTOMERS: [u32; 3] = [1, 5, 10];

/// Whether a contender let a packet through.
type Verdicts = Vec<bool>;

/// Sends the same random packets through these contenders; an error shows the first packet that two of
/// them do not agree on. Those that claim no equal policy are left out.
pub fn compare(contenders: &[Contender], packets: u32, seed: u64, firewall: &mut Firewalls) -> Result<()> {
    let judged: Vec<_> =
        contenders.iter().copied().filter(|contender| contender.claims_equal_policy()).collect();
    if packets == 0 {
        eprintln!("Verdicts are not compared.");
        return Ok(());
    }
    eprintln!("{packets} random packets of seed {seed} through {judged:?} …");
    let segments = segments(packets, seed);
    let policy = Policy { devices: POLICY.1, ..Policy::of(POLICY.0) };
    firewall.set_customers(POLICY.0)?;
    let mut first: Option<(Contender, Verdicts)> = None;
    for contender in judged {
        let working = Working::start(contender, "verdicts", &policy, &CUSTOMERS, firewall.of(contender))?;
        let verdicts =
            segments.iter().map(|segment| passes(&working, segment)).collect::<Result<Verdicts>>()?;
        working.stop()?;
        match &first {
            None => first = Some((contender, verdicts)),
            Some((other, expected)) => agree(&segments, (*other, expected), (contender, &verdicts), seed)?,
        }
    }
    if let Some((_, verdicts)) = first {
        let passed = verdicts.iter().filter(|passed| **passed).count();
        eprintln!("All agree: {passed} pass, {} are dropped.", verdicts.len() - passed);
        // Else this would say nothing.
        let share = passed as f64 / verdicts.len() as f64;
        ensure!((0.3..0.9).contains(&share), "{share} of the random packets pass");
    }
    Ok(())
}

fn passes(working: &Working, segment: &Segment) -> Result<bool> {
    let mut batch = Batch::default();
    batch.push(segment, true);
    let arrived = working.ground.send(&batch)?.arrived;
    match arrived.iter().sum::<u64>() {
        0 => Ok(false),
        1 => Ok(true),
        count => bail!("one packet arrived {count} times"),
    }
}

fn agree(
    segments: &[Segment],
    (one, expected): (Contender, &Verdicts),
    (other, seen): (Contender, &Verdicts),
    seed: u64,
) -> Result<()> {
    let Some(at) = expected.iter().zip(seen).position(|(expected, seen)| expected != seen) else {
        return Ok(());
    };
    let word = |passed: bool| if passed { "passes" } else { "is dropped" };
    let flow = segments[..=at].iter().zip(expected.iter().zip(seen)).filter(|(segment, _)| {
        (segment.addresses, segment.ports) == (segments[at].addresses, segments[at].ports)
    });
    let history: Vec<_> = flow.map(|(segment, verdicts)| format!("  {segment:x?} {verdicts:?}")).collect();
    bail!(
        "packet {at} of seed {seed} {} with {one:?} and {} with {other:?}; it and those before it with its addresses \
         and ports:\n{}",
        word(expected[at]),
        word(seen[at]),
        history.join("\n")
    )
}

/// A connection, and how many of its segments have been sent.
struct Life {
    flow: Flow,
    step: u32,
    data_left: u64,
}

fn segments(packets: u32, seed: u64) -> Vec<Segment> {
    let mut random = Random::new(seed);
    let mut traffic = Traffic::of(Workload::Established, 64, &CUSTOMERS, POLICY.1, seed);
    let mut lives: Vec<Life> = Vec::new();
    (0..packets)
        .map(|_| {
            if random.per_mille(300) {
                return not_allowed(traffic.flow(), &lives, &mut random);
            }
            if lives.len() < FLOWS {
                lives.push(Life { flow: traffic.flow(), step: 0, data_left: random.below(30) });
            }
            let at = random.below(lives.len() as u64) as usize;
            let segment = next(&mut lives[at], &mut random);
            if lives[at].step == END {
                lives.swap_remove(at);
            }
            segment
        })
        .collect()
}

/// The step after a connection's last.
const END: u32 = 7;

/// A connection's next segment: handshake, data both ways, and a FIN from each end.
fn next(life: &mut Life, random: &mut Random) -> Segment {
    const DATA: u32 = 3;
    let (from, flags) = match life.step {
        0 => (Side::Site, flag::SYN),
        1 => (Side::Lan, flag::SYN | flag::ACK),
        2 => (Side::Site, flag::ACK),
        DATA => (random.pick(&[Side::Site, Side::Lan]), flag::ACK | flag::PSH),
        4 => (Side::Site, flag::ACK | flag::FIN),
        5 => (Side::Lan, flag::ACK | flag::FIN),
        _ => (Side::Site, flag::ACK),
    };
    if life.step == DATA && life.data_left > 0 {
        life.data_left -= 1;
    } else {
        life.step += 1;
    }
    let bytes = if flags & flag::PSH != 0 { random.pick(&[64, 200, 1400]) } else { 0 };
    life.flow.segment(from, flags, bytes)
}

/// What no contender lets through.
fn not_allowed(mut flow: Flow, lives: &[Life], random: &mut Random) -> Segment {
    let other = CUSTOMERS.into_iter().find(|customer| *customer != flow.customer).unwrap_or(0);
    let open = lives.iter().find(|life| life.step == 3).map(|life| life.flow);
    let syn = flow.segment(Side::Site, flag::SYN, 0);
    match random.below(10) {
        0 => Segment { ports: (syn.ports.0, random.below(65_535) as u16 | 0x100), ..syn },
        1 => Segment { addresses: (syn.addresses.0, server(other)), ..syn },
        2 => Segment { spi: spi(other), ..syn },
        // No tunnel's.
        3 => Segment { spi: 0x0bad_0bad, ..syn },
        // Not from its LAN.
        4 => Segment { addresses: ((u32::from(device(0)) ^ 0x1000_0000).into(), syn.addresses.1), ..syn },
        5 => Segment { protocol: random.pick(&[protocol::UDP, protocol::ICMP]), ..syn },
        // In mid-stream of no connection, from either side, and a server that opens one.
        6 => flow.segment(Side::Site, flag::ACK | flag::PSH, 64),
        7 => flow.segment(Side::Lan, flag::ACK | flag::PSH, 64),
        8 => flow.segment(Side::Lan, flag::SYN, 0),
        // Out of the windows of one that is open.
        _ => match open {
            Some(mut flow) => {
                let segment = flow.segment(random.pick(&[Side::Site, Side::Lan]), flag::ACK | flag::PSH, 64);
                Segment { numbers: (segment.numbers.0.wrapping_add(1 << 31), segment.numbers.1), ..segment }
            }
            None => Segment { ports: (syn.ports.0, 443), ..syn },
        },
    }
}
