//! Budgets: exact rates, and the sources charged for them.
use std::collections::HashMap;

use gateway_common::{
    family::Family,
    limits::NEIGHBOUR_BUCKETS,
    outer::{Budgets, CLASSES, Class, Outer, charge_neighbour, charge_stranger, neighbour_buckets},
    rate::Bucket,
    wire::{Ipv4, Ipv6, Mac},
};
use proptest::{collection::vec, prelude::*};

/// The continuous-state leaky bucket, an equivalent form of GCRA (ITU-T I.371 annex A): taken tokens leak
/// away, and there is room for `burst` of them.
struct Leaky {
    level_ns: i128,
    at_ns: u64,
}

impl Leaky {
    fn take(&mut self, interval_ns: u64, burst: u32, now_ns: u64) -> bool {
        let level = (self.level_ns - i128::from(now_ns - self.at_ns)).max(0);
        if level > i128::from(interval_ns) * i128::from(burst.saturating_sub(1)) {
            return false;
        }
        (self.level_ns, self.at_ns) = (level + i128::from(interval_ns), now_ns);
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000) })]

    #[test]
    fn a_bucket_is_a_leaky_bucket(
        interval_ns in prop_oneof![0..20u64, 1..=u64::from(u32::MAX)],
        burst in prop_oneof![0..5u32, any::<u32>()],
        pauses in vec(prop_oneof![3 => 0..30u64, 1 => 0..1u64 << 33], 1..200),
        start_ns in prop_oneof![Just(0u64), any::<u32>().prop_map(u64::from)],
    ) {
        let (mut bucket, mut leaky) = (Bucket::default(), Leaky { level_ns: 0, at_ns: 0 });
        let mut now_ns = start_ns;
        for pause in pauses {
            now_ns += pause;
            prop_assert_eq!(
                bucket.take(interval_ns, burst, now_ns),
                leaky.take(interval_ns, burst, now_ns)
            );
        }
    }

    #[test]
    fn no_window_holds_more_than_burst_and_rate(
        burst in 1..20u32,
        pauses in vec(0..3_000u64, 50..400),
    ) {
        const INTERVAL_NS: u64 = 1_000;
        let mut bucket = Bucket::default();
        let (mut now_ns, mut taken) = (1 << 40, Vec::new());
        for pause in pauses {
            now_ns += pause;
            if bucket.take(INTERVAL_NS, burst, now_ns) {
                taken.push(now_ns);
            }
        }
        for (first, from_ns) in taken.iter().enumerate() {
            for (count, to_ns) in taken[first..].iter().enumerate() {
                let most = u64::from(burst) + (to_ns - from_ns) / INTERVAL_NS;
                prop_assert!((count as u64) < most);
            }
        }
    }

    #[test]
    fn a_refusal_costs_nothing(burst in 1..50u32, refused in 1..1_000u32) {
        let mut bucket = Bucket::default();
        (0..burst).for_each(|_| assert!(bucket.take(1_000, burst, 5_000)));
        let full = bucket;
        (0..refused).for_each(|_| assert!(!bucket.take(1_000, burst, 5_999)));
        prop_assert_eq!(bucket, full);
        prop_assert!(bucket.take(1_000, burst, 6_000));
    }
}

/// Charges packets like the outer filter: a peer's own budget, or else both the source's and the shared one.
#[derive(Default)]
struct Filter {
    peers: HashMap<Ipv6, Budgets>,
    sources: HashMap<Ipv6, Budgets>,
    strangers: Budgets,
}

impl Filter {
    fn admits(&mut self, class: Class, from: std::net::IpAddr, now_ns: u64) -> bool {
        let (address, subscriber) = match from {
            std::net::IpAddr::V4(from) => (Ipv4::from(from).mapped(), Ipv4::from(from).subscriber()),
            std::net::IpAddr::V6(from) => (Ipv6::from(from), Ipv6::from(from).subscriber()),
        };
        if let Some(peer) = self.peers.get_mut(&address) {
            return peer.take(class, class.peer_rate(), now_ns);
        }
        let sources = &mut self.sources;
        charge_stranger(
            &mut self.strangers,
            move || Some(sources.entry(subscriber).or_default()),
            class,
            now_ns,
        )
    }
}

#[test]
fn a_million_strangers_leave_a_peers_budget_untouched() {
    let peer = std::net::IpAddr::from([198, 18, 0, 1]);
    let mut filter = Filter::default();
    filter.peers.insert(Ipv6::from(peer), Budgets::default());
    let (mut admitted, mut peers) = (0u32, 0);
    for number in 0..1_000_000u32 {
        let now_ns = (1 << 40) + u64::from(number) * 1_000;
        let stranger = std::net::IpAddr::from((0x0b00_0000 + number).to_be_bytes());
        admitted += u32::from(filter.admits(Class::Ike, stranger, now_ns));
        // The peer sends ten packets in a tenth of a second, as a rekey does.
        if number % 10_000 == 0 {
            assert!(filter.admits(Class::Ike, peer, now_ns));
            peers += 1;
        }
    }
    let rate = Class::Ike.shared_rate();
    assert_eq!(peers, 100);
    assert!((rate.burst..=rate.burst + rate.per_second + 1).contains(&admitted), "{admitted} of a second");
}

