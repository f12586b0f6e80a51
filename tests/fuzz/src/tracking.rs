//! TCP tracking: well-formed segments of a few connections, whose numbers are near those that tracking turns on.
use gateway_common::{
    decide::Decision,
    reason::Reason,
    tcp::{Direction, State},
    verdict::Verdict::{Drop, ToServer, ToTunnel},
};

use crate::{
    bytes::Bytes,
    inner::{check_dropped, check_mss},
    world::{Connection, Identity, Key, PORT, SITES, World, server, spi},
};

/// Segments of one input that are looked at.
const MAX_SEGMENTS: usize = 32;
/// The longest that a flow may be silent: established.
const LONGEST_SECONDS: u64 = 7440;
/// Most bytes of options.
const MAX_OPTIONS: usize = 40;

/// Devices that several tunnels could have, and their tunnels: the first two differ by customer only.
const DEVICES: [(u32, [u8; 4], u16); 4] = [
    (1, [192, 168, 1, 2], 40_000),
    (3, [192, 168, 1, 2], 40_000),
    (2, [10, 20, 0, 9], 40_000),
    (1, [192, 168, 1, 2], 40_001),
];

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
        before = world.connections(now_ns);
        let frame = segment.frame();
        let decision = match segment.direction {
            Direction::ToServer => world.from_site(&frame, segment.identity(), now_ns),
            Direction::ToSite => world.from_server(&frame, now_ns),
        };
        let after = world.connections(now_ns);
        check(&segment, &decision, &before, &after);
        check_mss(&frame, 20 + segment.options.len(), &decision);
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
}

impl Segment {
    /// One byte says whose (bits 0 to 1), which way (bit 2), by which tunnel (bits 3 to 4 are added to its
    /// own number), with options (bit 5), with data (bit 6) and after a pause (bit 7); then flags, both numbers
    /// as [`Self::number`], the window, and what the bits promise.
    fn read(input: &mut Bytes, connections: &[Connection]) -> Self {
        let what = input.byte();
        let (tunnel, device, port) = DEVICES[usize::from(what & 3)];
        let key = Key { customer: SITES[tunnel as usize - 1].0, device, port };
        let direction = if what & 4 == 0 { Direction::ToServer } else { Direction::ToSite };
        let flags = input.byte();
        let connection = connections.iter().find(|connection| connection.key == key);
        let landmarks = connection.map_or([0; 6], |connection| connection.landmarks(direction));
        let sequence = Self::number(input, &landmarks);
        let acknowledgment = Self::number(input, &landmarks);
        let window = input.be16();
        let options = if what & 0x20 != 0 { Self::options(input) } else { Vec::new() };
        let data = if what & 0x40 != 0 { input.be16() % 1400 } else { 0 };
        // A quarter of a second to some hours.
        let after_ns = if what & 0x80 != 0 { u64::from(input.be16()) << 28 } else { 1_000_000 };
        let tunnel = (tunnel + u32::from(what >> 3 & 3) - 1) % 4 + 1;
        Self { direction, tunnel, key, flags, sequence, acknowledgment, window, data, options, after_ns }
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

    /// Ethernet, IPv4 with its checksum, TCP without.
    fn frame(&self) -> Vec<u8> {
        let server = (server(self.key.customer), PORT);
        let device = (self.key.device, self.key.port);
        let (source, destination) = match self.direction {
            Direction::ToServer => (device, server),
            Direction::ToSite => (server, device),
        };
        let header = 20 + self.options.len();
        let total = 20 + header as u16 + self.data;
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(source.0);
        frame.extend(destination.0);
        let sum: u32 = frame[14..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
        frame.extend(source.1.to_be_bytes());
        frame.extend(destination.1.to_be_bytes());
        frame.extend(self.sequence.to_be_bytes());
        frame.extend(self.acknowledgment.to_be_bytes());
        frame.extend([(header as u8 / 4) << 4, self.flags]);
        frame.extend(self.window.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(&self.options);
        frame.resize(14 + usize::from(total), 0);
        frame
    }
}

/// What must hold whatever came before.
fn check(segment: &Segment, decision: &Decision, before: &[Connection], after: &[Connection]) {
    let passed = !matches!(decision.verdict, Drop(_));
    assert_eq!(
        after.len(),
        before.len() + usize::from(decision.opened && !before.iter().any(|old| old.key == segment.key))
    );
    for (at, new) in after.iter().enumerate() {
        assert!(State::from_number(new.state).is_some(), "{new:?}");
        assert!(new.scale.iter().all(|scale| *scale <= 14), "{new:?}");
        assert!(new.left_seconds <= LONGEST_SECONDS, "{new:?}");
        let old = before.get(at);
        if new.key != segment.key {
            assert_eq!(Some(new), old, "not the segment's");
            continue;
        }
        let Some(old) = old else {
            assert!(decision.opened && new.packets == [1, 0]);
            continue;
        };
        if decision.opened {
            assert!(new.packets == [1, 0] && new.tunnel == segment.tunnel);
        } else if passed {
            check_goes_on(segment, old, new);
        } else {
            check_dropped_from(decision, old, new);
        }
    }
    match (decision.verdict, segment.direction) {
        (Drop(_), _) => check_dropped(decision),
        (ToServer(tunnel), Direction::ToServer) => {
            let (customer, ..) = SITES[segment.tunnel as usize - 1];
            assert_eq!((tunnel.get(), customer), (segment.tunnel, segment.key.customer));
            assert!(after.iter().any(|new| new.key == segment.key && new.tunnel == segment.tunnel));
        }
        (ToTunnel(tunnel), Direction::ToSite) => {
            assert!(!decision.opened, "opened by the server");
            assert!(before.iter().any(|old| old.key == segment.key && old.tunnel == tunnel.get()));
        }
        (verdict, direction) => panic!("{verdict:?} for {direction:?}"),
    }
    if passed {
        assert_eq!(decision.bytes, (40 + segment.options.len()) as u64 + u64::from(segment.data));
    }
}

/// One packet more, in the same tunnel.
fn check_goes_on(segment: &Segment, old: &Connection, new: &Connection) {
    let mut packets = old.packets;
    packets[segment.direction as usize] += 1;
    assert_eq!((new.packets, new.tunnel), (packets, old.tunnel));
    let closing = |state: u8| state >= State::FinWait as u8 && state <= State::Close as u8;
    let fin_or_syn = segment.flags & 0x07 != 0;
    assert!(fin_or_syn || !closing(new.state) || closing(old.state), "{old:?} closes without FIN or RST");
}

/// Only a segment out of the windows leaves anything, and nothing that helps.
fn check_dropped_from(decision: &Decision, old: &Connection, new: &Connection) {
    if decision.verdict != Drop(Reason::OutOfWindow) {
        assert_eq!(new, old);
    }
    assert_eq!(new.essence(), old.essence());
    assert!(new.left_seconds <= old.left_seconds, "{old:?} {new:?}");
}
