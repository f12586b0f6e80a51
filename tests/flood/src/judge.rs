//! The criteria that must hold under any flood.
use std::{
    collections::BTreeMap,
    sync::{PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use gateway_common::{limits, outer::cookie::Demand, reason::Reason};

use super::{
    firewall::{self, Held},
    new_site,
    outcome::Outcome,
    party::{ATTACKER, Party},
};

/// The criterion that fails when one customer fills the table.
pub const NEW_CONNECTIONS: &str = "victims' new connections within 1 s, at least 99 % of each";

/// A criterion with its result.
pub struct Criterion {
    /// The criterion, for people.
    pub name: &'static str,
    /// True if it held.
    pub held: bool,
    /// The observed numbers.
    pub seen: String,
}

/// Longest flood in which no device reuses a port. Their kernel keeps a port for 60 s (`TCP_TIMEWAIT_LEN`);
/// after that its next SYN replaces the flow in TIME_WAIT.
const NO_PORT_REUSE: Duration = Duration::from_secs(55);
/// Reasons that the site's flood must be dropped for, to prove that it contains all its packets.
const SITE_REASONS: [Reason; 12] = [
    Reason::FlowQuotaExceeded,
    Reason::HalfOpenQuotaExceeded,
    Reason::InnerSourceNotInSite,
    Reason::DestinationNotServer,
    Reason::PortNotAllowed,
    Reason::ProtocolNotAllowed,
    Reason::InnerFragment,
    Reason::NoConnection,
    Reason::InnerMalformed,
    Reason::InnerChecksumWrong,
    Reason::TcpMalformed,
    Reason::TcpFlagsInvalid,
];
/// Reasons that the internet's flood must be dropped for.
const INTERNET_REASONS: [Reason; 3] =
    [Reason::IkeOverBudget, Reason::UnknownSpiOverBudget, Reason::FragmentsOverBudget];

/// Judges a round by the default quota, whatever quota the attacker had.
pub fn judge(outcome: &Outcome) -> Vec<Criterion> {
    let mut criteria = vec![
        established(outcome),
        new_connections(outcome),
        quota(outcome),
        drops(outcome),
        events(outcome),
        attackers_events(outcome),
        known_peers(outcome),
        strangers(outcome),
        spoofed(outcome),
        new_sites(outcome),
        reached(outcome),
    ];
    if let Some(held) = &outcome.held {
        criteria.extend([usage(outcome, held), half_open(outcome, held)]);
    }
    criteria
}

/// Returns the number of victims' packets dropped because the table was full.
pub fn table_was_full(outcome: &Outcome) -> u64 {
    let of = |party: &Party| outcome.counted[&party.id].dropped.get(&Reason::FlowTableFull).copied();
    outcome.victims.keys().filter_map(of).sum()
}

fn established(outcome: &Outcome) -> Criterion {
    let sum = |what: fn(&super::victim::Tally) -> u64| outcome.victims.values().map(what).sum::<u64>();
    let lost = sum(|tally| tally.lost.load(Relaxed));
    let answered = sum(|tally| tally.answered.load(Relaxed));
    let name = "victims' established connections: 0 lost";
    Criterion {
        name,
        held: lost == 0 && answered > 0,
        seen: format!("{lost} lost, {answered} requests answered"),
    }
}

fn new_connections(outcome: &Outcome) -> Criterion {
    let each =
        || outcome.victims.values().map(|tally| (tally.tried.load(Relaxed), tally.in_time.load(Relaxed)));
    let held = each().all(|(tried, in_time)| tried > 0 && in_time * 100 >= tried * 99);
    let (tried, in_time) = each().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let slowest = outcome.victims.values().map(|tally| tally.slowest_us.load(Relaxed)).max().unwrap_or(0);
    let worst = each().map(|(tried, in_time)| in_time as f64 / tried as f64).fold(1.0, f64::min);
    let mut seen = format!(
        "{in_time} of {tried}, the worst victim {:.2} %, the slowest {} ms",
        worst * 100.0,
        slowest / 1000
    );
    let first = |tally: &super::victim::Tally| {
        tally.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    };
    if let Some(error) = outcome.victims.values().find_map(first) {
        seen += &format!("\nfirst error: {error}");
    }
    Criterion { name: NEW_CONNECTIONS, held, seen }
}

fn quota(outcome: &Outcome) -> Criterion {
    let quota = firewall::default_quota();
    let Held { flows, half_open } = outcome.seen.attacker;
    Criterion {
        name: "attacker's flows within its quota",
        held: flows > 0 && flows <= quota.flows && half_open <= quota.half_open,
        seen: format!("at most {flows} of {}, half-open {half_open} of {}", quota.flows, quota.half_open),
    }
}

/// Checks that of the victims' packets the gateway dropped all UDP packets and no others.
fn drops(outcome: &Outcome) -> Criterion {
    let own: u64 = outcome.victims.values().map(|tally| tally.denied.load(Relaxed)).sum();
    let ids: Vec<u32> = outcome.victims.keys().map(|party| party.id).collect();
    let mut dropped = outcome.dropped(&ids);
    let expected = dropped.remove(&Reason::ProtocolNotAllowed).unwrap_or(0);
    let others: Vec<String> =
        dropped.iter().map(|(reason, count)| format!("{} {count}", reason.name())).collect();
    let seen = if others.is_empty() { format!("{expected} of {own}, no other") } else { others.join(", ") };
    let name = "victims' packets: only the denied ones dropped";
    Criterion { name, held: others.is_empty() && expected == own, seen }
}

/// Checks that each of the victims' dropped packets was reported as an event.
fn events(outcome: &Outcome) -> Criterion {
    let told = |party: &Party| {
        outcome.seen.events.get(&(party.id, Some(Reason::ProtocolNotAllowed))).copied().unwrap_or(0)
    };
    let sent: u64 = outcome.victims.values().map(|tally| tally.denied.load(Relaxed)).sum();
    Criterion {
        name: "victims' own drop events all arrive",
        held: outcome.victims.iter().all(|(party, tally)| {
            let denied = tally.denied.load(Relaxed);
            denied > 0 && told(party) == denied
        }),
        seen: format!("{} of {sent}", outcome.victims.keys().map(told).sum::<u64>()),
    }
}

fn attackers_events(outcome: &Outcome) -> Criterion {
    let told = outcome.seen.events_of(ATTACKER.id);
    let cpus = std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
    // One second more, because the full budget at the start lasts for one second.
    let most = cpus
        * (f64::from(limits::EVENTS_BURST)
            + (outcome.lasted.as_secs_f64() + 1.0) * limits::EVENTS_PER_SECOND as f64);
    let lost = outcome.counted[&ATTACKER.id].events_lost;
    Criterion {
        name: "attacker's drop events within their budget",
        held: told > 0 && told as f64 <= most && lost > 0,
        seen: format!("{told} of at most {most:.0} written, {lost} suppressed"),
    }
}

/// Checks after the flood, when no packet is in flight, that each customer's usage equals its flows. After a
/// short flood all connections of a victim still have their flows: TIME_WAIT, the state of the closed ones,
/// lasts longer.
fn usage(outcome: &Outcome, held: &BTreeMap<Party, [Held; 2]>) -> Criterion {
    let mut wrong = Vec::new();
    for (party, [counted, usage]) in held {
        let opened = outcome.counted[&party.id].opened;
        let complete =
            *party == ATTACKER || outcome.lasted > NO_PORT_REUSE || u64::from(counted.flows) == opened;
        if counted != usage || counted.flows == 0 || !complete {
            wrong.push(format!("customer {}: {counted:?}, USAGE {usage:?}, {opened} opened", party.id));
        }
    }
    let all: u32 = held.values().map(|[counted, _]| counted.flows).sum();
    let seen =
        if wrong.is_empty() { format!("{all} flows in total, same in USAGE") } else { wrong.join("\n") };
    Criterion { name: "each customer's USAGE equals its number of flows", held: wrong.is_empty(), seen }
}

fn half_open(outcome: &Outcome, held: &BTreeMap<Party, [Held; 2]>) -> Criterion {
    let [counted, usage] = held[&ATTACKER];
    let most = outcome.seen.attacker.half_open;
    Criterion {
        name: "attacker's half-open flows expire",
        held: most > 0 && counted.half_open == 0 && usage.half_open == 0,
        seen: format!("{most} → {} in the tables, {} in USAGE", counted.half_open, usage.half_open),
    }
}

fn known_peers(outcome: &Outcome) -> Criterion {
    let (sent, arrived) = (outcome.ike.sent.load(Relaxed), outcome.ike.arrived.load(Relaxed));
    let name = "all IKE of known peers reaches the gateway's socket";
    Criterion { name, held: sent > 0 && sent == arrived, seen: format!("{arrived} of {sent}") }
}

fn strangers(outcome: &Outcome) -> Criterion {
    let over = outcome.counted[&0].dropped.get(&Reason::IkeOverBudget).copied().unwrap_or(0);
    let passed = outcome.ike.strangers.load(Relaxed);
    let rate = gateway_common::outer::Class::Ike.shared_rate();
    let cpus = std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
    let most = cpus * (f64::from(rate.burst) + outcome.lasted.as_secs_f64() * f64::from(rate.per_second));
    Criterion {
        name: "IKE of strangers within their budget",
        held: over > 0 && passed > 0 && passed as f64 <= most,
        seen: format!("{passed} of at most {most:.0} passed, IkeOverBudget {over}"),
    }
}

/// Checks that charon sees no more spoofed requests than it takes to notice the flood.
fn spoofed(outcome: &Outcome) -> Criterion {
    let (passed, asked) = (outcome.ike.opened.load(Relaxed), outcome.cookies.asked);
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let most = cpus * u64::from(Demand::CALM.burst);
    Criterion {
        name: "spoofed IKE_SA_INITs are answered with cookies",
        held: passed <= most && asked > 1_000,
        seen: format!("{asked} answered; {passed} of at most {most} passed before that"),
    }
}

/// Checks that new sites connect in time.
fn new_sites(outcome: &Outcome) -> Criterion {
    let new_site::Tally { tried, connected, slowest_us } = &outcome.new_sites;
    let (tried, connected) = (tried.load(Relaxed), connected.load(Relaxed));
    let slowest_ms = slowest_us.load(Relaxed) / 1_000;
    Criterion {
        name: "new sites connect within 2 s each",
        held: tried > 0 && connected == tried && outcome.cookies.proved >= tried,
        seen: format!("{connected} of {tried}, the slowest in {slowest_ms} ms"),
    }
}

fn reached(outcome: &Outcome) -> Criterion {
    let lacks = |customer: u32, reasons: &[Reason]| -> Vec<&'static str> {
        let dropped = &outcome.counted[&customer].dropped;
        reasons.iter().filter(|reason| !dropped.contains_key(reason)).map(|reason| reason.name()).collect()
    };
    let missing = [lacks(ATTACKER.id, &SITE_REASONS), lacks(0, &INTERNET_REASONS)].concat();
    let seen = match missing.is_empty() {
        true => format!("all of {}", SITE_REASONS.len() + INTERNET_REASONS.len()),
        false => format!("missing: {}", missing.join(", ")),
    };
    Criterion { name: "the flood is dropped for every intended reason", held: missing.is_empty(), seen }
}
