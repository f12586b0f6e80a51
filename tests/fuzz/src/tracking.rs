//! TCP tracking: well-formed segments of a few connections, whose numbers are near those that tracking turns on,
//! and path-MTU messages about them.
use std::net::IpAddr;

use gateway_common::{
    decide::Decision,
    reason::Reason,
    tcp::{Direction, State},
};

use crate::{
    bytes::Bytes,
    inner::{IP, check_dropped, check_mss, repair},
    world::{Connection, Identity, Key, LAN_MTU_BYTES, PORT, SITES, World, server, spi},
};

/// Segments of one input that are looked at.
const MAX_SEGMENTS: usize = 32;
/// The longest that a flow may be silent: established.
const LONGEST_SECONDS: u64 = 7440;
/// Most bytes of options.
const MAX_OPTIONS: usize = 40;

/// Devices that several tunnels could have, by tunnel and host: the first two differ by customer only.
const DEVICES: [(u32, u8, u16); 4] = [(1, 2, 40_000), (3, 2, 40_000), (2, 9, 40_000), (1, 2, 40_001)];

/// One of them.
fn device(tunnel: u32, host: u8, v6: bool) -> IpAddr {
    match SITES[tunnel as usize - 1].lan[usize::from(v6)].0 {
        IpAddr::V4(lan) => (lan.to_bits() | u32::from(host)).to_be_bytes().into(),
        IpAddr::V6(lan) => (lan.to_bits() | u128::from(host)).to_be_bytes().into(),
    }
}

/// The input is segments, see [`Segment::read`], after a byte whose bit 0 is set if connections in mid-stream are
/// adopted.
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
    /// Bit 0: flows that are over by then are marked; bit 1: they are removed.
    ending: u8,
    /// Not the segment, but a message in its direction that another one of its connection was too big.
    too_big: bool,
}

impl Segment {
    /// One byte says whose (bits 0 to 1), which way (bit 2), by which tunnel (bits 3 to 4 are added to its
    /// own number), with options (bit 5), with data (bit 6) and after a pause (bit 7); then flags, both numbers
    /// as [`Self::number`], the window, and what the bits promise. Of the flags bit 6 makes it a path-MTU message
    /// and bit 7 IPv6; bits 0 and 1 of a pause remove flows.
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
        // A quarter of a second to some hours.
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

    /// A byte, whose low bits choose a landmark or none; a distance of 16 bits, scaled by the high bits.
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
        Identity { reqid: self.tunnel, spi: spi(self.tunnel), mark: self.tunnel }
    }

    /// Ethernet, IP with its checksum, TCP without; or a path-MTU message about the other direction.
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

/// Ethernet and IP without options.
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

/// It changes nothing, and passes only about a connection that there is, in the tunnel it belongs to.
fn check_too_big(segment: &Segment, decision: &Decision, before: &[Connection], after: &[Connection]) {
    assert_eq!(before, after, "a message changes a flow");
    assert!(!decision.opened && decision.syn().is_none());
    let tunnel = match (decision.verdict, segment.direction) {
        (Err(_), _) => return check_dropped(decision),
        (Ok(()), Direction::ToServer) if decision.tunnel == segment.tunnel => decision.tunnel,
        (Ok(()), Direction::ToSite) => decision.tunnel,
        (verdict, direction) => panic!("{verdict:?} for {direction:?}"),
    };
    let of_it = |old: &&Connection| old.key == segment.key && old.tunnel == tunnel && !old.is_over;
    assert!(before.iter().any(|old| of_it(&old)), "about no connection");
}

/// What must hold whatever came before.
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
            assert_eq!(Some(new), old, "not the segment's");
            continue;
        }
        let Some(old) = old else {
            assert!(decision.opened && new.tunnel == segment.tunnel && new.is_half_open());
            continue;
        };
        if decision.opened {
            assert!(new.tunnel == segment.tunnel && new.is_half_open() && !new.is_over);
        } else if passed {
            check_goes_on(segment, old, new);
        } else {
            check_dropped_from(decision, old, new);
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

/// In the same tunnel; what was half-open no more stays so.
fn check_goes_on(segment: &Segment, old: &Connection, new: &Connection) {
    assert!(!old.is_over && new.tunnel == old.tunnel);
    assert!(old.is_half_open() || !new.is_half_open(), "{old:?} is half-open again");
    let closing = |state: u8| state >= State::FinWait as u8 && state <= State::Close as u8;
    let fin_or_syn = segment.flags & 0x07 != 0;
    assert!(fin_or_syn || !closing(new.state) || closing(old.state), "{old:?} closes without FIN or RST");
}

/// Only a segment out of the windows leaves anything, or a SYN that no other connection could be opened for; and
/// nothing that helps.
fn check_dropped_from(decision: &Decision, old: &Connection, new: &Connection) {
    const LEAVING: [Reason; 4] = [
        Reason::OutOfWindow,
        Reason::FlowQuotaExceeded,
        Reason::HalfOpenQuotaExceeded,
        Reason::NewFlowsOverBudget,
    ];
    if !LEAVING.iter().any(|reason| decision.verdict == Err(*reason)) {
        assert_eq!(new, old);
    }
    assert_eq!(new.essence(), old.essence());
    assert!(new.left_seconds <= old.left_seconds, "{old:?} {new:?}");
}
