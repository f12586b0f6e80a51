//! What the decision asks of a packet beside TCP's state, rule by rule: one packet that is just right, and
//! others that differ from it in one thing.
#[path = "decision/world.rs"]
mod world;

use etherparse::PacketBuilder;
use gateway_common::{
    decide::{Decision, Identity, Syn, from_server, from_site},
    layout::{Prefix, Settings, Ticks},
    packet::{Inner, Mss, Segment},
    reason::Reason::{self, *},
    verdict::Verdict,
    wire::Ipv4,
};
use world::{World, server, spi};

const DEVICE: [u8; 4] = [192, 168, 1, 2];
const NOW_NS: u64 = 1_000_000_000_000;
/// Offsets in a frame.
const IP: usize = 14;
const TCP: usize = 34;

/// A SYN of a device of tunnel 1 to its server.
fn syn() -> Vec<u8> {
    segment(DEVICE, 40_000, server(1), 80, 0x02, 1000, 0, &[], 0)
}

/// The server's answer.
fn syn_ack() -> Vec<u8> {
    segment(server(1), 80, DEVICE, 40_000, 0x12, 5000, 1001, &[], 0)
}

#[expect(clippy::too_many_arguments, reason = "one for each field of the headers")]
fn segment(
    source: [u8; 4],
    source_port: u16,
    destination: [u8; 4],
    destination_port: u16,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    options: &[u8],
    data: usize,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, 64).tcp(
        source_port,
        destination_port,
        sequence,
        1000,
    );
    let mut frame = Vec::new();
    builder
        .options_raw(options)
        .expect("options fit")
        .write(&mut frame, &vec![0; data])
        .expect("writing to a vector");
    frame[42..46].copy_from_slice(&acknowledgment.to_be_bytes());
    frame[47] = flags;
    frame
}

/// The frame with this byte, and the right IPv4 checksum.
fn with(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame[24..26].fill(0);
    let sum: u32 = frame[IP..TCP].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
    frame
}

fn tunnel(number: u32) -> Identity {
    Identity { reqid: number, spi: spi(number), mark: number }
}

fn site(world: &World, frame: &[u8]) -> Decision {
    from_site(frame, world, tunnel(1), NOW_NS)
}

/// Why a packet of tunnel 1 does not pass in a new world; None if it does.
fn refused(frame: &[u8]) -> Option<Reason> {
    reason(site(&World::new(), frame))
}

fn reason(decision: Decision) -> Option<Reason> {
    match decision.verdict {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    }
}

/// A world where the SYN has passed.
fn opened() -> World {
    let world = World::new();
    assert!(site(&world, &syn()).opened);
    world
}

#[test]
fn reqid_mark_and_spi_name_one_tunnel_that_is_up() {
    let judge = |identity| reason(from_site(&syn()[..], &World::new(), identity, NOW_NS));
    assert_eq!(judge(tunnel(1)), None);
    assert_eq!(judge(Identity { spi: 77, ..tunnel(1) }), None, "not known yet");
    assert_eq!(judge(Identity { mark: 2, ..tunnel(1) }), Some(MarkContradictsTunnel));
    assert_eq!(judge(Identity { mark: 0, ..tunnel(1) }), Some(MarkContradictsTunnel));
    assert_eq!(judge(Identity { spi: spi(2), ..tunnel(1) }), Some(SpiContradictsTunnel));
    assert_eq!(judge(tunnel(0)), Some(UnknownTunnel));
    assert_eq!(judge(tunnel(9)), Some(UnknownTunnel));
    let mut world = World::new();
    world.tunnels[1].up = 0;
    assert_eq!(reason(site(&world, &syn())), Some(TunnelDown));
    world.tunnels[1].customer = 0;
    assert_eq!(reason(site(&world, &syn())), Some(UnknownTunnel));
}

#[test]
fn nothing_passes_before_the_settings_are_ready() {
    let mut world = opened();
    world.settings.ready = 0;
    assert_eq!(reason(site(&world, &syn())), Some(NotConfigured));
    assert_eq!(reason(from_server(&syn_ack()[..], &world, NOW_NS)), Some(NotConfigured));
}

#[test]
fn ttl_is_at_least_2() {
    for (ttl, expected) in [(0, Some(TtlExpired)), (1, Some(TtlExpired)), (2, None)] {
        assert_eq!(refused(&with(syn(), IP + 8, ttl)), expected, "{ttl}");
        let answer = from_server(&with(syn_ack(), IP + 8, ttl)[..], &opened(), NOW_NS);
        assert_eq!(reason(answer), expected, "{ttl}");
    }
}

