//! The contenders. Adding one is adding a row to the table; the compiler asks for each of its properties.
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{case::Case, rules::Ruleset, workload::Workload};

/// All of them, in the order of reports.
pub const ALL: [Contender; 12] = [
    Contender::IngressDrop,
    Contender::Forwarding,
    Contender::CallsOnly,
    Contender::IptablesNft,
    Contender::IptablesLegacy,
    Contender::Nftables,
    Contender::NftablesIntervals,
    Contender::NftablesTuned,
    Contender::NftablesFlowtable,
    Contender::NftablesNetdevDrop,
    Contender::Stack,
    Contender::Redirect,
];

/// A contender at work.
pub struct Working {
    /// What is around it.
    pub ground: Ground,
    /// What it is.
    pub contender: Contender,
    _attached: Vec<Attached>,
}

impl Contender {
    /// Returns the contender's name in tables and plots.
    pub fn label(self) -> &'static str {
        self.row().label
    }

    /// Returns true for this project.
    pub fn is_ours(self) -> bool {
        matches!(self.row().setup, Setup::Gateway(_))
    }

    /// Returns true if it gives the verdicts of the original rules on any packet.
    pub fn has_equal_policy(self) -> bool {
        self.row().passes == Passes::Policy
    }

    /// Returns true if it uses the kernel's connection tracking.
    pub fn uses_conntrack(self) -> bool {
        self.row().conntrack != Conntrack::None
    }
}

/// Writes the name that `--contenders` takes.
impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_possible_value() {
            Some(value) => f.write_str(value.get_name()),
            None => fmt::Debug::fmt(self, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_differ_and_leave_room_for_numbers() {
        let labels: HashSet<_> = Contender::ALL.iter().map(|contender| contender.label()).collect();
        assert_eq!(labels.len(), Contender::ALL.len());
        assert!(labels.iter().all(|label| label.chars().count() <= 27), "{labels:?}");
    }

    #[test]
    fn name_is_the_same_in_figures_and_on_the_command_line() {
        for contender in Contender::ALL {
            assert_eq!(serde_json::to_string(contender).unwrap(), format!("\"{contender}\""));
        }
    }

    #[test]
    fn ruleset_with_conntrack_is_known_by_its_row() {
        for contender in Contender::ALL {
            let tracks = match contender.row().setup {
                Setup::Ruleset(ruleset) => {
                    ruleset.text(&super::super::rules::Policy::of(1)).contains("state")
                }
                Setup::DropAtIngress | Setup::Nothing | Setup::CallsOnly | Setup::Gateway(_) => false,
            };
            assert_eq!(contender.uses_conntrack(), tracks, "{contender}");
        }
    }
}