/// In a flood each remembered source evicts another; one that is refused anyway must evict none.
#[test]
fn a_source_is_not_remembered_once_the_shared_budget_is_spent() {
    for class in Class::ALL {
        let mut filter = Filter::default();
        let burst = class.shared_rate().burst;
        let stranger = |number: u32| std::net::IpAddr::from((0x0b00_0000 + number).to_be_bytes());
        for number in 0..burst {
            assert!(filter.admits(class, stranger(number), 1 << 40), "{class:?}");
        }
        assert_eq!(filter.sources.len(), burst as usize);
        let known = filter.sources.clone();
        for number in 0..burst * 3 {
            assert!(!filter.admits(class, stranger(number), 1 << 40), "{class:?}");
        }
        assert_eq!(filter.sources, known, "neither remembered nor charged");
        // The next token is for anyone, and costs its sender one of its own.
        let later = (1 << 40) + class.shared_rate().interval_ns();
        assert!(filter.admits(class, stranger(burst), later));
        assert!(!filter.admits(class, stranger(burst + 1), later));
        assert_eq!(filter.sources.len(), burst as usize + 1);
    }
}

#[test]
fn own_budget_is_charged_before_the_shared_one() {
    let (mut filter, loud) = (Filter::default(), std::net::IpAddr::from([8, 8, 8, 8]));
    let admitted = (0..10_000).filter(|_| filter.admits(Class::Ike, loud, 1 << 40)).count();
    assert_eq!(admitted, Class::Ike.stranger_rate().burst as usize);
    let left = Class::Ike.shared_rate().burst - Class::Ike.stranger_rate().burst;
    let others = (0..left).filter(|number| {
        filter.admits(Class::Ike, std::net::IpAddr::from((0x0b00_0000 + number).to_be_bytes()), 1 << 40)
    });
    assert_eq!(others.count(), left as usize);
    assert!(!filter.admits(Class::Ike, std::net::IpAddr::from([9, 9, 9, 9]), 1 << 40));
}

/// The source's budgets may be missing: the table is full of others that are in use.
#[test]
fn stranger_without_budgets_of_its_own_is_charged_to_the_shared_one() {
    let mut shared = Budgets::default();
    let burst = Class::Icmp.shared_rate().burst;
    assert!((0..burst).all(|_| charge_stranger(&mut shared, || None, Class::Icmp, 1 << 40)));
    assert!(!charge_stranger(&mut shared, || None, Class::Icmp, 1 << 40));
    assert!(charge_stranger(&mut shared, || None, Class::Ike, 1 << 40), "another class");
}

#[test]
fn spending_one_class_leaves_every_other_its_budget() {
    const NOW_NS: u64 = 1 << 40;
    for spent in Class::ALL {
        for other in Class::ALL.into_iter().filter(|other| *other != spent) {
            let mut shared = Budgets::default();
            while charge_stranger(&mut shared, || None, spent, NOW_NS) {}
            assert!(charge_stranger(&mut shared, || None, other, NOW_NS), "{spent:?}, then {other:?}");
        }
    }
}

#[test]
fn addresses_of_one_64_share_a_budget() {
    let mut filter = Filter::default();
    let burst = Class::Ike.stranger_rate().burst;
    let from = |network: u16, host: u32| {
        let [a, b] = [(host >> 16) as u16, host as u16];
        std::net::IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, a, b])
    };
    let admitted = |filter: &mut Filter, network| {
        (0..burst * 4).filter(|host| filter.admits(Class::Ike, from(network, *host), 1 << 40)).count()
    };
    assert_eq!(admitted(&mut filter, 1), burst as usize);
    assert_eq!(admitted(&mut filter, 2), burst as usize);
}

#[test]
fn subscribers_are_ipv4_addresses_and_ipv6_64s() {
    let text = |address: &str| address.parse::<std::net::Ipv6Addr>().expect("an address");
    for (address, subscriber) in [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
        ("2001:db8:1:3::", "2001:db8:1:3::"),
    ] {
        assert_eq!(Ipv6::from(text(address)).subscriber(), Ipv6::from(text(subscriber)));
    }
    let v4 = Ipv4 { octets: [198, 18, 0, 1] };
    assert_eq!(v4.subscriber(), Ipv6::from(text("::ffff:198.18.0.1")));
}

