//! The usage of a customer and of a site equals its flows in the table, never exceeds its quota or share, and never
//! affects another customer or site.
use std::collections::HashMap;

use gateway_common::{
    layout::{Quota, Share, Usage},
    reason::Reason,
    tcp::{Flow, status},
    time::Ticks,
};
use proptest::{collection::vec, prelude::*, test_runner::TestCaseError};

use crate::{
    START_NS, often,
    packets::{Arrival, Hook, any_history, history},
    play_with_noise,
    world::{Key, World, reqid},
};

const TIGHT: Quota = Quota { flows: 3, half_open: 2, new_flow_interval_ns: 200_000_000, new_flow_burst: 3 };

fn world(quota: Quota) -> World {
    let mut world = World::new();
    world.tunnels.iter_mut().for_each(|tunnel| tunnel.quota = quota);
    world
}

/// Counts flows and half-open flows of each customer in the table.
fn counted(flows: &HashMap<Key, Flow>) -> HashMap<u32, (u32, u32)> {
    let mut counts: HashMap<u32, (u32, u32)> = (1..=3).map(|customer| (customer, (0, 0))).collect();
    for (key, flow) in flows {
        let count = counts.entry(key.customer).or_default();
        *count = (count.0 + 1, count.1 + u32::from(flow.has(status::HALF_OPEN)));
    }
    counts
}

fn check(world: &World, quota: Quota) -> Result<(), TestCaseError> {
    let taken: HashMap<u32, (u32, u32)> = world
        .usage
        .borrow()
        .iter()
        .map(|(customer, usage)| (*customer, (usage.flows, usage.half_open)))
        .collect();
    prop_assert_eq!(&taken, &counted(&world.flows.borrow()));
    for (customer, (flows, half_open)) in taken {
        prop_assert!(flows <= quota.flows && half_open <= quota.half_open, "customer {}", customer);
    }
    for (site, share) in &*world.shares.borrow() {
        let flows = world.flows.borrow();
        let own = || flows.values().filter(|flow| flow.tunnel == *site);
        let half_open = own().filter(|flow| flow.has(status::HALF_OPEN)).count() as u32;
        prop_assert_eq!((share.flows, share.half_open), (own().count() as u32, half_open), "site {}", site);
        let most = world.tunnels[*site as usize].share;
        prop_assert!(share.flows <= most.flows && share.half_open <= most.half_open, "site {}", site);
    }
    Ok(())
}

/// Removes expired flows, as the wheel does.
fn expire(world: &World, now_ns: u64) {
    let (mut usage, mut shares) = (world.usage.borrow_mut(), world.shares.borrow_mut());
    world.flows.borrow_mut().retain(|key, flow| {
        let over = flow.is_over(Ticks::from_ns(now_ns));
        if over {
            let usage: &mut Usage = usage.get_mut(&key.customer).expect("customers stay");
            let half_open = u32::from(flow.has(status::HALF_OPEN));
            usage.give_back(1, half_open);
            let share: &mut Usage = shares.get_mut(&flow.tunnel).expect("sites stay");
            share.give_back_share(key.customer, 1, half_open);
        }
        !over
    });
}

/// Generates packets, and for each whether expired flows are removed before it.
fn with_expiry(arrivals: BoxedStrategy<Vec<Arrival>>) -> impl Strategy<Value = (Vec<Arrival>, Vec<bool>)> {
    (arrivals, vec(proptest::bool::weighted(0.2), 100))
}

