//! TCP tracking: well-formed segments of a few connections with numbers near tracking's limits, and path-MTU
//! messages about them.
use std::net::IpAddr;

use gateway_common::{
    decide::Decision,
    reason::Reason,
    tcp::{Direction, State},
};

use crate::{
    bytes::Bytes,
    inner::{IP, check_dropped, check_mss, repair},
    world::{Connection, Identity, Key, LAN_MTU_BYTES, PORT, SITES, World, identity, server},
};

/// Largest number of segments of one input.
const MAX_SEGMENTS: usize = 32;
/// The longest timeout, that of an established connection.
const LONGEST_SECONDS: u64 = 7440;
/// Largest size of options in bytes.
const MAX_OPTIONS: usize = 40;

/// Tunnel, host and port of the devices. The first two have the same address and differ by customer only.
const DEVICES: [(u32, u8, u16); 4] = [(1, 2, 40_000), (3, 2, 40_000), (2, 9, 40_000), (1, 2, 40_001)];

/// Returns the address of a device.
fn device(tunnel: u32, host: u8, v6: bool) -> IpAddr {
    match SITES[tunnel as usize - 1].lan[usize::from(v6)].0 {
        IpAddr::V4(lan) => (lan.to_bits() | u32::from(host)).to_be_bytes().into(),
        IpAddr::V6(lan) => (lan.to_bits() | u128::from(host)).to_be_bytes().into(),
    }
}

/// Checks a sequence of segments. The input is a byte, whose bit 0 adopts midstream connections, and
/// segments, see [`Segment::read`].
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    let world = World::new(input.byte() & 1 == 1);
    // Half a minute before time wraps.
    let mut now_ns = (1 << 52) - 30_000_000_000;
    let mut segments = 0;
    let mut before = Vec::new();
    while !input.is_empty() && segments < MAX_SEGMENTS {
        let segment = Segment::read(&mut input, &before);
        now_ns += segment.after_ns;
        if segment.ending & 1 != 0 {
            world.end(now_ns);
        }
        if segment.ending & 2 != 0 {
            world.remove(now_ns);
        }
        before = world.connections(now_ns);
        let frame = segment.frame();
        let decision = match segment.direction {
            Direction::ToServer => world.from_site(&frame, segment.identity(), now_ns),
            Direction::ToSite => world.from_server(&frame, now_ns),
        };
        let after = world.connections(now_ns);
        if segment.too_big {
            check_too_big(&segment, &decision, &before, &after);
        } else {
            check(&segment, &decision, &before, &after);
            check_mss(&frame, segment.v6(), 20 + segment.options.len(), &decision);
        }
        before = after;
        segments += 1;
    }
}

/// A segment.
#[derive(Debug)]
struct Segment {
    direction: Direction,
    tunnel: u32,
    key: Key,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    window: u16,
    data: u16,
    options: Vec<u8>,
    after_ns: u64,
    /// Bit 0 marks expired flows as over first; bit 1 removes them first.
    ending: u8,
    /// Sends a path-MTU message in this direction instead of the segment, about a segment of the same
    /// connection.
    too_big: bool,
}

