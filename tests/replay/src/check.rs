//! Runs a case and compares the results with the expected ones.
use std::fmt::Write;

use anyhow::{Context, Result};
use gateway_common::{
    layout::DropEvent,
    reason::Reason,
    tcp::{Flow, status},
    time::Ticks,
    wire::Ipv6,
};
use gateway_tests_kit::{
    flow::FlowId,
    world::{World, customer_name},
};

use crate::{
    case::{Case, Event, Expire, Input, Step},
    describe,
    expect::{Counter, Verdict, action_name, flow_line},
    machine::{Machine, Output, State},
    sequence::Sequences,
};

/// Start of every case on CLOCK_MONOTONIC: at the beginning of a tick, and not at zero, where unset times
/// would look right.
const START_NS: u64 = Ticks { ticks: 1_000_000 }.as_ns();

/// Runs a case on a machine that others may have used. Returns `Ok(Err(text))` if something was not as
/// expected.
pub fn run(case: &Case, machine: &mut Machine) -> Result<Result<(), String>> {
    let mut world = World::usual();
    case.world.apply(&mut world)?;
    machine.reset(&world)?;
    let mut sequences = Sequences::default();
    let mut at_ms = 0;
    for (number, event) in case.steps.iter().enumerate() {
        let number = number + 1;
        at_ms = match event {
            Event::Packet(step) => step.at_ms,
            Event::Expire(step) => step.at_ms,
        }
        .unwrap_or(at_ms);
        let now_ns = START_NS + at_ms * 1_000_000;
        machine.set_time(now_ns)?;
        let (which, faults) = match event {
            Event::Packet(step) => {
                let step = sequences.complete(step).with_context(|| format!("step {number}"))?;
                let which = format!("step {number} ({})", step.packet);
                step.world.apply(&mut world).with_context(|| which.clone())?;
                machine.change(&world).with_context(|| which.clone())?;
                let faults = run_step(&step, machine, &world, now_ns).with_context(|| which.clone())?;
                (which, faults)
            }
            Event::Expire(step) => {
                let which = format!("step {number} (expire)");
                let faults = run_expire(step, machine).with_context(|| which.clone())?;
                (which, faults)
            }
        };
        if !faults.is_empty() {
            return Ok(Err(format!("{which} at {at_ms} ms:\n{faults}")));
        }
    }
    Ok(Ok(()))
}

fn run_step(step: &Step, machine: &mut Machine, world: &World, now_ns: u64) -> Result<String> {
    if let Some(flow) = &step.ending {
        let (customer, device) = flow.split_once(' ').context("`ending` is `CUSTOMER DEVICE:PORT`")?;
        machine.end_flow(&FlowId::parse(customer, device)?)?;
    }
    let input = step.input()?;
    let before = machine.state()?;
    let mut faults = String::new();
    let mut last = (String::new(), input, step.output()?);
    for number in 0..step.repeat {
        let repeated = step.repetition(number)?;
        if repeated.packet != last.0 {
            last = (repeated.packet.clone(), repeated.input()?, repeated.output()?);
        }
        let output = machine.run(&last.1)?;
        compare_output(step, &last.1, &last.2, &output, &mut faults);
    }
    let input = step.input()?;
    let after = machine.state()?;
    compare_counters(step, &input, &before, &after, &mut faults)?;
    compare_events(step, &input, &machine.events()?, now_ns, &mut faults)?;
    compare_flows(step, &before, &after, &mut faults)?;
    compare_usage(&after, &mut faults);
    compare_shares(&after, &mut faults);
    if after.world != *world {
        let _ = writeln!(faults, "the programs changed maps that only gatewayd writes: {:?}", after.world);
    }
    Ok(faults)
}

fn run_expire(step: &Expire, machine: &mut Machine) -> Result<String> {
    let before = machine.state()?;
    let mut faults = String::new();
    machine.turn_wheels()?;
    let after = machine.state()?;
    let as_expected = after.flows.len() == step.flows.len()
        && after.flows.iter().all(|(id, flow)| {
            before.flows.get(id) == Some(flow)
                && step.flows.iter().any(|line| line.describes(id, flow, START_NS))
        });
    if !as_expected {
        let expected: Vec<&str> = step.flows.iter().map(|line| line.text.as_str()).collect();
        let _ = writeln!(faults, "expected the flows {expected:#?}, seen {:#?}", lines(&after));
    }
    if before.counters != after.counters || before.world != after.world || !machine.events()?.is_empty() {
        let _ = writeln!(faults, "the wheels changed counters, wrote events or changed gatewayd's maps");
    }
    compare_usage(&after, &mut faults);
    compare_shares(&after, &mut faults);
    Ok(faults)
}

