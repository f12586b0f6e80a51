//! Arithmetic of the timing wheel, including wraps of ticks and slots.
use gateway_common::{
    node::{MAX_CUSTOMER, MAX_NODES, Node},
    tcp::FlowKey,
    time::Ticks,
    wheel::{SLOT_NS, SLOTS, TURN_SECONDS, Wheel, pause_ns, slot_at, slot_for, slots_between},
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

/// Generates counts of slots, many of them close to the wrap of the ticks.
fn slot() -> impl Strategy<Value = u32> {
    time().prop_map(slot_at)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(50_000) })]

    #[test]
    fn flow_is_visited_after_its_end_or_within_a_turn(hand in slot(), left in span()) {
        let begin = Ticks { ticks: hand << 10 };
        let slot = slot_for(begin.plus(left), hand);
        prop_assert!((slot as usize) < SLOTS);
        // The wheel visits a slot after it has ended, during the ticks of the next slot.
        let visit = (0..SLOTS as u32)
            .find(|ahead| hand.wrapping_add(*ahead) % SLOTS as u32 == slot)
            .expect("every slot comes round");
        let waits = Ticks { ticks: (visit + 1) << 10 };
        prop_assert!(waits.as_ns() <= u64::from(TURN_SECONDS) * 1_000_000_000);
        let in_this_turn = left.ticks < (SLOTS as u32) << 10;
        if in_this_turn {
            // The visit is at most one slot late.
            prop_assert!(waits > left && waits.as_ns() <= left.as_ns() + SLOT_NS);
        }
    }

    #[test]
    fn expired_flow_is_visited_next(hand in slot(), since in span()) {
        let expired = Ticks { ticks: (hand << 10).wrapping_sub(since.ticks) };
        prop_assert_eq!(slot_for(expired, hand), hand % SLOTS as u32);
    }

    #[test]
    fn slots_are_counted_over_the_wrap(from in time(), ahead in 0..1u32 << 21) {
        let to = Ticks { ticks: from.ticks.wrapping_add(ahead << 10) };
        prop_assert_eq!(slots_between(slot_at(from), slot_at(to)), ahead);
    }

    #[test]
    fn nodes_round_trip(
        customer in 0..=MAX_CUSTOMER,
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

    #[test]
    fn first_node_of_a_list_round_trips(next in 0..=MAX_NODES, list in 0..=MAX_NODES) {
        let node = Node::<Ipv4>::first_of_list(next, list);
        prop_assert_eq!((node.next(), node.next_list()), (next, list));
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

/// Returns a wheel without flows whose hand is at a slot.
fn wheel(hand: u32) -> Wheel {
    // SAFETY: a wheel holds integers only.
    let wheel: Wheel = unsafe { std::mem::zeroed() };
    Wheel { hand, ..wheel }
}

/// Returns the time at the beginning of a slot.
fn at(slot: u32) -> Ticks {
    Ticks { ticks: slot << 10 }
}

#[test]
fn hand_waits_for_the_end_of_its_slot() {
    let mut wheel = wheel(5);
    assert_eq!(wheel.schedule(0, 7, at(5)), 0);
    assert!(!wheel.advance(Ticks { ticks: (6 << 10) - 1 }));
    assert_eq!((wheel.hand, wheel.due), (5, [0, 0]));
    assert!(wheel.advance(at(6)));
    assert_eq!((wheel.hand, wheel.due), (6, [7, 0]));
    assert!(!wheel.advance(at(6)), "one slot was over");
}

#[test]
fn families_have_lists_of_their_own() {
    let mut wheel = wheel(5);
    assert_eq!([wheel.schedule(0, 7, at(5)), wheel.schedule(1, 7, at(5))], [0, 0]);
    assert_eq!([wheel.schedule(0, 8, at(5)), wheel.schedule(1, 9, at(5))], [7, 7]);
    wheel.advance(at(6));
    assert_eq!(wheel.due, [8, 9]);
}

#[test]
fn slot_is_empty_when_the_hand_has_passed_it() {
    let mut wheel = wheel(5);
    wheel.schedule(0, 7, at(5));
    wheel.advance(at(6));
    wheel.due = [0, 0];
    for _ in 0..SLOTS {
        assert!(wheel.advance(at(100)));
        assert_eq!(wheel.due, [0, 0]);
    }
}

#[test]
fn hand_that_is_behind_visits_every_slot_once_and_is_there() {
    for behind in [1, 5, SLOTS as u32, SLOTS as u32 + 1, 1000, 1 << 21] {
        for hand in [0, 5, slot_at(Ticks { ticks: u32::MAX })] {
            let mut wheel = wheel(hand);
            for number in 1..=SLOTS as u32 {
                wheel.schedule(0, number, at(hand.wrapping_add(number - 1)));
            }
            let now = at(hand.wrapping_add(behind));
            let mut visited = Vec::new();
            while wheel.advance(now) {
                visited.push(wheel.due[0]);
            }
            assert_eq!(wheel.behind(now), 0);
            let expected = if behind <= SLOTS as u32 { behind } else { SLOTS as u32 };
            visited.sort_unstable();
            visited.dedup();
            assert_eq!(visited.len(), expected as usize, "{behind} behind from {hand}");
        }
    }
}

#[test]
fn flow_scheduled_while_the_wheel_is_behind_is_not_visited_early() {
    let mut wheel = wheel(5);
    // Now is slot 20, the flow ends in slot 30: before the hand comes round.
    wheel.schedule(0, 7, at(30));
    let mut slots = 0;
    while wheel.due[0] == 0 {
        assert!(wheel.advance(at(36)));
        slots += 1;
    }
    assert_eq!(slots, 30 - 5 + 1);
}

#[test]
fn wheel_has_more_while_flows_are_due_or_slots_are_over() {
    let mut wheel = wheel(5);
    assert!(!wheel.has_more(at(5)) && wheel.has_more(at(6)));
    for due in [[1, 0], [0, 1]] {
        wheel.due = due;
        assert!(wheel.has_more(at(5)));
    }
}

#[test]
fn packets_get_as_much_time_as_a_run_but_not_more_than_a_tick() {
    let paused = [0, 65_535, 65_536, 65_537, 800_000, 1 << 20, (1 << 20) + 1, 1 << 30].map(pause_ns);
    assert_eq!(paused, [65_536, 65_536, 65_536, 65_537, 800_000, 1 << 20, 1 << 20, 1 << 20]);
}