impl Segment {
    /// Reads a segment: a byte of options, the flags, both numbers (see [`Self::number`]), the window, and
    /// the fields that the options announce.
    ///
    /// | bits of the options | meaning |
    /// |---|---|
    /// | 0 and 1 | the device |
    /// | 2 | from the server, else from the device |
    /// | 3 and 4 | added to the number of the device's tunnel |
    /// | 5 | TCP options follow |
    /// | 6 | the size of the data follows |
    /// | 7 | a pause follows; its bits 0 and 1 are [`Self::ending`] |
    ///
    /// Bit 6 of the flags makes it a path-MTU message, bit 7 makes it IPv6.
    fn read(input: &mut Bytes, connections: &[Connection]) -> Self {
        let what = input.byte();
        let flags = input.byte();
        let (tunnel, host, port) = DEVICES[usize::from(what & 3)];
        let device = device(tunnel, host, flags & 0x80 != 0);
        let key = Key { customer: SITES[tunnel as usize - 1].customer, device, port };
        let direction = if what & 4 == 0 { Direction::ToServer } else { Direction::ToSite };
        let connection = connections.iter().find(|connection| connection.key == key);
        let landmarks = connection.map_or([0; 6], |connection| connection.landmarks(direction));
        let sequence = Self::number(input, &landmarks);
        let acknowledgment = Self::number(input, &landmarks);
        let window = input.be16();
        let options = if what & 0x20 != 0 { Self::options(input) } else { Vec::new() };
        let data = if what & 0x40 != 0 { input.be16() % 1400 } else { 0 };
        // A pause lasts from a quarter of a second to some hours.
        let pause = if what & 0x80 != 0 { input.be16() } else { 0 };
        Self {
            direction,
            tunnel: (tunnel + u32::from(what >> 3 & 3) - 1) % 4 + 1,
            key,
            flags: flags & 0x3f,
            sequence,
            acknowledgment,
            window,
            data,
            options,
            after_ns: (u64::from(pause) << 28).max(1_000_000),
            ending: pause as u8,
            too_big: flags & 0x40 != 0,
        }
    }

    fn v6(&self) -> bool {
        self.key.device.is_ipv6()
    }

    /// Reads a number: a byte, whose low bits choose a landmark or none, and a distance of 16 bits, scaled by
    /// the high bits.
    fn number(input: &mut Bytes, landmarks: &[u32; 6]) -> u32 {
        let how = input.byte();
        let distance = i32::from(input.be16() as i16) << (how >> 3 & 15);
        let base = landmarks.get(usize::from(how & 7)).copied().unwrap_or(0);
        base.wrapping_add_signed(distance)
    }

    fn options(input: &mut Bytes) -> Vec<u8> {
        let length = usize::from(input.byte()) % (MAX_OPTIONS + 1);
        let mut options = input.up_to(length).to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        options
    }

    fn identity(&self) -> Identity {
        identity(self.tunnel)
    }

    /// Builds the frame: Ethernet, IP with its checksum and TCP without; or a path-MTU message about the
    /// other direction.
    fn frame(&self) -> Vec<u8> {
        let server = (server(self.key.customer, self.v6()), PORT);
        let device = (self.key.device, self.key.port);
        let (source, destination) = match self.direction {
            Direction::ToServer => (device, server),
            Direction::ToSite => (server, device),
        };
        if !self.too_big {
            return ip(source.0, destination.0, 6, &self.tcp(source.1, destination.1));
        }
        let quoted = ip(destination.0, source.0, 6, &self.tcp(destination.1, source.1));
        let (protocol, head) = if self.v6() { (58, [2, 0]) } else { (1, [3, 4]) };
        let message = [&head, &[0; 6][..], &quoted[IP..quoted.len().min(IP + 48)]].concat();
        ip(source.0, destination.0, protocol, &message)
    }