#[test]
fn packets_are_charged_to_their_class() {
    assert_eq!(Class::ALL.map(|class| class as usize), [0, 1, 2, 3]);
    assert_eq!(Class::ALL.len(), CLASSES);
    for (outer, known, class) in [
        (Outer::Ike, true, Some(Class::Ike)),
        (Outer::Ike, false, Some(Class::Ike)),
        (Outer::Esp(1), true, None),
        (Outer::Esp(1), false, Some(Class::UnknownSpi)),
        (Outer::Fragment, true, Some(Class::Fragment)),
        (Outer::PathMtu, true, Some(Class::Icmp)),
        (Outer::Neighbour, true, None),
        (Outer::Management, true, None),
    ] {
        assert_eq!(Class::of(outer, known), class, "{outer:?} known {known}");
    }
    // A stranger gets less than a peer, and all strangers together leave charon room to work.
    for class in Class::ALL {
        let (peer, stranger, all) = (class.peer_rate(), class.stranger_rate(), class.shared_rate());
        assert!(stranger.per_second <= peer.per_second && stranger.burst <= peer.burst, "{class:?}");
        assert!(stranger.per_second <= all.per_second && stranger.burst <= all.burst, "{class:?}");
        assert!(peer.interval_ns() > 0 && all.interval_ns() > 0);
    }
}

/// The budgets of senders on the LAN.
struct Neighbours {
    buckets: Vec<Bucket>,
    shared: Bucket,
    key: u64,
}

const NOW_NS: u64 = 1 << 40;
const SECOND_NS: u64 = 1_000_000_000;

impl Neighbours {
    fn new(key: u64) -> Self {
        Self { buckets: vec![Bucket::default(); NEIGHBOUR_BUCKETS], shared: Bucket::default(), key }
    }

    fn admits(&mut self, sender: Mac, anonymous: bool, now_ns: u64) -> bool {
        let numbers = neighbour_buckets(sender, self.key).map(|number| number as usize);
        let own = self.buckets.get_disjoint_mut(numbers).expect("two different buckets");
        charge_neighbour(own, &mut self.shared, anonymous, now_ns)
    }

    /// Returns how many of these frames, all at once, are within the budget.
    fn burst(&mut self, sender: Mac, anonymous: bool, frames: usize, now_ns: u64) -> usize {
        (0..frames).filter(|_| self.admits(sender, anonymous, now_ns)).count()
    }
}

/// Returns the MAC address of a number, as a cloud numbers its machines.
fn mac(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    Mac::new([0x02, 0x00, a, b, c, d])
}

#[test]
fn sender_on_the_lan_has_a_burst_of_40_and_20_a_second() {
    let mut neighbours = Neighbours::new(1 << 60 | 12_345);
    for anonymous in [false, true] {
        let sender = mac(u32::from(anonymous));
        assert_eq!(neighbours.burst(sender, anonymous, 1_000, NOW_NS), 40);
        assert_eq!(neighbours.burst(sender, anonymous, 1_000, NOW_NS + SECOND_NS), 20);
    }
}

/// A thousand at once for all; the sender's own comes first.
#[test]
fn senders_without_an_address_share_a_budget_that_none_can_empty_alone() {
    let mut neighbours = Neighbours::new(0x9e37_79b9_7f4a_7c15);
    assert_eq!(neighbours.burst(mac(0), true, 100_000, NOW_NS), 40);
    let others = (1..2_000).filter(|number| neighbours.admits(mac(*number), true, NOW_NS)).count();
    assert_eq!(others, 960);
    assert!((1_000..1_100).all(|number| neighbours.admits(mac(number), false, NOW_NS)), "servers do not");
}

/// A hundred servers flood. About two of a thousand others share both buckets with some of them: the square of
/// 200 in 4096.
#[test]
fn floods_of_other_servers_leave_a_sender_its_budget() {
    const KEYS: u64 = 200;
    let mut refused = 0;
    for number in 1..=KEYS {
        let mut neighbours = Neighbours::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..100).for_each(|flooder| _ = neighbours.burst(mac(flooder), false, 41, NOW_NS));
        let others = (100..1_100).filter(|number| !neighbours.admits(mac(*number), false, NOW_NS)).count();
        assert!(others <= 20, "{others} of 1,000 servers are refused");
        refused += others as u64;
    }
    assert!(refused <= 4 * KEYS, "{refused} of 1,000 servers are refused with {KEYS} keys");
}

#[test]
fn key_decides_which_senders_share_buckets() {
    let shared = |key: u64| {
        let buckets = |number| neighbour_buckets(mac(number), key);
        let [first, second] = buckets(0);
        assert!(first != second && (first.max(second) as usize) < NEIGHBOUR_BUCKETS);
        (1..20_000).filter(|number| buckets(*number).contains(&first)).collect::<Vec<_>>()
    };
    let [a, b] = [0x9e37_79b9_7f4a_7c15, 0x4cf5_ad43_2745_937f].map(shared);
    assert!(!a.is_empty() && !b.is_empty() && a != b, "{a:?} {b:?}");
}
