//! The packets of each workload.
use anyhow::Result;
use gateway_common::packet::flag;
use gateway_tests_kit::random::Random;

use super::{
    case::Case,
    figure::{Choice, Workload},
    frames::{Batch, Flow, SERVER_PORTS, Side},
};

/// Ports of one device that are used, from [`FIRST_PORT`] on.
pub const PORTS: u32 = 60_000;
const FIRST_PORT: u16 = 1024;
/// An end acknowledges before it has been sent so much; windows are 1 GiB.
const UNACKNOWLEDGED_BYTES: u32 = 1 << 29;
/// Segments of a connection's life, see [`Traffic::life`].
pub const LIFE_FRAMES: u64 = 8;

/// Makes packets. Each flow it opens is one that was never there before.
pub struct Traffic {
    workload: Workload,
    frame_bytes: usize,
    /// Customers that flows are of, in turn.
    customers: Vec<u32>,
    /// Devices of each customer.
    devices: u32,
    serial: u64,
    flows: Vec<Flow>,
    choice: Chooser,
    random: Random,
}

impl Traffic {
    /// Traffic of a case.
    pub fn new(case: &Case, seed: u64) -> Self {
        Self::of(case.workload, case.frame_bytes, &[case.customer()], case.devices(), seed)
    }

    /// Traffic of these customers, each of which has so many devices.
    pub fn of(workload: Workload, frame_bytes: u32, customers: &[u32], devices: u32, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            workload,
            frame_bytes: frame_bytes as usize,
            customers: customers.to_vec(),
            devices,
            serial: random.below(u64::from(PORTS)),
            flows: Vec::new(),
            choice: Chooser::new(Choice::Uniform, 1),
            random,
        }
    }

    /// If the workload's packets belong to flows that are open before, forgets all of those and opens so
    /// many others: `send` gets their handshakes.
    pub fn open(
        &mut self,
        flows: u32,
        choice: Choice,
        mut send: impl FnMut(&Batch) -> Result<()>,
    ) -> Result<()> {
        const AT_ONCE: usize = 10_000;
        if !matches!(self.workload, Workload::Established | Workload::Reply | Workload::Mixed) {
            return Ok(());
        }
        self.choice = Chooser::new(choice, flows);
        self.flows = (0..flows).map(|_| self.flow()).collect();
        for flows in self.flows.chunks_mut(AT_ONCE) {
            let mut batch = Batch::default();
            for flow in flows {
                handshake(flow, &mut batch);
                // The window of a SYN is never scaled (RFC 7323 section 2.2): only this opens all of it.
                batch.push(&flow.segment(Side::Lan, flag::ACK, 0), true);
            }
            send(&batch)?;
        }
        Ok(())
    }

    /// So many packets of the workload, or connections.
    pub fn batch(&mut self, units: u32) -> Batch {
        let mut batch = Batch::default();
        for unit in 0..units {
            match self.workload {
                Workload::Reply => self.established(Side::Lan, &mut batch),
                Workload::NewConnection => self.life(&mut batch),
                Workload::DeniedSyn => self.syn(false, &mut batch),
                Workload::FloodOfNewTuples => self.syn(true, &mut batch),
                // Of 20 packets 12 go to a server and 6 come back; one opens a flow, one is not allowed.
                Workload::Mixed => match unit % 20 {
                    0 => self.syn(true, &mut batch),
                    10 => self.syn(false, &mut batch),
                    1 | 4 | 7 | 11 | 14 | 17 => self.established(Side::Lan, &mut batch),
                    _ => self.established(Side::Site, &mut batch),
                },
                _ => self.established(Side::Site, &mut batch),
            }
        }
        batch
    }

    /// Acknowledgments without which windows would be full soon.
    pub fn acknowledge(&mut self) -> Batch {
        let mut batch = Batch::default();
        for flow in &mut self.flows {
            for (sender, receiver) in [(Side::Site, Side::Lan), (Side::Lan, Side::Site)] {
                let sent = sender as usize;
                if flow.next[sent].wrapping_sub(flow.acknowledged[sent]) > UNACKNOWLEDGED_BYTES {
                    batch.push(&flow.segment(receiver, flag::ACK, 0), true);
                }
            }
        }
        batch
    }

    fn established(&mut self, from: Side, batch: &mut Batch) {
        let number = self.choice.pick(&mut self.random);
        if let Some(flow) = self.flows.get_mut(number) {
            batch.push(&flow.segment(from, flag::ACK | flag::PSH, self.frame_bytes), true);
        }
    }

    fn syn(&mut self, allowed: bool, batch: &mut Batch) {
        let mut flow = self.flow_to(if allowed { SERVER_PORTS.0 } else { SERVER_PORTS.1 });
        batch.push(&flow.segment(Side::Site, flag::SYN, 0), allowed);
    }

    /// A connection from its SYN to its last ACK: handshake, request, answer, and a FIN from each end.
    fn life(&mut self, batch: &mut Batch) {
        let mut flow = self.flow();
        handshake(&mut flow, batch);
        for (from, flags, bytes) in [
            (Side::Site, flag::ACK | flag::PSH, self.frame_bytes),
            (Side::Lan, flag::ACK | flag::PSH, self.frame_bytes),
            (Side::Site, flag::ACK | flag::FIN, 0),
            (Side::Lan, flag::ACK | flag::FIN, 0),
            (Side::Site, flag::ACK, 0),
        ] {
            batch.push(&flow.segment(from, flags, bytes), true);
        }
    }

    /// A flow that was not there before.
    pub fn flow(&mut self) -> Flow {
        self.flow_to(SERVER_PORTS.0)
    }

    /// The same to a port of the server. Neighbouring ones have ports far apart.
    fn flow_to(&mut self, server_port: u16) -> Flow {
        // Coprime to PORTS.
        const STRIDE: u64 = 40_507;
        let serial = self.serial;
        self.serial += 1;
        let port = (serial * STRIDE % u64::from(PORTS)) as u16 + FIRST_PORT;
        let round = serial / u64::from(PORTS);
        let customers = self.customers.len() as u64;
        let next = [self.random.word(), self.random.word()];
        Flow {
            customer: self.customers[(serial % customers) as usize],
            device: (round % u64::from(self.devices)) as u32,
            port,
            server_port,
            next,
            acknowledged: next,
        }
    }
}