fn compare_output(step: &Step, input: &Input, expected: &[u8], output: &Output, faults: &mut String) {
    let hook = input.hook;
    let action = step.verdict.action(hook);
    if output.action != action {
        let seen = action_name(output.action, hook);
        let _ = writeln!(faults, "expected {:?}, {}; seen {seen}", step.verdict, action_name(action, hook));
    }
    if output.frame != expected {
        let _ = write!(faults, "the bytes differ:\n{}", describe::difference(expected, &output.frame));
    }
    let mark = step.verdict.mark(input.identity[2]);
    if let Some(seen) = output.mark
        && seen != mark
    {
        let _ = writeln!(faults, "expected the mark {mark:#x}; seen {seen:#x}");
    }
}

fn compare_counters(
    step: &Step,
    input: &Input,
    before: &State,
    after: &State,
    faults: &mut String,
) -> Result<()> {
    let whose = step.counts.customer;
    let changes = step.counts.changes(step.verdict, input.packet_bytes())?;
    let expected = |key: &(u32, Counter)| if key.0 == whose { changes.get(&key.1).copied() } else { None };
    let named = changes.keys().map(|counter| (whose, *counter));
    let mut keys: Vec<(u32, Counter)> = named.chain(after.counters.keys().copied()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let of = |state: &State| state.counters.get(&key).copied().unwrap_or(0);
        let (wanted, seen) = (expected(&key).unwrap_or(0), of(after).wrapping_sub(of(before)));
        if wanted != seen {
            let counter = match key.1 {
                Counter::Dropped(reason) => format!("dropped {}", reason.name()),
                other => format!("{other:?}"),
            };
            let _ = writeln!(
                faults,
                "counter {} of {}: expected to grow by {wanted}, grew by {seen}",
                counter,
                customer_name(key.0)
            );
        }
    }
    Ok(())
}

/// Checks that each drop not counted as lost wrote one event, and that the event describes the packet.
fn compare_events(
    step: &Step,
    input: &Input,
    events: &[DropEvent],
    now_ns: u64,
    faults: &mut String,
) -> Result<()> {
    let changes = step.counts.changes(step.verdict, input.packet_bytes())?;
    let sum = |wanted: fn(&Counter) -> bool| -> u64 {
        changes.iter().filter(|(counter, _)| wanted(counter)).map(|(_, by)| by).sum()
    };
    let wanted =
        sum(|counter| matches!(counter, Counter::Dropped(_))) - sum(|counter| *counter == Counter::Lost);
    if events.len() as u64 != wanted {
        let _ = writeln!(faults, "expected {wanted} drop events, seen {}: {events:?}", events.len());
    }
    if let Verdict::Drop(reason) = step.verdict {
        let mut expected = event(step, input, reason, now_ns);
        for event in events {
            if step.source_step.is_some() {
                // Any of the sources will do.
                expected.source = event.source;
            }
            if *event == expected {
                continue;
            }
            let _ = writeln!(faults, "drop event: expected {expected:?}\n                seen {event:?}");
        }
    }
    Ok(())
}

/// Returns the expected event, read from the frame.
fn event(step: &Step, input: &Input, reason: Reason, time_ns: u64) -> DropEvent {
    let mut event = DropEvent {
        time_ns,
        customer: step.counts.customer,
        tunnel: step.counts.tunnel,
        source: Ipv6::default(),
        destination: Ipv6::default(),
        source_port: 0,
        destination_port: 0,
        length: input.frame.len() as u32,
        protocol: 0,
        reason: reason as u8,
        hook: input.hook as u8,
        tcp_flags: 0,
        _reserved: 0,
    };
    if let Some(addresses) = describe::arp(&input.frame) {
        [event.source, event.destination] = addresses.map(Ipv6::from);
    }
    let Some(seen) = describe::packet(&input.frame) else { return event };
    (event.source, event.destination) = (seen.source.into(), seen.destination.into());
    event.protocol = seen.protocol;
    if matches!(seen.protocol, 6 | 17) && !seen.later {
        if let Some([a, b, c, d]) = seen.payload.first_chunk() {
            event.source_port = u16::from_be_bytes([*a, *b]);
            event.destination_port = u16::from_be_bytes([*c, *d]);
        }
        if seen.protocol == 6 && seen.payload.len() >= 20 {
            event.tcp_flags = seen.payload[13];
        }
    }
    event
}