#[test]
fn addresses_and_port_are_those_of_the_policy() {
    let to = |source, destination, port| {
        refused(&segment(source, 40_000, destination, port, 0x02, 1000, 0, &[], 0))
    };
    assert_eq!(to(DEVICE, server(1), 80), None);
    assert_eq!(to([192, 169, 0, 0], server(1), 80), Some(InnerSourceNotInSite));
    assert_eq!(to([10, 20, 0, 9], server(1), 80), Some(InnerSourceNotInSite));
    assert_eq!(to([0, 0, 0, 0], server(1), 80), Some(InnerSourceNotInSite));
    assert_eq!(to(DEVICE, server(2), 80), Some(DestinationNotServer));
    assert_eq!(to(DEVICE, server(1), 81), Some(PortNotAllowed));
}

#[test]
fn only_counted_prefixes_are_the_sites() {
    let stranger = [172, 16, 0, 1];
    let frame = segment(stranger, 40_000, server(1), 80, 0x02, 1000, 0, &[], 0);
    let mut world = World::new();
    world.tunnels[1].lan[1] = Prefix::new(Ipv4 { octets: [172, 16, 0, 0] }, 12);
    assert_eq!(reason(site(&world, &frame)), Some(InnerSourceNotInSite));
    world.tunnels[1].prefix_count = 2;
    assert_eq!(reason(site(&world, &frame)), None);
}

#[test]
fn address_of_the_gateway_opens_nothing() {
    let own = |change: fn(&mut Settings)| {
        let mut world = World::new();
        change(&mut world.settings);
        reason(site(&world, &syn()))
    };
    assert_eq!(own(|settings| settings.internet_addresses[0] = Ipv4 { octets: DEVICE }), None, "not counted");
    let internet = |settings: &mut Settings| {
        settings.internet_address_count = 1;
        settings.internet_addresses[0] = Ipv4 { octets: DEVICE };
    };
    let lan = |settings: &mut Settings| {
        settings.lan_address_count = 1;
        settings.lan_addresses[0] = Ipv4 { octets: DEVICE };
    };
    assert_eq!(own(internet), Some(InnerSourceNotInSite));
    assert_eq!(own(lan), Some(InnerSourceNotInSite));
}

#[test]
fn flow_is_its_tunnels_until_its_time_is_over() {
    let mut world = opened();
    // The same site in another tunnel of the customer.
    world.tunnels[2] = world.tunnels[1];
    let other = |now_ns| from_site(&syn()[..], &world, tunnel(2), now_ns);
    assert_eq!(reason(other(NOW_NS)), Some(FlowOwnedByOtherTunnel));
    let end = world.flows.borrow().values().next().expect("the flow").expires.as_ns();
    assert_eq!(reason(other(end - 1)), Some(FlowOwnedByOtherTunnel));
    let late = from_server(&syn_ack()[..], &world, end);
    assert_eq!(reason(late), Some(ReplyWithoutConnection));
    assert!(other(end).opened);
    assert_eq!(from_server(&syn_ack()[..], &world, end).tunnel, 2);
}

#[test]
fn time_has_come_when_it_is_there() {
    let at = Ticks { ticks: 7 };
    assert!(at.has_come(at) && !at.has_come(Ticks { ticks: 6 }) && at.has_come(Ticks { ticks: 8 }));
}

#[test]
fn server_answers_on_a_connection_that_policy_still_allows() {
    let answer = |world: &World| reason(from_server(&syn_ack()[..], world, NOW_NS));
    assert_eq!(answer(&opened()), None);
    assert_eq!(answer(&World::new()), Some(ReplyWithoutConnection));
    let changed = |change: fn(&mut World)| {
        let mut world = opened();
        change(&mut world);
        answer(&world)
    };
    assert_eq!(changed(|world| world.tunnels[1].up = 0), Some(TunnelDown));
    assert_eq!(changed(|world| world.tunnels[1].customer = 2), Some(UnknownTunnel));
    assert_eq!(changed(|world| world.tunnels[1].port = 81), Some(FlowNoLongerAllowed));
    let moved = |world: &mut World| world.tunnels[1].server = Ipv4 { octets: server(3) };
    assert_eq!(changed(moved), Some(FlowNoLongerAllowed));
    let renumbered = |world: &mut World| {
        world.tunnels[1].lan[0] = Prefix::new(Ipv4 { octets: [10, 9, 0, 0] }, 16);
    };
    assert_eq!(changed(renumbered), Some(FlowNoLongerAllowed));
    let moved_customer = |world: &mut World| {
        world.customers.remove(&server(1));
    };
    assert_eq!(changed(moved_customer), Some(SourceNotServer));
}