/// SYN, SYN-ACK, ACK.
fn handshake(flow: &mut Flow, batch: &mut Batch) {
    for (from, flags) in
        [(Side::Site, flag::SYN), (Side::Lan, flag::SYN | flag::ACK), (Side::Site, flag::ACK)]
    {
        batch.push(&flow.segment(from, flags, 0), true);
    }
}

/// Chooses among things by number.
enum Chooser {
    /// Among so many, each as likely.
    Uniform(u64),
    /// The likelihoods of each and all before it, summed up, not normalised.
    Zipf(Vec<f64>),
}

impl Chooser {
    fn new(choice: Choice, count: u32) -> Self {
        match choice {
            Choice::Uniform => Self::Uniform(u64::from(count.max(1))),
            Choice::Zipf => {
                let sums = (1..=count).scan(0.0, |sum, rank| {
                    *sum += 1.0 / f64::from(rank);
                    Some(*sum)
                });
                Self::Zipf(sums.collect())
            }
        }
    }

    fn pick(&self, random: &mut Random) -> usize {
        match self {
            Self::Uniform(count) => random.below(*count) as usize,
            Self::Zipf(sums) => {
                // 53 bits, as many as an f64 holds.
                let part = (random.any() >> 11) as f64 / (1u64 << 53) as f64;
                let at = part * sums.last().copied().unwrap_or(0.0);
                sums.partition_point(|sum| *sum <= at).min(sums.len().saturating_sub(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flows_are_never_the_same_again() {
        let mut traffic = Traffic::of(Workload::NewConnection, 64, &[1, 50, 100], 4, 1);
        let flows: HashSet<_> = (0..200_000)
            .map(|_| {
                let flow = traffic.flow();
                (flow.customer, flow.device, flow.port)
            })
            .collect();
        assert_eq!(flows.len(), 200_000);
    }

    #[test]
    fn zipf_prefers_the_first() {
        let (chooser, mut random) = (Chooser::new(Choice::Zipf, 1000), Random::new(1));
        let mut counts = [0u32; 1000];
        for _ in 0..100_000 {
            counts[chooser.pick(&mut random)] += 1;
        }
        // 1/k of the first, which gets 1/H(1000) = 13.4 %.
        assert!((12_900..13_900).contains(&counts[0]), "{}", counts[0]);
        assert!((1100..1600).contains(&counts[9]), "{}", counts[9]);
    }

    #[test]
    fn connection_has_as_many_frames_as_the_report_says() {
        let batch = Traffic::of(Workload::NewConnection, 64, &[1], 1, 1).batch(10);
        assert_eq!(batch.sent(Side::Site) + batch.sent(Side::Lan), 10 * LIFE_FRAMES);
    }
}