fn lines(state: &State) -> Vec<String> {
    state.flows.iter().map(|(id, flow)| flow_line(id, flow, START_NS)).collect()
}

fn compare_flows(step: &Step, before: &State, after: &State, faults: &mut String) -> Result<()> {
    let changed: Vec<(Option<&Flow>, &Flow)> = after
        .flows
        .iter()
        .map(|(id, flow)| (before.flows.get(id), flow))
        .filter(|(old, flow)| *old != Some(*flow))
        .collect();
    if let Some(expected) = &step.flows {
        let unlike = expected.len() != after.flows.len()
            || !after
                .flows
                .iter()
                .all(|(id, flow)| expected.iter().any(|line| line.describes(id, flow, START_NS)));
        if unlike {
            let expected: Vec<&str> = expected.iter().map(|line| line.text.as_str()).collect();
            let _ = writeln!(faults, "expected the flows {expected:#?}, seen {:#?}", lines(after));
        }
    }
    let fine = match step.verdict {
        Verdict::Pass | Verdict::Answer => changed.is_empty(),
        Verdict::Drop(reason) => {
            changed.iter().all(|(old, new)| old.is_some_and(|old| may_change(reason, old, new)))
        }
        // A flow is opened, or an existing one continues, perhaps with an unchanged timeout.
        Verdict::ToServer | Verdict::ToTunnel(_) if step.source_step.is_some() => true,
        Verdict::ToServer | Verdict::ToTunnel(_) => match (&changed[..], step.counts.opens()) {
            ([], opens) => !opens,
            ([(old, _)], opens) => old.is_some() || opens,
            _ => false,
        },
    };
    if !fine || before.flows.len() > after.flows.len() {
        let _ = writeln!(
            faults,
            "{:?} must not change flows like this:\n  before {:#?}\n  after {:#?}",
            step.verdict,
            lines(before),
            lines(after)
        );
    }
    Ok(())
}

/// Checks that each customer's usage equals a count over the flows.
fn compare_usage(state: &State, faults: &mut String) {
    for (customer, taken) in &state.usage {
        let own = || state.flows.iter().filter(|(id, _)| id.customer == *customer);
        let half_open = own().filter(|(_, flow)| flow.has(status::HALF_OPEN)).count();
        let counted = [own().count() as u32, half_open as u32];
        if *taken != counted {
            let name = customer_name(*customer);
            let _ = writeln!(
                faults,
                "usage of {name}: [flows, half-open] is {taken:?}, but the maps hold {counted:?}"
            );
        }
    }
}

/// Checks that each site's share equals a count over the flows that its customer charged to it.
fn compare_shares(state: &State, faults: &mut String) {
    for (site, [customer, flows, half_open]) in &state.shares {
        let own = || state.flows.iter().filter(|(id, flow)| id.customer == *customer && flow.tunnel == *site);
        let counted = [own().count(), own().filter(|(_, flow)| flow.has(status::HALF_OPEN)).count()];
        if [*flows as usize, *half_open as usize] != counted {
            let _ = writeln!(
                faults,
                "share of site {site}: [flows, half-open] is [{flows}, {half_open}], but the maps hold {counted:?}"
            );
        }
    }
}

/// Returns true if a packet dropped for this reason may change a flow from `old` to `new`.
fn may_change(reason: Reason, old: &Flow, new: &Flow) -> bool {
    let mut allowed = *old;
    if reason == Reason::OutOfWindow {
        // nf_conntrack, too, keeps what it noted of a segment before refusing it (`tcp_in_window`), and may
        // shorten the connection's timeout, never extend it (`nf_tcp_handle_invalid`).
        let Flow { peers, scales, flags, ignored, .. } = *new;
        let last = old.last & 0xf0 | new.last & 0x0f;
        allowed = Flow { peers, scales, flags, ignored, last, ..allowed };
        if new.expires < old.expires {
            allowed.expires = new.expires;
        }
    }
    allowed == *new
}
