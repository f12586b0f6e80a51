//! The packets of each workload.
use anyhow::Result;
use gateway_common::packet::flag;
use gateway_tests_kit::random::Random;

use super::{
    case::{Case, PORTS},
    frames::{Batch, Flow, SERVER_PORTS, Side},
    workload::{Choice, Workload},
};

/// The lowest client port of a device; it uses [`PORTS`] of them.
const FIRST_PORT: u16 = 1024;
/// An end acknowledges before the other has this much in flight; windows are 1 GiB.
const UNACKNOWLEDGED_BYTES: u32 = 1 << 29;
/// Number of segments of a whole connection, see [`Traffic::life`].
pub const LIFE_FRAMES: u64 = 8;

/// Makes packets. Never opens a flow twice.
pub struct Traffic {
    workload: Workload,
    frame_bytes: usize,
    /// Customers, which take turns with each flow.
    customers: Vec<u32>,
    /// Number of devices of each customer.
    devices: u32,
    serial: u64,
    flows: Vec<Flow>,
    choice: Chooser,
    random: Random,
}

impl Traffic {
    /// Returns the traffic of a case.
    pub fn new(case: &Case, seed: u64) -> Self {
        Self::of(case.workload, case.frame_bytes, &[case.customer()], case.devices(), seed)
    }

    /// Returns the traffic of the given customers, each with the given number of devices.
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

    /// Forgets all open flows and opens `flows` others, whose handshakes go to `send`. Does nothing if the
    /// workload's packets need no open flows.
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
                // The window of a SYN is never scaled (RFC 7323 section 2.2); this ACK opens the whole
                // window.
                batch.push(&flow.segment(Side::Lan, flag::ACK, 0), true);
            }
            send(&batch)?;
        }
        Ok(())
    }

    /// Returns the given number of packets of the workload, or of connections.
    pub fn batch(&mut self, units: u32) -> Batch {
        let mut batch = Batch::default();
        for unit in 0..units {
            match self.workload {
                Workload::Reply => self.established(Side::Lan, &mut batch),
                Workload::NewConnection => self.life(&mut batch),
                Workload::DeniedSyn => self.syn(false, &mut batch),
                Workload::FloodOfNewTuples => self.syn(true, &mut batch),
                // Among 20 packets 12 go to a server, 6 come back, one opens a flow and one is denied.
                Workload::Mixed => match unit % 20 {
                    0 => self.syn(true, &mut batch),
                    10 => self.syn(false, &mut batch),
                    1 | 4 | 7 | 11 | 14 | 17 => self.established(Side::Lan, &mut batch),
                    _ => self.established(Side::Site, &mut batch),
                },
                Workload::Established
                | Workload::BulkGro
                | Workload::BulkNoGro
                | Workload::Decapsulation
                | Workload::FirewallAndForwarding
                | Workload::LoadAll
                | Workload::ChangeOne
                | Workload::MemoryPerFlow
                | Workload::MemoryPerCustomer
                | Workload::IkeSaInit
                | Workload::IkeAuth
                | Workload::PoliciesRead
                | Workload::StartToConnect
                | Workload::EventToEntry
                | Workload::AllConnect
                | Workload::DaemonShare
                | Workload::DaemonIdle
                | Workload::DaemonMemory
                | Workload::CustomerAdded
                | Workload::ControlAA
                | Workload::Control50Ns => self.established(Side::Site, &mut batch),
            }
        }
        batch
    }

    /// Returns the acknowledgments that keep windows from filling up.
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

    /// Adds a connection from its SYN to its last ACK: handshake, request, answer, and a FIN from each end.
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

    /// Returns a new flow.
    pub fn flow(&mut self) -> Flow {
        self.flow_to(SERVER_PORTS.0)
    }

    /// Returns a new flow to the given port of the server. Successive flows have client ports far apart.
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

/// Adds SYN, SYN-ACK and ACK.
fn handshake(flow: &mut Flow, batch: &mut Batch) {
    for (from, flags) in
        [(Side::Site, flag::SYN), (Side::Lan, flag::SYN | flag::ACK), (Side::Site, flag::ACK)]
    {
        batch.push(&flow.segment(from, flags, 0), true);
    }
}

/// Chooses an index at random.
enum Chooser {
    /// All indices below this number are equally likely.
    Uniform(u64),
    /// The cumulative probabilities, not normalised.
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
                // An f64 holds 53 bits.
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
        // The first gets 1/H(1000) = 13.4 %, the k-th 1/k of that.
        assert!((12_900..13_900).contains(&counts[0]), "{}", counts[0]);
        assert!((1100..1600).contains(&counts[9]), "{}", counts[9]);
    }

    #[test]
    fn connection_has_as_many_frames_as_the_report_says() {
        let batch = Traffic::of(Workload::NewConnection, 64, &[1], 1, 1).batch(10);
        assert_eq!(batch.sent(Side::Site) + batch.sent(Side::Lan), 10 * LIFE_FRAMES);
    }
}
