//! Edge cases of arithmetic: budgets, the timing wheel, times.
use gateway_common::{
    layout::NextHop,
    node::{MAX_CUSTOMER, MAX_NODES, Node},
    rate::{Bucket, Rate},
    tcp::FlowKey,
    time::Ticks,
    wheel::{SLOTS, slot_at, slot_for, slots_between},
    wire::Ipv4,
};

const NOW_NS: u64 = 1_000_000;

/// Returns the number of tokens that a full bucket gives at once.
fn at_once(interval_ns: u64, burst: u32) -> usize {
    let mut bucket = Bucket::default();
    (0..10).take_while(|_| bucket.take(interval_ns, burst, NOW_NS)).count()
}

#[test]
fn bucket_gives_its_burst_and_no_more() {
    assert_eq!([1, 2, 3].map(|burst| at_once(1_000, burst)), [1, 2, 3]);
    assert_eq!(at_once(0, 1), 10, "no rate");
    assert_eq!(at_once(1_000, 0), 1, "a burst of 0 counts as 1");
}

#[test]
fn bucket_fills_at_its_rate_and_to_its_burst() {
    let mut bucket = Bucket::default();
    let mut take = |after_ns| bucket.take(1_000, 2, NOW_NS + after_ns);
    assert_eq!([take(0), take(0), take(0)], [true, true, false]);
    assert_eq!([take(999), take(1_000), take(1_000)], [false, true, false]);
    assert_eq!([take(1_999), take(2_000), take(2_000)], [false, true, false]);
    assert_eq!([take(50_000), take(50_000), take(50_000)], [true, true, false], "at most the burst");
}

#[test]
fn rate_has_an_interval_in_nanoseconds() {
    assert_eq!(Rate { per_second: 500, burst: 1 }.interval_ns(), 2_000_000);
}

fn ticks(ticks: u32) -> Ticks {
    Ticks { ticks }
}

#[test]
fn flow_is_visited_in_the_slot_of_its_end() {
    let last = SLOTS as u32 - 1;
    let highest = slot_at(ticks(u32::MAX));
    for (hand, left, slot) in [
        (0, 0, 0),
        (0, 1023, 0),
        (0, 1024, 1),
        (5, 1024, 6),
        (0, (last << 10) - 1, last - 1),
        (0, last << 10, last),
        (0, (last + 1) << 10, last),
        (0, 1 << 24, last),
        (3, 1 << 24, 2),
        (highest, 1023, 31),
        (highest, 1024, 0),
    ] {
        assert_eq!(slot_for(ticks(hand << 10).plus(ticks(left)), hand), slot, "{left} after slot {hand}");
    }
    assert_eq!(slot_for(ticks(7), 5), 5, "expired long ago");
}

#[test]
fn slots_keep_counting() {
    assert_eq!((slot_at(ticks(1023)), slot_at(ticks(1024))), (0, 1));
    let last = slot_at(ticks(u32::MAX));
    assert_eq!([slots_between(3, 3), slots_between(3, 4), slots_between(last, 0)], [0, 1, 1]);
    assert_eq!(slots_between(last - 1, 2), 4);
}

#[test]
fn node_keeps_flow_and_next_node() {
    let key = FlowKey {
        customer: MAX_CUSTOMER - 1,
        lan_address: Ipv4 { octets: [192, 168, 1, 2] },
        lan_port: 0xabcd,
        _reserved: 0,
    };
    for next in [0, 1, 0xffff, 0x1_0000, 0x12_3456, 0x123_4567, MAX_NODES] {
        let node = Node::new(&key, next);
        assert_eq!((node.key(), node.next()), (key, next));
        let free = Node::<Ipv4>::first_of_list(7, next);
        assert_eq!((free.next(), free.next_list()), (7, next));
        assert_eq!(Node::<Ipv4>::free(next).next(), next);
    }
}

#[test]
fn times_wrap() {
    assert!(ticks(1).has_come(ticks(1)) && !ticks(2).has_come(ticks(1)));
    assert!(ticks(u32::MAX).has_come(ticks(0)) && !ticks(0).has_come(ticks(u32::MAX)));
    assert_eq!(
        [ticks(5).since(ticks(3)), ticks(3).since(ticks(3)), ticks(3).since(ticks(5))].map(|t| t.ticks),
        [2, 0, 0]
    );
    assert_eq!(ticks(1).since(ticks(u32::MAX)), ticks(2));
    assert_eq!((Ticks::from_ns((1 << 20) - 1), Ticks::from_ns(1 << 20)), (ticks(0), ticks(1)));
    assert_eq!(Ticks::from_ns(1 << 52), ticks(0), "after 52 days");
}

/// Covers a machine that has been up for weeks, and a CPU that sees a customer for the first time or again.
#[test]
fn next_hop_holds_for_a_second_and_never_longer() {
    const DAY: u32 = 82_397_461;
    const HOLD: u32 = NextHop::<Ipv4>::VALIDITY.ticks;
    for now in [1, HOLD, DAY, 26 * DAY, 27 * DAY, 40 * DAY, 52 * DAY, u32::MAX] {
        assert!(!NextHop::default().is_valid_for(SERVER, ticks(now)), "never asked, {now}");
        let asked = NextHop { address: SERVER, asked: ticks(now), ..NextHop::default() };
        let after = |age: u32| asked.is_valid_for(SERVER, ticks(now.wrapping_add(age)));
        assert_eq!([after(0), after(HOLD - 1), after(HOLD)], [true, true, false]);
        assert_eq!([DAY, 26 * DAY, 27 * DAY, 40 * DAY].map(after), [false; 4]);
    }
}

#[test]
fn next_hop_does_not_hold_for_another_server() {
    let asked = NextHop { address: SERVER, asked: ticks(7), ..NextHop::default() };
    assert!(asked.is_valid_for(SERVER, ticks(7)));
    assert!(!asked.is_valid_for(Ipv4::from_bits(0x0ac8_000c), ticks(7)));
    assert!(!asked.is_valid_for(Ipv4::default(), ticks(7)));
}

const SERVER: Ipv4 = Ipv4::from_bits(0x0ac8_000b);