#[test]
fn usage_equals_the_table_and_never_exceeds_the_quota() {
    let seen = std::cell::RefCell::new(HashMap::<u8, u64>::new());
    let limits = (1..=4usize, 1..=3u32, 1..=3u32, 0..2u32);
    often(
        1_500,
        20_000,
        (with_expiry(any_history(1..80)), limits),
        |((arrivals, expiries), limits), noted| {
            let (flow_limit, flows, half_open, adopt_midstream) = limits;
            let quota = Quota { flows, half_open, ..TIGHT };
            let mut world = World { flow_limit, ..world(quota) };
            world.settings.adopt_midstream = adopt_midstream;
            let (mut now_ns, mut expiries) = (START_NS, expiries.iter().cycle());
            for arrival in &arrivals {
                now_ns += arrival.after_ms * 1_000_000;
                if expiries.next() == Some(&true) {
                    expire(&world, now_ns);
                    check(&world, quota)?;
                }
                let decision = arrival.judge(&world, now_ns);
                check(&world, quota)?;
                noted();
                if let Err(reason) = decision.verdict {
                    *seen.borrow_mut().entry(reason as u8).or_default() += 1;
                }
            }
            Ok(())
        },
    );
    use Reason::{FlowQuotaExceeded, FlowTableFull, HalfOpenQuotaExceeded, NewFlowsOverBudget};
    for reason in [FlowQuotaExceeded, HalfOpenQuotaExceeded, NewFlowsOverBudget, FlowTableFull] {
        let times = seen.borrow().get(&(reason as u8)).copied().unwrap_or(0);
        assert!(times >= 100, "{reason:?} only {times} times");
    }
}

/// Acme's two sites change places now and then, with their prefixes and tunnels, and all connections are over with it:
/// later ones take their places, out of another site's share.
#[test]
fn usage_of_shares_equals_the_table_while_prefixes_move() {
    let seen = std::cell::RefCell::new(HashMap::<u8, u64>::new());
    let limits = (1..=3u32, 1..=2u32, 0..2u32);
    let moved = std::cell::Cell::new(0);
    often(
        1_500,
        20_000,
        (with_expiry(any_history(1..80)), vec(proptest::bool::weighted(0.1), 100), limits),
        |((arrivals, expiries), moves, (flows, half_open, adopt_midstream)), noted| {
            let quota =
                Quota { flows: 4, half_open: 3, new_flow_interval_ns: 100_000_000, new_flow_burst: 5 };
            let mut world = world(quota);
            world.settings.adopt_midstream = adopt_midstream;
            world.tunnels.iter_mut().for_each(|tunnel| tunnel.share = Share { flows, half_open });
            let (mut now_ns, mut expiries, mut moves) =
                (START_NS, expiries.iter().cycle(), moves.iter().cycle());
            for arrival in &arrivals {
                now_ns += arrival.after_ms * 1_000_000;
                if moves.next() == Some(&true) {
                    let [_, a, b, ..] = &mut world.tunnels[..] else { unreachable!("acme has two sites") };
                    std::mem::swap(&mut a.v4.lan, &mut b.v4.lan);
                    std::mem::swap(&mut a.v6.lan, &mut b.v6.lan);
                    for site in [1, 2] {
                        let binding = world.bindings.get_mut(&reqid(site)).expect("both are bound");
                        binding.site = 3 - binding.site;
                    }
                    (a.generation, b.generation) = (a.generation + 1, b.generation + 1);
                }
                if expiries.next() == Some(&true) {
                    expire(&world, now_ns);
                    check(&world, quota)?;
                }
                let owners = |world: &World| -> HashMap<Key, u32> {
                    world.flows.borrow().iter().map(|(key, flow)| (*key, flow.tunnel)).collect()
                };
                let before = owners(&world);
                let decision = arrival.judge(&world, now_ns);
                check(&world, quota)?;
                noted();
                let changed =
                    owners(&world).iter().any(|(key, site)| before.get(key).is_some_and(|s| s != site));
                moved.set(moved.get() + u32::from(changed));
                if let Err(reason) = decision.verdict {
                    *seen.borrow_mut().entry(reason as u8).or_default() += 1;
                }
            }
            Ok(())
        },
    );
    use Reason::{
        FlowQuotaExceeded, SiteFlowQuotaExceeded, SiteHalfOpenQuotaExceeded, SiteNewFlowsOverBudget,
    };
    for reason in
        [FlowQuotaExceeded, SiteFlowQuotaExceeded, SiteHalfOpenQuotaExceeded, SiteNewFlowsOverBudget]
    {
        let times = seen.borrow().get(&(reason as u8)).copied().unwrap_or(0);
        assert!(times >= 20, "{reason:?} only {times} times");
    }
    assert!(moved.get() >= 20, "only {} flows took the place of another site's", moved.get());
}

