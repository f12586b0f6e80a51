//! Runs a case and compares.
use std::fmt::Write;

use anyhow::{Context, Result};
use gateway_common::{
    layout::{DropEvent, Flow, FlowKey, Hook, Ticks},
    reason::Reason,
    wire::Ipv4,
};

use super::{
    case::{Case, Input, Step},
    describe,
    expect::{Counter, Verdict, action_name, flow_line},
    machine::{Machine, Output, State},
    sequence::Sequences,
    world::{World, customer_name},
};

/// When a case begins, on CLOCK_MONOTONIC: not at zero, where unset times would pass for right ones,
/// and with a tick.
const START_NS: u64 = Ticks { ticks: 1_000_000 }.as_ns();

/// Runs a case on a machine that others may have used. Ok(Err): what was not as expected.
pub fn run(case: &Case, machine: &mut Machine) -> Result<Result<(), String>> {
    let mut world = World::usual();
    world.apply(&case.world)?;
    machine.reset(&world)?;
    let mut sequences = Sequences::default();
    let mut at_ms = 0;
    for (number, step) in case.steps.iter().enumerate() {
        let step = &sequences.complete(step).with_context(|| format!("step {}", number + 1))?;
        let which = || format!("step {} ({})", number + 1, step.packet);
        world.apply(&step.world).with_context(which)?;
        machine.change(&world).with_context(which)?;
        at_ms = step.at_ms.unwrap_or(at_ms);
        let now_ns = START_NS + at_ms * 1_000_000;
        machine.set_time(now_ns)?;
        let faults = run_step(step, machine, &world, now_ns).with_context(which)?;
        if !faults.is_empty() {
            return Ok(Err(format!("{} at {at_ms} ms:\n{faults}", which())));
        }
    }
    Ok(Ok(()))
}

fn run_step(step: &Step, machine: &mut Machine, world: &World, now_ns: u64) -> Result<String> {
    let input = step.input()?;
    let expected = step.output()?;
    let before = machine.state()?;
    let mut faults = String::new();
    for _ in 0..step.repeat {
        let output = machine.run(&input)?;
        compare_output(step, &input, &expected, &output, &mut faults);
    }
    let after = machine.state()?;
    compare_counters(step, &input, &before, &after, &mut faults)?;
    compare_events(step, &input, &machine.events()?, now_ns, &mut faults)?;
    compare_flows(step, &input, &before, &after, &mut faults)?;
    if after.world != *world {
        let _ = writeln!(faults, "the programs changed what only gatewayd writes: {:?}", after.world);
    }
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
                Counter::Dropped(number) => match Reason::from_number(number) {
                    Some(reason) => format!("dropped {}", reason.name()),
                    None => format!("dropped, reason number {number}"),
                },
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

/// Each drop that is not counted as lost writes one event, and that one is true.
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
        let expected = event(step, input, reason, now_ns);
        for event in events.iter().filter(|event| **event != expected) {
            let _ = writeln!(faults, "drop event: expected {expected:?}\n                seen {event:?}");
        }
    }
    Ok(())
}

/// What the event must say, read from the frame.
fn event(step: &Step, input: &Input, reason: Reason, time_ns: u64) -> DropEvent {
    let frame = &input.frame;
    let bytes = |at: usize| frame.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied();
    let mut event = DropEvent {
        time_ns,
        customer: step.counts.customer,
        tunnel: step.counts.tunnel,
        source: Ipv4::default(),
        destination: Ipv4::default(),
        source_port: 0,
        destination_port: 0,
        length: frame.len() as u32,
        protocol: 0,
        reason: reason as u8,
        hook: input.hook as u8,
        tcp_flags: 0,
        _reserved: 0,
    };
    if frame.get(12..14) != Some(&[8, 0]) || frame.len() < 34 {
        return event;
    }
    event.source.octets = bytes(26).expect("34 bytes");
    event.destination.octets = bytes(30).expect("34 bytes");
    event.protocol = frame[23];
    let first_fragment = u16::from_be_bytes([frame[20], frame[21]]).trailing_zeros() >= 13;
    if frame[14] == 0x45 && first_fragment && matches!(frame[23], 6 | 17) {
        if let Some([a, b, c, d]) = bytes(34) {
            event.source_port = u16::from_be_bytes([a, b]);
            event.destination_port = u16::from_be_bytes([c, d]);
        }
        if frame[23] == 6 && frame.len() >= 54 {
            event.tcp_flags = frame[47];
        }
    }
    event
}

fn compare_flows(
    step: &Step,
    input: &Input,
    before: &State,
    after: &State,
    faults: &mut String,
) -> Result<()> {
    let mut changed: Vec<(Option<&Flow>, &FlowKey, &Flow)> = Vec::new();
    for (bytes, (key, flow)) in &after.flows {
        let old = before.flows.get(bytes).map(|(_, flow)| flow);
        if old != Some(flow) {
            changed.push((old, key, flow));
        }
    }
    let lines = |state: &State| {
        state.flows.values().map(|(key, flow)| flow_line(key, flow, START_NS)).collect::<Vec<_>>()
    };
    if let Some(expected) = &step.flows {
        let unlike = expected.len() != after.flows.len()
            || !after
                .flows
                .values()
                .all(|(key, flow)| expected.iter().any(|line| line.describes(key, flow, START_NS)));
        if unlike {
            let expected: Vec<&str> = expected.iter().map(|line| line.text.as_str()).collect();
            let _ = writeln!(faults, "expected the flows {expected:#?}, seen {:#?}", lines(after));
        }
    }
    let fine = match step.verdict {
        Verdict::Pass => changed.is_empty(),
        Verdict::Drop(reason) => {
            changed.iter().all(|(old, _, new)| old.is_some_and(|old| may_become(reason, old, new)))
        }
        Verdict::ToServer | Verdict::ToTunnel(_) => {
            changed.len() == 1 && counted(changed[0], step.counts.opens(), step.repeat, input)
        }
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

/// Whether a packet that was dropped for this reason may have changed a flow like this.
fn may_become(reason: Reason, old: &Flow, new: &Flow) -> bool {
    let mut allowed = Flow { generation: new.generation, ..*old };
    if reason == Reason::OutOfWindow {
        // nf_conntrack, too, keeps what it noted before it refused (`tcp_in_window`), and may give
        // the connection less time, never more (`nf_tcp_handle_invalid`).
        let Flow { peers, scale, flags, last_kind, last_direction, last_flags, .. } = *new;
        allowed = Flow { peers, scale, flags, last_kind, last_direction, last_flags, ..allowed };
        if new.expires < old.expires {
            allowed.expires = new.expires;
        }
    }
    allowed == *new
}

/// Whether a flow has grown by just these packets.
fn counted(
    (old, _, new): (Option<&Flow>, &FlowKey, &Flow),
    opened: bool,
    repeat: u32,
    input: &Input,
) -> bool {
    let direction = usize::from(input.hook == Hook::LanIngress);
    let mut packets = match old {
        Some(old) if !opened => old.packets,
        _ => [0; 2],
    };
    packets[direction] += repeat;
    (old.is_some() || opened) && new.packets == packets
}
