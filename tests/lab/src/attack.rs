//! Attacks, judged by the packets that arrived and by the drops that the gateway counted.
use std::fmt;

use anyhow::{Context, Result};
use gateway_common::reason::Reason;

use crate::{
    gateway::{Drops, increase, xfrm_stat},
    lab::Lab,
};

/// An attempt that the gateway must refuse.
#[derive(Debug)]
pub struct Attack {
    /// The test's name.
    pub name: &'static str,
    /// Title in the report: who tries what.
    pub title: &'static str,
    /// How it must end.
    pub expected: Expected,
    /// Runs the attack and leaves the lab as it was before.
    pub run: fn(&Lab) -> Result<Seen>,
}

/// How an attack must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The gateway drops every packet and counts it.
    Dropped {
        /// The customer whose counter goes up; `-` if the packet belongs to none.
        customer: &'static str,
        /// The reason counted.
        reason: Reason,
    },
    /// The gateway's kernel drops every packet and counts it in xfrm_stat.
    DroppedByKernel {
        /// The counter's name.
        counter: &'static str,
    },
    /// IKE authentication fails, or the gateway ends the tunnel before it is bound.
    NoTunnel,
}

/// The observations of an attack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets (or tunnel initiations) sent.
    pub sent: u64,
    /// How many of the packets must be counted as dropped.
    pub dropped: DropCount,
    /// Descriptions of packets that arrived where they must not.
    pub leaks: Vec<String>,
}

/// How many of the packets sent must be counted as dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DropCount {
    /// Exactly as many as were sent.
    #[default]
    All,
    /// One or more: the gateway rightly passed some before the tunnel went down.
    AtLeastOne,
}

/// The result of an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// True if the attack ended as expected.
    pub held: bool,
    /// Packets sent, dropped and leaked, in one line.
    pub seen: String,
    /// The leaks, one a line.
    pub details: Vec<String>,
}

/// Runs an attack and judges it: it holds if nothing leaked and no counter changed but the expected one,
/// by the number of packets sent. `drops` holds the gateway's counters before the call, and is updated.
pub fn judge(attack: &Attack, lab: &Lab, drops: &mut Drops) -> Result<Outcome> {
    let kernel_before = xfrm_stat(&lab.topology.gateway)?;
    let seen = (attack.run)(lab).with_context(|| format!("attack {}", attack.name))?;
    let after = lab.drops()?;
    let counted = increase(drops, &after);
    *drops = after;
    let kernel = increase(&kernel_before, &xfrm_stat(&lab.topology.gateway)?);
    let refused = match attack.expected {
        Expected::Dropped { customer, reason } => {
            counted.get(&(customer.to_owned(), reason.name().to_owned())).copied().unwrap_or_default()
        }
        Expected::DroppedByKernel { counter } => kernel.get(counter).copied().unwrap_or_default(),
        Expected::NoTunnel => 0,
    };

    let count_is_right = match attack.expected {
        Expected::Dropped { customer, .. } => match seen.dropped {
            DropCount::All => refused == seen.sent && counted.len() == 1,
            DropCount::AtLeastOne => refused >= 1 && counted.keys().all(|(owner, _)| owner == customer),
        },
        Expected::DroppedByKernel { .. } => refused == seen.sent && counted.is_empty(),
        Expected::NoTunnel => counted.is_empty(),
    };
    let held = count_is_right && seen.leaks.is_empty();
    let line = match attack.expected {
        Expected::NoTunnel if held => "no tunnel".to_owned(),
        _ if held => format!("{} sent, {refused} dropped, none leaked", seen.sent),
        Expected::DroppedByKernel { counter } => {
            format!(
                "{} sent, {} leaked; {counter} +{refused}, {}",
                seen.sent,
                seen.leaks.len(),
                show(&counted)
            )
        }
        _ => format!("{} sent, {} leaked; {}", seen.sent, seen.leaks.len(), show(&counted)),
    };
    Ok(Outcome { held, seen: line, details: seen.leaks })
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped { customer, reason } => write!(f, "{} ({customer})", reason.name()),
            Self::DroppedByKernel { counter } => write!(f, "{counter} (kernel)"),
            Self::NoTunnel => write!(f, "no tunnel"),
        }
    }
}

fn show(counted: &Drops) -> String {
    if counted.is_empty() {
        return "no drop counted".to_owned();
    }
    let parts: Vec<_> =
        counted.iter().map(|((customer, reason), count)| format!("{reason} ({customer}) +{count}")).collect();
    parts.join(", ")
}