#[test]
fn server_opens_nothing() {
    let to = |flags| {
        let frame = segment(server(1), 80, DEVICE, 40_000, flags, 5000, 0, &[], 0);
        reason(from_server(&frame[..], &World::new(), NOW_NS))
    };
    assert_eq!(to(0x02), Some(NewFromServer));
    assert_eq!(to(0x12), Some(ReplyWithoutConnection));
    assert_eq!(to(0x10), Some(ReplyWithoutConnection));
}

#[test]
fn mss_of_a_handshake_is_lowered_and_never_raised() {
    let lowered = |flags: u8, options: &[u8]| {
        let world = opened();
        let frame = match flags {
            0x02 => segment(DEVICE, 40_000, server(1), 80, flags, 1000, 0, options, 0),
            _ => segment(server(1), 80, DEVICE, 40_000, flags, 5000, 1001, options, 0),
        };
        let decision = match flags {
            0x02 => site(&World::new(), &frame),
            _ => from_server(&frame[..], &world, NOW_NS),
        };
        assert_eq!(reason(decision), None);
        decision.syn
    };
    let over = Syn { mss: 1356, offered: Mss { at: 2, bytes: 1357 } };
    assert_eq!(lowered(0x02, &[2, 4, 0x05, 0x4d]), Some(over));
    assert_eq!(lowered(0x12, &[2, 4, 0x05, 0x4d]), Some(over));
    assert_eq!(lowered(0x02, &[2, 4, 0x05, 0x4c]), None);
    assert_eq!(lowered(0x02, &[2, 4, 0x02, 0x18]), None);
    assert_eq!(lowered(0x02, &[1, 1, 1, 2]), None);

    // The same option in an ACK.
    let world = opened();
    assert_eq!(reason(from_server(&syn_ack()[..], &world, NOW_NS)), None);
    let ack = segment(DEVICE, 40_000, server(1), 80, 0x10, 1001, 5001, &[2, 4, 0x05, 0xb4], 0);
    let decision = site(&world, &ack);
    assert_eq!((reason(decision), decision.syn), (None, None));
}

#[test]
fn inner_packet_is_plain_whole_ipv4() {
    let edited = |edits: &[(usize, u8)]| {
        refused(&edits.iter().fold(syn(), |frame, (at, byte)| with(frame, *at, *byte)))
    };
    assert_eq!(edited(&[]), None);
    assert_eq!(edited(&[(12, 0x86), (13, 0xdd)]), Some(InnerNotIpv4));
    assert_eq!(edited(&[(IP, 0x46)]), Some(InnerHasIpOptions));
    assert_eq!(edited(&[(IP, 0x4f)]), Some(InnerHasIpOptions));
    assert_eq!(edited(&[(IP, 0x44)]), Some(InnerMalformed));
    assert_eq!(edited(&[(IP, 0x65)]), Some(InnerMalformed));
    assert_eq!(edited(&[(IP + 3, 19)]), Some(InnerMalformed));
    assert_eq!(edited(&[(IP + 3, 20)]), Some(TcpMalformed));
    assert_eq!(edited(&[(IP + 3, 39)]), Some(TcpMalformed));
    assert_eq!(edited(&[(IP + 3, 41)]), Some(InnerMalformed), "longer than the frame");
    assert_eq!(edited(&[(IP + 6, 0x20)]), Some(InnerFragment), "the first");
    assert_eq!(edited(&[(IP + 7, 0x01)]), Some(InnerFragment), "the last");
    assert_eq!(edited(&[(IP + 6, 0x10)]), Some(InnerFragment), "far behind");
    assert_eq!(edited(&[(IP + 6, 0x40)]), None, "DF");
    assert_eq!(edited(&[(IP + 9, 17)]), Some(ProtocolNotAllowed));
    let mut wrong = syn();
    wrong[24] ^= 1;
    assert_eq!(refused(&wrong), Some(InnerChecksumWrong));
    let mut padded = syn();
    padded.extend([0; 6]);
    assert_eq!(refused(&padded), None);
}

