//! Properties of the decision, on random packets and random histories.
mod bindings;
mod packets;
mod quotas;
mod seen;
mod world;

use std::{cell::Cell, collections::HashMap, net::IpAddr};

use gateway_common::{
    decide::{Decision, Identity},
    packet::flag,
    reason::Reason,
    tcp::{DOUBTFUL_TIMEOUT_SECONDS, Flow, State, peer_flag, status},
    time::Ticks,
};
use packets::{Arrival, Hook, any_arrival, any_history, history};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{FileFailurePersistence::Direct, TestCaseError, TestRunner},
};
use seen::{Content, Seen, seen};
use world::{Key, SITES, World, from_server, from_site, mark, reqid, server, transport};

/// Half a minute before the flows' ticks wrap.
const START_NS: u64 = (1 << 52) - 30_000_000_000;

/// Seeds that once failed, tried again in each run. proptest creates the file at the first failure.
const REGRESSIONS: &str = "tests/decision/regressions";

/// Runs a property. Fails also if the property judged fewer than `at_least` interesting cases.
fn often<S: Strategy>(
    cases: u32,
    at_least: u64,
    strategy: S,
    property: impl Fn(S::Value, &dyn Fn()) -> Result<(), TestCaseError>,
) {
    let interesting = Cell::new(0u64);
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: Some(Box::new(Direct(REGRESSIONS))),
        ..ProptestConfig::with_cases(cases)
    });
    let noted = || interesting.set(interesting.get() + 1);
    runner.run(&strategy, |value| property(value, &noted)).unwrap_or_else(|error| panic!("{error}"));
    println!("{} interesting cases", interesting.get());
    assert!(interesting.get() >= at_least, "only {} interesting cases of {at_least}", interesting.get());
}

/// Returns true if an address is in the LAN of a tunnel's site, by comparing leading bits.
fn in_lan(tunnel: u32, address: IpAddr) -> bool {
    let site = &SITES[tunnel as usize - 1];
    match address {
        IpAddr::V4(address) => {
            (u32::from(address) ^ u32::from(site.v4.0)).leading_zeros() >= u32::from(site.v4.1)
        }
        IpAddr::V6(address) => {
            (u128::from(address) ^ u128::from(site.v6.0)).leading_zeros() >= u32::from(site.v6.1)
        }
    }
}

type Flows = HashMap<Key, Flow>;

/// Returns true if the connection exists and is alive.
fn lives(flows: &Flows, customer: u32, (device, port): (IpAddr, u16), tunnel: u32, now_ns: u64) -> bool {
    flows
        .get(&Key { customer, device, port })
        .is_some_and(|flow| flow.tunnel == tunnel && !flow.is_over(Ticks::from_ns(now_ns)))
}

fn check_to_server(
    arrival: &Arrival,
    world: &World,
    before: &Flows,
    now_ns: u64,
    tunnel: u32,
) -> Result<(), TestCaseError> {
    let Hook::Site(identity) = arrival.hook else {
        return Err(TestCaseError::fail("a packet from a server went to a server"));
    };
    prop_assert_eq!((identity.reqid, identity.mark), (reqid(tunnel), mark(tunnel)));
    prop_assert!(world.inbound_spis.get(&identity.spi).is_none_or(|owner| *owner == mark(tunnel)));
    prop_assert_eq!(world.tunnels[tunnel as usize].up, 1);
    let seen = seen(&arrival.frame);
    prop_assert!(seen.is_some(), "etherparse rejects a packet that passed");
    let Seen { addresses: [source, destination], hop_limit, content } = seen.unwrap();
    let customer = SITES[tunnel as usize - 1].customer;
    prop_assert!(in_lan(tunnel, source), "source {}", source);
    prop_assert_eq!(destination, server(customer, destination.is_ipv6()));
    prop_assert!(hop_limit > 1);
    match content {
        Content::Tcp([_, port]) => prop_assert_eq!(port, 80),
        Content::TooBig([from, to]) => {
            prop_assert_eq!(from, (destination, 80));
            prop_assert!(lives(before, customer, to, tunnel, now_ns), "about {:?}", to);
        }
    }
    Ok(())
}

