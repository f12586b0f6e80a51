//! The check before any measurement: contenders with an equal policy give the same verdict on each of
//! thousands of random packets, from connections that open, carry data and close, and from denied traffic.
//! Packets on which this project differs on purpose (docs/differences.md) are not among them.
use anyhow::{Result, bail, ensure};
use gateway_common::{packet::flag, wire::protocol};
use gateway_tests_kit::random::Random;

use super::{
    contender::Contender,
    firewall::Firewalls,
    frames::{Batch, Flow, Segment, Side, spi},
    rules::{Policy, device, server},
    traffic::Traffic,
    working::Working,
    workload::Workload,
};

/// Number of simultaneous connections.
const FLOWS: usize = 64;
/// The policy: number of customers, and devices of each.
pub const POLICY: (u32, u32) = (10, 4);
/// Customers that the packets belong to.
const CUSTOMERS: [u32; 3] = [1, 5, 10];

/// For each packet, true if the contender let it through.
type Verdicts = Vec<bool>;

/// Sends the same random packets through all contenders with an equal policy. Returns an error that shows the
/// first packet with different verdicts.
pub fn compare(contenders: &[Contender], packets: u32, seed: u64, firewall: &mut Firewalls) -> Result<()> {
    let judged: Vec<_> =
        contenders.iter().copied().filter(|contender| contender.has_equal_policy()).collect();
    if packets == 0 {
        eprintln!("Skipped the comparison of verdicts: --random-packets is 0.");
        return Ok(());
    }
    eprintln!("{packets} random packets of seed {seed} through {judged:?} …");
    let segments = segments(packets, seed);
    let policy = Policy { devices: POLICY.1, ..Policy::of(POLICY.0) };
    firewall.set_customers(POLICY.0)?;
    let mut first: Option<(Contender, Verdicts)> = None;
    for contender in judged {
        let working = Working::start(contender, "verdicts", &policy, &CUSTOMERS, firewall.of(contender)?)?;
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
        // The comparison is meaningful only with a fair share of both verdicts.
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
        "packet {at} of seed {seed} {} with {one} and {} with {other}; all packets so far with its addresses and \
         ports:\n{}",
        word(expected[at]),
        word(seen[at]),
        history.join("\n")
    )
}

/// A connection and its progress.
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

/// The step after a connection's last segment.
const END: u32 = 7;

/// Returns a connection's next segment: handshake, data both ways, and a FIN from each end.
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

/// Returns a packet that no contender lets through.
fn not_allowed(mut flow: Flow, lives: &[Life], random: &mut Random) -> Segment {
    let other = CUSTOMERS.into_iter().find(|customer| *customer != flow.customer).unwrap_or(0);
    let open = lives.iter().find(|life| life.step == 3).map(|life| life.flow);
    let syn = flow.segment(Side::Site, flag::SYN, 0);
    match random.below(10) {
        0 => Segment { ports: (syn.ports.0, random.below(65_535) as u16 | 0x100), ..syn },
        1 => Segment { addresses: (syn.addresses.0, server(other)), ..syn },
        2 => Segment { spi: spi(other), ..syn },
        // An SPI without a tunnel.
        3 => Segment { spi: 0x0bad_0bad, ..syn },
        // A source outside the site's LAN.
        4 => Segment { addresses: ((u32::from(device(0)) ^ 0x1000_0000).into(), syn.addresses.1), ..syn },
        5 => Segment { protocol: random.pick(&[protocol::UDP, protocol::ICMP]), ..syn },
        // Data without a connection, from either side, and a SYN from the server.
        6 => flow.segment(Side::Site, flag::ACK | flag::PSH, 64),
        7 => flow.segment(Side::Lan, flag::ACK | flag::PSH, 64),
        8 => flow.segment(Side::Lan, flag::SYN, 0),
        // Data outside the window of an open connection.
        _ => match open {
            Some(mut flow) => {
                let segment = flow.segment(random.pick(&[Side::Site, Side::Lan]), flag::ACK | flag::PSH, 64);
                Segment { numbers: (segment.numbers.0.wrapping_add(1 << 31), segment.numbers.1), ..segment }
            }
            None => Segment { ports: (syn.ports.0, 443), ..syn },
        },
    }
}