/// Sums of 16-bit words that carry twice.
#[test]
fn checksum_is_right_for_every_carry() {
    let mut carried = 0;
    for identification in 0..=u16::MAX {
        let [high, low] = identification.to_be_bytes();
        let frame = with(with(syn(), IP + 4, high), IP + 5, low);
        carried += u32::from(Inner::parse(&frame[..]).is_ok());
    }
    assert_eq!(carried, 1 << 16);
}

#[test]
fn tcp_header_lies_in_the_packet() {
    let offset = |words: u8| refused(&with(syn(), TCP + 12, words << 4));
    assert_eq!(offset(5), None);
    assert_eq!(offset(4), Some(TcpMalformed));
    assert_eq!(offset(0), Some(TcpMalformed));
    assert_eq!(offset(6), Some(TcpMalformed));
    let mut padded = with(syn(), TCP + 12, 6 << 4);
    padded.extend([0; 6]);
    assert_eq!(refused(&padded), Some(TcpMalformed), "in the padding");
    for flags in [0x00, 0x01, 0x03, 0x06, 0x22 | 0x01, 0x3f] {
        assert_eq!(refused(&with(syn(), TCP + 13, flags)), Some(TcpFlagsInvalid), "{flags:#x}");
    }
}

#[test]
fn options_are_read_to_the_byte() {
    let options = |options: &[u8]| {
        let frame = segment(DEVICE, 40_000, server(1), 80, 0x02, 1000, 50, options, 0);
        let inner = Inner::parse(&frame[..]).expect("IPv4");
        Segment::parse(&frame[..], &inner).expect("TCP").options
    };
    let mss = |at, bytes| Some(Mss { at, bytes });
    assert_eq!(options(&[2, 4, 5, 180]).mss(), mss(2, 1460));
    assert_eq!(options(&[1, 2, 4, 5, 180, 0, 0, 0]).mss(), mss(3, 1460));
    assert_eq!(options(&[2, 4, 5, 180, 2, 4, 0, 1]).mss(), mss(2, 1460), "the first");
    assert_eq!(options(&[2, 5, 5, 180, 0, 0, 0, 0]).mss(), None, "of another size");
    assert_eq!(options(&[0, 2, 2, 4, 5, 180, 0, 0]).mss(), None, "behind the end");
    assert_eq!(options(&[3, 1, 2, 4, 5, 180, 0, 0]).mss(), None, "behind nonsense");
    assert_eq!(options(&[1, 1, 2, 4]).mss(), None, "beyond the header");
    assert_eq!(options(&[1, 1, 8, 10, 2, 4, 5, 180, 0, 0, 0, 0]).mss(), None, "in a timestamp");
    assert_eq!(options(&[1, 1, 1, 1, 2, 4, 5, 180, 0, 0, 0, 0]).mss(), mss(6, 1460), "of that length");
    for (scale, read) in [(0, 0), (14, 14), (15, 14), (255, 14)] {
        assert_eq!(options(&[3, 3, scale, 0]).window_scale(), Some(read));
    }
    assert_eq!(options(&[3, 4, 7, 0]).window_scale(), None);
    assert!(options(&[4, 2, 0, 0]).sack_permitted && !options(&[4, 3, 0, 0]).sack_permitted);
    let block = |left: u8, right: u8| [0, 0, 0, left, 0, 0, 0, right];
    let sack = |options_: &[&[u8]]| options(&options_.concat()).highest_sack;
    assert_eq!(sack(&[&[1, 1, 5, 10], &block(60, 70)]), 70);
    assert_eq!(sack(&[&[1, 1, 5, 10], &block(60, 40)]), 50, "below the acknowledgment");
    assert_eq!(sack(&[&[1, 1, 5, 18], &block(60, 70), &block(80, 90)]), 90);
    assert_eq!(sack(&[&[1, 1, 5, 18], &block(80, 90), &block(60, 70)]), 90);
    assert_eq!(sack(&[&[5, 14], &block(60, 70), &[0; 6]]), 50, "no whole blocks");
    assert_eq!(sack(&[&[1, 1, 5, 10], &block(60, 70), &[1, 1, 5, 10], &block(80, 90)]), 70, "the first");
}