#[test]
fn arbitrary_bytes_never_panic_and_open_nothing_without_an_up_tunnel() {
    let bytes = vec(any::<u8>(), 0..120);
    let identity =
        (0..6u32, any::<u32>(), 0..6u32).prop_map(|(reqid, spi, mark)| Identity { reqid, spi, mark });
    often(5_000, 5_000, (bytes, identity, any::<u64>()), |(bytes, identity, now_ns), noted| {
        let mut world = World::new();
        world.tunnels.iter_mut().for_each(|tunnel| tunnel.up = 0);
        noted();
        let site = from_site(&bytes[..], &world, identity, now_ns);
        let server = from_server(&bytes[..], &world, now_ns);
        prop_assert!(site.verdict.is_err());
        prop_assert!(server.verdict.is_err());
        prop_assert!(world.flows.borrow().is_empty());
        Ok(())
    });
}

#[test]
fn nothing_passes_before_the_settings_are_ready() {
    often(1_000, 1_000, any_arrival(), |arrival, noted| {
        let mut world = World::new();
        world.settings.ready = 0;
        noted();
        prop_assert_eq!(arrival.judge(&world, START_NS).verdict, Err(Reason::NotConfigured));
        Ok(())
    });
}

/// Runs packets one after another. `each` gets the flows before the packet, the packet, the time and the
/// decision.
fn play(
    world: &World,
    arrivals: &[Arrival],
    mut each: impl FnMut(&Flows, &Arrival, u64, Decision) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut now_ns = START_NS;
    for arrival in arrivals {
        now_ns += arrival.after_ms * 1_000_000;
        let before = world.flows.borrow().clone();
        let decision = arrival.judge(world, now_ns);
        each(&before, arrival, now_ns, decision)?;
    }
    Ok(())
}

/// Runs the quiet packets in two worlds, in the second among the noise, which comes where `order` is true. `each`
/// gets both decisions.
fn play_with_noise(
    [alone, beside]: [&World; 2],
    quiet: &[Arrival],
    noise: &[Arrival],
    order: &[bool],
    mut each: impl FnMut(Decision, Decision) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (mut noise, mut order) = (noise.iter(), order.iter());
    let mut now_ns = START_NS;
    for arrival in quiet {
        now_ns += arrival.after_ms * 1_000_000;
        while order.next() == Some(&true) {
            if let Some(noise) = noise.next() {
                let _ = noise.judge(beside, now_ns);
            }
        }
        each(arrival.judge(alone, now_ns), arrival.judge(beside, now_ns))?;
    }
    Ok(())
}

#[test]
fn only_tcp_of_the_sites_lan_to_its_own_server_goes_to_a_server() {
    often(500, 1_500, any_history(1..40), |arrivals, noted| {
        let world = World::new();
        play(&world, &arrivals, |before, arrival, now_ns, decision| match (arrival.hook, decision.verdict) {
            (Hook::Site(_), Ok(())) => {
                noted();
                prop_assert_eq!(decision.customer, SITES[decision.tunnel as usize - 1].customer);
                check_to_server(arrival, &world, before, now_ns, decision.tunnel)
            }
            _ => Ok(()),
        })
    });
}

