//! Arithmetic of the timing wheel, including wraps of ticks and slots.
use gateway_common::{
    tcp::FlowKey,
    time::Ticks,
    wheel::{MAX_NODES, Node, SLOTS, TURN_SECONDS, slot_at, slot_for, slots_between},
    wire::{Ipv4, Ipv6},
};
use proptest::prelude::*;

/// Generates times, many of them close to the wrap of the ticks.
fn time() -> impl Strategy<Value = Ticks> {
    let near_wrap = (-40_000i32..40_000).prop_map(|offset| offset as u32);
    prop_oneof![near_wrap, any::<u32>()].prop_map(|ticks| Ticks { ticks })
}

/// Generates spans from zero to longer than any timeout, many of them close to a turn.
fn span() -> impl Strategy<Value = Ticks> {
    let near_turn = (SLOTS as u32 - 4) << 10..(SLOTS as u32 + 4) << 10;
    prop_oneof![0..3_000u32, near_turn, 0..1u32 << 24].prop_map(|ticks| Ticks { ticks })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(50_000) })]

    #[test]
    fn flow_is_visited_after_its_end_or_within_a_turn(now in time(), left in span()) {
        let slot = slot_for(now.plus(left), now);
        prop_assert!((slot as usize) < SLOTS);
        // The wheel visits a slot after it has ended, during the ticks of the next slot.
        let visit = (0..SLOTS as u32 * 2)
            .find(|ahead| (slot_at(now).wrapping_add(*ahead)) % SLOTS as u32 == slot)
            .expect("every slot comes round");
        let first_tick = Ticks { ticks: (slot_at(now).wrapping_add(visit + 1)) << 10 };
        let waits = first_tick.since(now).as_ns();
        prop_assert!(waits > 0, "the current slot is visited only after its end");
        prop_assert!(waits <= u64::from(TURN_SECONDS) * 1_000_000_000);
        let in_this_turn = left.ticks < (SLOTS as u32 - 2) << 10;
        if in_this_turn {
            prop_assert!(first_tick.since(now) >= left, "visited at {first_tick:?}, {left:?} after {now:?}");
            // The visit is at most one slot late; a slot lasts a second.
            prop_assert!(waits <= left.as_ns() + (1 << 30) + (1 << 20));
        }
    }

    #[test]
    fn expired_flow_is_visited_next(now in time(), since in span()) {
        let expired = Ticks { ticks: now.ticks.wrapping_sub(since.ticks) };
        prop_assert_eq!(slot_for(expired, now), slot_at(now) % SLOTS as u32);
    }

    #[test]
    fn slots_are_counted_over_the_wrap(from in time(), ahead in 0..1u32 << 21) {
        let to = Ticks { ticks: from.ticks.wrapping_add(ahead << 10) };
        prop_assert_eq!(slots_between(slot_at(from), slot_at(to)), ahead);
    }

    #[test]
    fn nodes_round_trip(
        customer in 0..=MAX_NODES,
        address in any::<[u8; 16]>(),
        lan_port in any::<u16>(),
        next in 0..=MAX_NODES,
    ) {
        let v4 = Ipv4 { octets: [address[0], address[1], address[2], address[3]] };
        let key = FlowKey { customer, lan_address: v4, lan_port, _reserved: 0 };
        let node = Node::new(&key, next);
        prop_assert_eq!((node.key(), node.next()), (key, next));
        let key = FlowKey { customer, lan_address: Ipv6 { octets: address }, lan_port, _reserved: 0 };
        let node = Node::new(&key, next);
        prop_assert_eq!((node.key(), node.next()), (key, next));
    }
}

#[test]
fn slots_are_consecutive_where_ticks_wrap() {
    let mut slots = (0..u32::MAX).rev().step_by(1 << 10).take(3).collect::<Vec<_>>();
    slots.reverse();
    let before: Vec<u32> =
        slots.iter().map(|ticks| slot_at(Ticks { ticks: *ticks }) % SLOTS as u32).collect();
    assert_eq!(before, [29, 30, 31]);
    assert_eq!(slot_at(Ticks { ticks: 0 }) % SLOTS as u32, 0);
}