    fn tcp(&self, from: u16, to: u16) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut tcp = Vec::new();
        tcp.extend(from.to_be_bytes());
        tcp.extend(to.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgment.to_be_bytes());
        tcp.extend([(header as u8 / 4) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.resize(header + usize::from(self.data), 0);
        tcp
    }
}

/// Builds a frame of Ethernet and IP without options.
fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + payload.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((payload.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => unreachable!("both addresses are of one family"),
    }
    repair(&mut frame);
    frame.extend(payload);
    frame
}

/// Checks that a path-MTU message changes nothing, and passes only if its connection exists in the same
/// tunnel.
fn check_too_big(segment: &Segment, decision: &Decision, before: &[Connection], after: &[Connection]) {
    assert_eq!(before, after, "a message changed a flow");
    assert!(!decision.opened && decision.syn().is_none());
    let tunnel = match (decision.verdict, segment.direction) {
        (Err(_), _) => return check_dropped(decision),
        (Ok(()), Direction::ToServer) if decision.tunnel == segment.tunnel => decision.tunnel,
        (Ok(()), Direction::ToSite) => decision.tunnel,
        (verdict, direction) => panic!("{verdict:?} for {direction:?}"),
    };
    let of_it = |old: &&Connection| old.key == segment.key && old.tunnel == tunnel && !old.is_over;
    assert!(before.iter().any(|old| of_it(&old)), "the quoted connection does not exist");
}

/// Checks a segment's effect after any history.
fn check(segment: &Segment, decision: &Decision, before: &[Connection], after: &[Connection]) {
    let passed = decision.verdict.is_ok();
    assert_eq!(
        after.len(),
        before.len() + usize::from(decision.opened && !before.iter().any(|old| old.key == segment.key))
    );
    for (at, new) in after.iter().enumerate() {
        assert!(State::from_number(new.state).is_some() || new.state == 0 && new.is_over, "{new:?}");
        assert!(new.scales().iter().all(|scale| *scale <= 14), "{new:?}");
        assert!(new.left_seconds <= LONGEST_SECONDS, "{new:?}");
        let old = before.get(at);
        if new.key != segment.key {
            assert_eq!(Some(new), old, "another connection changed");
            continue;
        }
        let Some(old) = old else {
            assert!(decision.opened && new.tunnel == segment.tunnel && new.is_half_open());
            continue;
        };
        if decision.opened {
            assert!(new.tunnel == segment.tunnel && new.is_half_open() && !new.is_over);
        } else if passed {
            check_passed(segment, old, new);
        } else {
            check_dropped_segment(decision, old, new);
        }
    }
    match (decision.verdict, segment.direction) {
        (Err(_), _) => check_dropped(decision),
        (Ok(()), Direction::ToServer) => {
            let customer = SITES[segment.tunnel as usize - 1].customer;
            assert_eq!((decision.tunnel, customer), (segment.tunnel, segment.key.customer));
            assert!(decision.bytes <= LAN_MTU_BYTES);
            assert!(after.iter().any(|new| new.key == segment.key && new.tunnel == segment.tunnel));
        }
        (Ok(()), Direction::ToSite) => {
            assert!(!decision.opened, "opened by the server");
            assert!(
                before
                    .iter()
                    .any(|old| old.key == segment.key && old.tunnel == decision.tunnel && !old.is_over)
            );
        }
    }
    if passed {
        let headers = if segment.v6() { 60 } else { 40 } + segment.options.len();
        assert_eq!(usize::from(decision.header_bytes), headers);
        assert_eq!(decision.bytes as usize, headers + usize::from(segment.data));
    }
}

/// Checks that a connection stays in its tunnel, and never becomes half-open again.
fn check_passed(segment: &Segment, old: &Connection, new: &Connection) {
    assert!(!old.is_over && new.tunnel == old.tunnel);
    assert!(old.is_half_open() || !new.is_half_open(), "{old:?} is half-open again");
    let closing = |state: u8| state >= State::FinWait as u8 && state <= State::Close as u8;
    let fin_or_syn = segment.flags & 0x07 != 0;
    assert!(fin_or_syn || !closing(new.state) || closing(old.state), "{old:?} closes without FIN or RST");
}

/// Checks that a dropped segment changes a flow only if it is outside the windows, or is a SYN whose new
/// connection exceeds a quota; and that the change never benefits the connection.
fn check_dropped_segment(decision: &Decision, old: &Connection, new: &Connection) {
    const CHANGING: [Reason; 7] = [
        Reason::OutOfWindow,
        Reason::FlowQuotaExceeded,
        Reason::HalfOpenQuotaExceeded,
        Reason::NewFlowsOverBudget,
        Reason::SiteFlowQuotaExceeded,
        Reason::SiteHalfOpenQuotaExceeded,
        Reason::SiteNewFlowsOverBudget,
    ];
    if !CHANGING.iter().any(|reason| decision.verdict == Err(*reason)) {
        assert_eq!(new, old);
    }
    assert_eq!(new.essence(), old.essence());
    assert!(new.left_seconds <= old.left_seconds, "{old:?} {new:?}");
}