#[test]
fn a_server_answers_only_on_flows_that_a_site_opened_and_into_their_tunnel() {
    // Counts replies next to a complete handshake, to prove that the packets get that far.
    let established = Cell::new(0u64);
    let about_replies = Cell::new(0u64);
    often(500, 1_000, (any_history(1..60), 0..2u32), |(arrivals, adopt_midstream), noted| {
        let mut world = World::new();
        world.settings.adopt_midstream = adopt_midstream;
        // The tunnel that opened each connection last, by server and device with their ports.
        let mut opened = HashMap::new();
        play(&world, &arrivals, |before, arrival, now_ns, decision| {
            match (arrival.hook, decision.verdict) {
                (Hook::Site(_), Ok(())) if decision.opened => {
                    let seen = seen(&arrival.frame).expect("checked elsewhere");
                    let Content::Tcp([from, to]) = seen.content else {
                        return Err(TestCaseError::fail("a path-MTU message opened a flow"));
                    };
                    let [source, destination] = seen.addresses;
                    opened.insert(((destination, to), (source, from)), decision.tunnel);
                }
                (Hook::Server, Ok(())) => {
                    noted();
                    let assured = |flow: &Flow| flow.has(status::ASSURED);
                    if adopt_midstream == 0 && world.flows.borrow().values().any(assured) {
                        established.set(established.get() + 1);
                    }
                    prop_assert_eq!(arrival.hook, Hook::Server);
                    let seen = seen(&arrival.frame);
                    prop_assert!(seen.is_some(), "etherparse rejects a packet that passed");
                    let Seen { addresses: [source, destination], hop_limit, content } = seen.unwrap();
                    prop_assert!(hop_limit > 1 && !decision.opened);
                    let connection = match content {
                        Content::Tcp([from, to]) => ((source, from), (destination, to)),
                        Content::TooBig([from, to]) => {
                            about_replies.set(about_replies.get() + 1);
                            prop_assert_eq!((from.0, to.0), (destination, source));
                            prop_assert!(lives(before, decision.customer, from, decision.tunnel, now_ns));
                            (to, from)
                        }
                    };
                    prop_assert_eq!(opened.get(&connection), Some(&decision.tunnel));
                }
                _ => {}
            }
            Ok(())
        })
    });
    println!("{} path-MTU messages", about_replies.get());
    assert!(about_replies.get() >= 10, "only {} path-MTU messages", about_replies.get());
    println!("{} replies next to established connections", established.get());
    assert!(established.get() >= 300, "only {} replies next to established connections", established.get());
}

#[test]
fn flows_never_outlive_their_timeout() {
    often(1_500, 60, any_history(1..60), |arrivals, noted| {
        let world = World::new();
        play(&world, &arrivals, |before, arrival, now_ns, decision| {
            for (key, flow) in world.flows.borrow().iter() {
                let old = before.get(key);
                if old == Some(flow) {
                    continue;
                }
                // This packet touched the flow.
                let state = State::from_number(flow.state());
                prop_assert!(state.is_some());
                let now = Ticks::from_ns(now_ns);
                let left = flow.expires.since(now);
                prop_assert!(left <= Ticks::from_seconds(state.unwrap().default_timeout_seconds()));
                let doubtful = flow.retransmissions() >= 3
                    || (flow.flags[0] | flow.flags[1]) & peer_flag::UNACKNOWLEDGED != 0;
                if doubtful && old.is_none_or(|old| old.expires != flow.expires) {
                    prop_assert!(left <= Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS));
                }
                if old.is_some_and(|old| old.expires.has_come(now)) {
                    noted();
                    prop_assert!(decision.opened, "an expired flow was revived by {:?}", arrival);
                    prop_assert_eq!(flow.state(), State::SynSent as u8);
                }
            }
            Ok(())
        })
    });
}

#[test]
fn flow_reset_before_any_answer_is_dead_at_once() {
    often(3_000, 50, any_history(1..40), |arrivals, noted| {
        let world = World::new();
        play(&world, &arrivals, |before, arrival, now_ns, decision| {
            let passes = decision.verdict.is_ok();
            let Some(Seen { addresses, content: Content::Tcp(_), .. }) = seen(&arrival.frame) else {
                return Ok(());
            };
            if !passes || arrival.frame[transport(addresses[0]) + 13] & flag::RST == 0 {
                return Ok(());
            }
            for (key, flow) in world.flows.borrow().iter() {
                let closed = |state: u8| state == State::Close as u8;
                if let Some(old) = before.get(key)
                    && !old.has(status::REPLY_SEEN)
                    && !closed(old.state())
                    && closed(flow.state())
                {
                    noted();
                    prop_assert!(flow.expires.has_come(Ticks::from_ns(now_ns)), "{:?}", flow);
                }
            }
            Ok(())
        })
    });
}

