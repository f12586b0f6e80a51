//! Conversations of one connection, segment by segment, each with its outcome.
use std::net::IpAddr;

use gateway_common::{
    decide::Decision,
    reason::Reason,
    tcp::{
        Flow,
        State::{self, *},
    },
    time::Ticks,
};

use crate::world::{SITES, World, from_server, from_site, identity, ip, server as server_address, transport};

pub const FIN: u8 = 0x11;
pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const RST: u8 = 0x04;
pub const RST_ACK: u8 = 0x14;
pub const ACK: u8 = 0x10;

/// A segment of the only connection.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    from_site: bool,
    flags: u8,
    sequence: u32,
    ack: u32,
    window: u16,
    data: usize,
    options: &'static [u8],
}

/// Returns a segment from the device, which offers a window of 1000 bytes.
pub const fn site(flags: u8, sequence: u32, ack: u32) -> Segment {
    Segment { from_site: true, flags, sequence, ack, window: 1000, data: 0, options: &[] }
}

/// Returns a segment from the server, which offers a window of 2000 bytes.
pub const fn server(flags: u8, sequence: u32, ack: u32) -> Segment {
    Segment { from_site: false, window: 2000, ..site(flags, sequence, ack) }
}

impl Segment {
    pub const fn data(self, data: usize) -> Self {
        Self { data, ..self }
    }

    pub const fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    pub const fn options(self, options: &'static [u8]) -> Self {
        Self { options, ..self }
    }

    fn frame(&self, v6: bool) -> Vec<u8> {
        let device = if v6 { SITES[0].v6.0.into() } else { IpAddr::from(SITES[0].v4.0) };
        let (device, server) = ((device, 40_000), (server_address(SITES[0].customer, v6), 80));
        let (from, to) = if self.from_site { (device, server) } else { (server, device) };
        let builder = ip(from.0, to.0, 64).tcp(from.1, to.1, self.sequence, self.window);
        let mut frame = Vec::new();
        let builder = builder.options_raw(self.options).expect("options fit");
        builder.write(&mut frame, &vec![0; self.data]).expect("writing to a vector");
        let tcp = transport(from.0);
        frame[tcp + 8..tcp + 12].copy_from_slice(&self.ack.to_be_bytes());
        frame[tcp + 13] = self.flags;
        frame
    }

    fn judge(&self, world: &World, v6: bool, now_ns: u64) -> Decision {
        let identity = identity(1);
        if self.from_site {
            from_site(&self.frame(v6)[..], world, identity, now_ns)
        } else {
            from_server(&self.frame(v6)[..], world, now_ns)
        }
    }
}

/// The outcome of a segment.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Passes and opens a connection in this state, with this timeout in seconds.
    Opens(State, u32),
    /// Passes; the connection is in this state, with this timeout in seconds.
    Goes(State, u32),
    /// Passes; the connection's state and expiry stay the same.
    Ignored,
    /// Passes, and the connection is over.
    Ends,
    /// Dropped; the connection's state and expiry stay the same.
    Drops(Reason),
    /// Dropped, and the timeout is shortened to this many seconds.
    Doubted(Reason, u32),
}
use Outcome::*;

pub type Trace<'a> = &'a [(Segment, Outcome)];

/// Returns the only connection.
pub fn flow(world: &World) -> Option<Flow> {
    world.flows.borrow().values().next().copied()
}

/// Returns a flow's remaining timeout in seconds, if it is alive.
fn seconds(flow: &Flow, now: Ticks) -> Option<u32> {
    let left = flow.expires.since(now);
    (left != Ticks::default()).then(|| (left.as_ns() as f64 / 1e9).round() as u32)
}

/// Plays a conversation in both families, one segment a second.
pub fn play(world: &World, name: &str, traces: &[Trace]) {
    let mut world = world.clone();
    // Segments larger than any LAN's MTU make window limits visible.
    world.settings.lan_mtu = u32::from(u16::MAX);
    for v6 in [false, true] {
        play_in(&world.clone(), v6, name, traces);
    }
}

fn play_in(world: &World, v6: bool, name: &str, traces: &[Trace]) {
    let mut now_ns = 1_000_000_000_000;
    for (at, (segment, outcome)) in traces.iter().flat_map(|trace| trace.iter()).enumerate() {
        now_ns += 1_000_000_000;
        let now = Ticks::from_ns(now_ns);
        let before = flow(world);
        let decision = segment.judge(world, v6, now_ns);
        let after = flow(world);
        let here = format!(
            "{name}, IPv6 {v6}, segment {at}: {segment:?} {outcome:?}: {decision:?} {before:?} {after:?}"
        );
        let lasting = |flow: Option<Flow>| flow.map(|flow| (flow.state(), flow.expires));
        let now_in = after.map(|flow| (flow.state(), seconds(&flow, now)));
        match *outcome {
            Opens(state, left) | Goes(state, left) => {
                assert_eq!(now_in, Some((state as u8, Some(left))), "{here}");
            }
            Ignored | Drops(_) => assert_eq!(lasting(before), lasting(after), "{here}"),
            Ends => assert!(after.is_some_and(|flow| flow.expires.has_come(now)), "{here}"),
            Doubted(_, left) => {
                assert_eq!(now_in, before.map(|flow| (flow.state(), Some(left))), "{here}");
            }
        }
        let passes = match (*outcome, decision.verdict) {
            (Drops(reason) | Doubted(reason, _), verdict) => verdict == Err(reason),
            (_, verdict) => verdict.is_ok() && decision.tunnel == 1,
        };
        assert!(passes, "{here}");
        assert_eq!(decision.opened, matches!(outcome, Opens(..)), "{here}");
    }
}

/// Plays each case in a new world, after the same first segments.
pub fn each(first: Trace, cases: &[(&str, Trace)]) {
    for (name, trace) in cases {
        play(&World::new(), name, &[first, trace]);
    }
}

/// The device's next number is 1000 and it may send up to 3000; the server's is 5000, up to 6000.
pub const HANDSHAKE: Trace = &[
    (site(SYN, 999, 0), Opens(SynSent, 120)),
    (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
    (site(ACK, 1000, 5000), Goes(Established, 7440)),
];

pub const OPEN: Outcome = Goes(Established, 7440);
/// Established with a shortened timeout, because of unacknowledged data or another doubt.
pub const DOUBTFUL: Outcome = Goes(Established, 300);

/// The site's SYN, which opens the connection.
pub const SYN_SENT: (Segment, Outcome) = (site(SYN, 999, 0), Opens(SynSent, 120));
/// The handshake up to the server's answer.
pub const ANSWERED: Trace = &[SYN_SENT, (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60))];

/// The option that permits SACK.
pub const SACK_PERMITTED: &[u8] = &[4, 2, 0, 0];
/// The device's scale 7 and the server's scale 3.
pub const SCALE_7: &[u8] = &[3, 3, 7, 0];
pub const SCALE_3: &[u8] = &[3, 3, 3, 0];
/// A SACK block that ends at 1000.
pub const EDGE_1000: &[u8] = &[5, 10, 0, 0, 3, 0, 0, 0, 3, 232, 0, 0];
/// A SACK block that ends at 9001.
pub const EDGE_9001: &[u8] = &[5, 10, 0, 0, 3, 0, 0, 0, 0x23, 0x29, 0, 0];