/// A site that floods, beside another of the same customer: their shares fit the quota.
#[test]
fn share_of_one_site_does_not_affect_another() {
    let (noise, quiet) = (history(&[1], 20..60), history(&[2], 1..30));
    let order = vec(any::<bool>(), 80);
    let quota = Quota { flows: 6, half_open: 4, new_flow_interval_ns: 0, new_flow_burst: 1 };
    let share = Share { flows: 3, half_open: 2 };
    let shared = || {
        let mut world = world(quota);
        world.tunnels.iter_mut().for_each(|tunnel| tunnel.share = share);
        world
    };
    often(500, 1_000, (noise, quiet, order), |(noise, quiet, order), noted| {
        // A server's packets may end any site's connections.
        let noise: Vec<_> =
            noise.into_iter().filter(|arrival| matches!(arrival.hook, Hook::Site(_))).collect();
        let (alone, beside) = (shared(), shared());
        play_with_noise([&alone, &beside], &quiet, &noise, &order, |alone, now| {
            // The server may answer the other site, too, if that has a connection.
            if now.tunnel != 1 {
                prop_assert_eq!(alone, now);
            }
            let full = beside.shares.borrow()[&1];
            if full.flows >= share.flows || full.half_open >= share.half_open {
                noted();
            }
            Ok(())
        })
    });
}

/// A quota applies to new flows only, so packets of existing connections get the same verdicts with and
/// without a tight quota.
#[test]
fn full_quota_leaves_established_connections_alone() {
    let histories = history(&[1, 2, 3, 4], 1..60);
    often(1_000, 2_000, histories, |arrivals, noted| {
        let (tight, plenty) = (world(Quota { flows: 1, ..TIGHT }), World::new());
        let mut now_ns = START_NS;
        for arrival in &arrivals {
            now_ns += arrival.after_ms * 1_000_000;
            // Forget flows that only the world without a tight quota let in.
            plenty.flows.borrow_mut().retain(|key, _| tight.flows.borrow().contains_key(key));
            let (ours, theirs) = (arrival.judge(&tight, now_ns), arrival.judge(&plenty, now_ns));
            let over_quota = [
                Err(Reason::FlowQuotaExceeded),
                Err(Reason::HalfOpenQuotaExceeded),
                Err(Reason::NewFlowsOverBudget),
            ];
            if over_quota.contains(&ours.verdict) {
                prop_assert!(theirs.opened);
                // Expired in both worlds: from here on only one would have a new connection in its place.
                if !tight.flows.borrow().is_empty() {
                    *plenty.flows.borrow_mut() = tight.flows.borrow().clone();
                }
                continue;
            }
            prop_assert_eq!(ours, theirs);
            if !ours.opened && ours.verdict.is_ok() {
                noted();
            }
        }
        Ok(())
    });
}

/// The noisy neighbour with its quota exhausted all the time: acme's usage does not count against globex.
#[test]
fn quota_of_one_customer_does_not_affect_another() {
    let (noise, quiet) = (history(&[1, 2], 20..60), history(&[3], 1..30));
    let order = vec(any::<bool>(), 80);
    often(500, 1_000, (noise, quiet, order), |(noise, quiet, order), noted| {
        let (alone, beside) = (world(TIGHT), world(TIGHT));
        play_with_noise([&alone, &beside], &quiet, &noise, &order, |ours, theirs| {
            prop_assert_eq!(ours, theirs);
            let full = beside.usage.borrow()[&1];
            if full.flows >= TIGHT.flows || full.half_open >= TIGHT.half_open {
                noted();
            }
            Ok(())
        })
    });
}