/// nf_conntrack learns from some packets outside the windows (`tcp_in_window`, `nf_tcp_handle_invalid`), but
/// nothing that benefits the connection or the sender.
#[test]
fn dropped_packet_benefits_no_flow() {
    let out_of_window = Cell::new(0u64);
    often(1_000, 1_000, any_history(1..60), |arrivals, noted| {
        let world = World::new();
        play(&world, &arrivals, |before, _, now_ns, decision| {
            let Err(reason) = decision.verdict else { return Ok(()) };
            noted();
            prop_assert!(!decision.opened && decision.syn().is_none() && decision.bytes == 0);
            let after = world.flows.borrow();
            if reason != Reason::OutOfWindow {
                prop_assert_eq!(&*after, before);
                return Ok(());
            }
            out_of_window.set(out_of_window.get() + 1);
            prop_assert_eq!(after.len(), before.len());
            let now = Ticks::from_ns(now_ns);
            for (key, flow) in after.iter() {
                let old = before.get(key);
                prop_assert!(old.is_some());
                let old = old.unwrap();
                prop_assert_eq!(
                    (flow.tunnel, flow.generation, flow.state, flow.last >> 4),
                    (old.tunnel, old.generation, old.state, old.last >> 4)
                );
                prop_assert!(flow.expires.since(now) <= old.expires.since(now));
            }
            Ok(())
        })
    });
    println!("{} out of window", out_of_window.get());
    assert!(out_of_window.get() >= 400, "only {} out of window", out_of_window.get());
}

#[test]
fn tunnels_that_are_down_carry_nothing() {
    let down = vec((any_arrival(), proptest::option::weighted(0.2, (1..5usize, any::<bool>()))), 1..60);
    often(300, 300, down, |arrivals, noted| {
        let mut world = World::new();
        let mut now_ns = START_NS;
        for (arrival, change) in arrivals {
            if let Some((tunnel, up)) = change {
                world.tunnels[tunnel].up = u8::from(up);
            }
            now_ns += arrival.after_ms * 1_000_000;
            let decision = arrival.judge(&world, now_ns);
            if decision.verdict.is_ok() {
                noted();
                prop_assert_eq!(world.tunnels[decision.tunnel as usize].up, 1);
            }
        }
        Ok(())
    });
}

/// The noisy neighbour: globex, with the same LAN, gets the same verdicts whether or not acme and its server
/// send.
#[test]
fn no_packet_of_one_customer_changes_a_verdict_for_another() {
    let noise = history(&[1, 2], 0..40);
    let quiet = history(&[3], 1..40);
    let order = vec(any::<bool>(), 80);
    often(500, 2_000, (noise, quiet, order), |(noise, quiet, order), noted| {
        let (alone, beside) = (World::new(), World::new());
        play_with_noise([&alone, &beside], &quiet, &noise, &order, |alone, beside| {
            prop_assert_eq!(alone, beside);
            if alone.verdict.is_ok() {
                noted();
            }
            Ok(())
        })
    });
}

#[test]
fn a_full_table_opens_nothing_and_keeps_what_it_has() {
    often(1_000, 1_000, any_history(1..60), |arrivals, noted| {
        let world = World { flow_limit: 2, ..World::new() };
        play(&world, &arrivals, |before, _, _, decision| {
            let after = world.flows.borrow();
            let (v4, v6): (Vec<&Key>, Vec<&Key>) = after.keys().partition(|key| key.device.is_ipv4());
            prop_assert!(v4.len() <= 2 && v6.len() <= 2);
            if decision.verdict == Err(Reason::FlowTableFull) {
                noted();
                prop_assert_eq!(&*after, before);
            }
            Ok(())
        })
    });
}
