//! What an attack is, and how it is judged: by what arrived, and by what the gateway counted.
use std::fmt;

use anyhow::{Context, Result};
use gateway_common::reason::Reason;

use crate::{
    gateway::{Drops, increase, xfrm_stat},
    lab::Lab,
};

/// Something that must not work.
#[derive(Debug)]
pub struct Attack {
    /// The test's name.
    pub name: &'static str,
    /// For a person.
    pub what: &'static str,
    /// How it must end.
    pub expected: Expected,
    /// Does it, and leaves the lab as it found it.
    pub run: fn(&Lab) -> Result<Seen>,
}

/// How an attack must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The gateway drops every packet and counts it under this customer (`-`: none is known).
    Dropped {
        /// Whose counter.
        customer: &'static str,
        /// Why.
        reason: Reason,
    },
    /// The gateway's kernel drops every packet and counts it in xfrm_stat.
    DroppedByKernel {
        /// The counter's name.
        counter: &'static str,
    },
    /// IKE authentication fails.
    NoTunnel,
}

/// What an attack saw of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets (or tunnel initiations) sent.
    pub sent: u64,
    /// How many of them must have been counted as dropped: all, unless some were rightly let through.
    pub dropped: AtLeast,
    /// Whatever arrived where it should not.
    pub leaks: Vec<String>,
}

/// How strictly a count is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AtLeast {
    /// Exactly as many as were sent.
    #[default]
    All,
    /// One or more: real traffic was going on.
    One,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it ended as expected.
    pub held: bool,
    /// What was seen, in a line.
    pub seen: String,
    /// What went wrong, line by line.
    pub details: Vec<String>,
}

/// Runs an attack and judges it: nothing leaked, and the counters that changed are exactly the
/// expected one, by exactly what was sent. `drops` are the gateway's counters before, and after.
pub fn judge(attack: &Attack, lab: &Lab, drops: &mut Drops) -> Result<Outcome> {
    let kernel_before = xfrm_stat(&lab.topology.gateway)?;
    let seen = (attack.run)(lab).with_context(|| format!("attack {}", attack.name))?;
    let after = lab.drops()?;
    let counted = increase(drops, &after);
    *drops = after;
    let kernel = increase(&kernel_before, &xfrm_stat(&lab.topology.gateway)?);
    let kernel_counted = match attack.expected {
        Expected::DroppedByKernel { counter } => kernel.get(counter).copied().unwrap_or_default(),
        Expected::Dropped { .. } | Expected::NoTunnel => 0,
    };

    let count_is_right = match attack.expected {
        Expected::Dropped { customer, reason } => {
            let count =
                counted.get(&(customer.to_owned(), reason.name().to_owned())).copied().unwrap_or_default();
            match seen.dropped {
                AtLeast::All => count == seen.sent && counted.len() == 1,
                AtLeast::One => count >= 1 && counted.keys().all(|(owner, _)| owner == customer),
            }
        }
        Expected::DroppedByKernel { .. } => kernel_counted == seen.sent && counted.is_empty(),
        Expected::NoTunnel => counted.is_empty(),
    };
    let shown = match attack.expected {
        Expected::DroppedByKernel { counter } => format!("{counter} +{kernel_counted}"),
        Expected::NoTunnel if seen.leaks.is_empty() => "authentication failed".to_owned(),
        _ => show(&counted),
    };
    let leaked = if seen.leaks.is_empty() {
        "none arrived".to_owned()
    } else {
        format!("{} leaked", seen.leaks.len())
    };
    Ok(Outcome {
        held: count_is_right && seen.leaks.is_empty(),
        seen: format!("{} sent, {leaked}, {shown}", seen.sent),
        details: seen.leaks,
    })
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
        return "nothing counted".to_owned();
    }
    let parts: Vec<_> =
        counted.iter().map(|((customer, reason), count)| format!("{reason} ({customer}) +{count}")).collect();
    parts.join(", ")
}
