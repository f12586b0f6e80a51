//! The contenders. Adding one is adding a row to the table; the compiler asks for each of its properties.
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{case::Case, rules::Ruleset, workload::Workload};

/// Everything the benchmark knows about a contender.
#[derive(Debug)]
pub struct Row {
    /// Name in tables and plots.
    pub label: &'static str,
    /// How to set it up.
    pub setup: Setup,
    /// The packets it lets through.
    pub passes: Passes,
    /// Its use of the kernel's connection tracking.
    pub conntrack: Conntrack,
    /// Returns true for the cases worth measuring.
    pub measures: fn(&Case) -> bool,
    /// The most customers it can be measured with in reasonable time.
    pub max_customers: u32,
    /// Part in the measurements through ESP.
    pub esp: Esp,
    /// True if loading and changing customers is measured.
    pub control: bool,
    /// True if the memory of a customer is measured.
    pub memory: bool,
    /// Kernel symbols, one of which must exist; empty if any kernel will do.
    pub needs_symbol: &'static [&'static str],
    /// Its line in plots.
    pub line: Line,
}

/// How a contender is set up on a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    /// A program drops all packets at the first ingress hook.
    DropAtIngress,
    /// Nothing is set up: the kernel forwards.
    Nothing,
    /// Programs at both hooks make only the kernel calls that tracking needs.
    CallsOnly,
    /// This project.
    Gateway(Exit),
    /// A ruleset of the kernel's own firewalls.
    Ruleset(Ruleset),
}

/// How this project sends on a packet that it lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Redirects it to the server's interface, as shipped.
    Redirect,
    /// Hands it to the stack, which routes it.
    Stack,
}

/// The packets that a contender lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passes {
    /// All packets: it is no firewall.
    All,
    /// Exactly the packets that the original rules let through.
    Policy,
    /// The policy's packets in the measured workloads, but not in all others.
    Roughly,
}

/// A contender's use of the kernel's connection tracking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conntrack {
    /// It does not use nf_conntrack.
    None,
    /// It uses nf_conntrack with the kernel's number of buckets.
    Default,
    /// It uses nf_conntrack with as many buckets as there are tuples.
    Tuned,
}

/// A contender's part in the measurements through ESP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Esp {
    /// In each run.
    Always,
    /// If it is named on the command line.
    OnRequest,
    /// Never.
    Never,
}

/// A line in plots. Colours also differ in lightness (after Okabe and Ito); this project's are the strongest.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Red, green, blue.
    pub colour: (u8, u8, u8),
    /// Width in pixels.
    pub width: u32,
}

const ANY_CUSTOMERS: u32 = 100_000;
/// With 10,000 customers a packet of the last one takes 7 million instructions by iptables-nft, and 0.5
/// million by iptables-legacy.
const IPTABLES_CUSTOMERS: u32 = 10_000;
const GREY: Line = Line { colour: (0x66, 0x66, 0x66), width: 2 };

fn any_case(_: &Case) -> bool {
    true
}

/// iptables slows down with the number of rules. One workload suffices to show by how much.
fn few_rules(case: &Case) -> bool {
    case.flows <= 1000 && (case.customers <= 1000 || case.workload == Workload::Established)
}

macro_rules! contenders {
    ($($(#[doc = $doc:literal])+ $variant:ident => $row:expr),+ $(,)?) => {
        /// One of the compared ways to forward packets.
        #[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[serde(rename_all = "kebab-case")]
        pub enum Contender {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Contender {
            /// All contenders, in the order of measurements and tables.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns the contender's row.
            pub fn row(self) -> &'static Row {
                match self {
                    $(Self::$variant => {
                        const ROW: Row = $row;
                        &ROW
                    })+
                }
            }

            /// Returns one sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

contenders! {
    /// Drops each packet at the gateway's first ingress hook: generator and sink alone, subtracted from all
    /// others.
    IngressDrop => Row {
        label: "drop at ingress",
        setup: Setup::DropAtIngress,
        passes: Passes::All,
        conntrack: Conntrack::None,
        measures: any_case,
        max_customers: ANY_CUSTOMERS,
        esp: Esp::Always,
        control: false,
        memory: false,
        needs_symbol: &[],
        line: GREY,
    },
    /// Forwards without a firewall and without any netfilter table: the floor.
    Forwarding => Row {
        label: "no firewall",
        setup: Setup::Nothing,
        passes: Passes::All,
        conntrack: Conntrack::None,
        measures: any_case,
        max_customers: ANY_CUSTOMERS,
        esp: Esp::Always,
        control: false,
        memory: false,
        needs_symbol: &[],
        line: GREY,
    },
    /// No firewall: programs at two hooks that only read the clock, look up the flow and take its lock.
    CallsOnly => Row {
        label: "bare tracking calls",
        setup: Setup::CallsOnly,
        passes: Passes::All,
        conntrack: Conntrack::None,
        // It knows no customers.
        measures: |case| case.workload == Workload::Established && case.customers == 1,
        max_customers: ANY_CUSTOMERS,
        // Its calls are measured without ESP.
        esp: Esp::Never,
        control: false,
        memory: false,
        needs_symbol: &[],
        line: GREY,
    },
    /// Redirects packets to the server's interface, as shipped.
    Redirect => Row {
        label: "this project",
        setup: Setup::Gateway(Exit::Redirect),
        passes: Passes::Policy,
        conntrack: Conntrack::None,
        measures: any_case,
        max_customers: ANY_CUSTOMERS,
        esp: Esp::Always,
        control: true,
        memory: true,
        needs_symbol: &[],
        line: Line { colour: (0x00, 0x5a, 0xb5), width: 4 },
    },
    /// Hands packets to the kernel's stack, which routes them as it does with the other firewalls.
    Stack => Row {
        label: "this project, via the stack",
        setup: Setup::Gateway(Exit::Stack),
        passes: Passes::Policy,
        conntrack: Conntrack::None,
        measures: any_case,
        max_customers: ANY_CUSTOMERS,
        // With ESP the gateway always redirects.
        esp: Esp::Never,
        control: false,
        memory: false,
        needs_symbol: &[],
        line: Line { colour: (0x2e, 0x9b, 0xe0), width: 3 },
    },
    /// The best nftables ruleset: established connections first, then one verdict map.
    Nftables => Row {
        label: "nftables",
        setup: Setup::Ruleset(Ruleset::Nftables),
        passes: Passes::Policy,
        conntrack: Conntrack::Default,
        measures: any_case,
        max_customers: ANY_CUSTOMERS,
        esp: Esp::Always,
        control: true,
        memory: true,
        needs_symbol: &[],
        line: Line { colour: (0x00, 0x80, 0x5c), width: 2 },
    },
    /// The same ruleset with two nf_conntrack buckets for each flow.
    NftablesTuned => Row {
        label: "nftables, tuned buckets",
        setup: Setup::Ruleset(Ruleset::Nftables),
        passes: Passes::Policy,
        conntrack: Conntrack::Tuned,
        // The buckets make no difference to one flow.
        measures: |case| case.flows > 1,
        max_customers: ANY_CUSTOMERS,
        esp: Esp::OnRequest,
        control: false,
        memory: false,
        needs_symbol: &[],
        line: Line { colour: (0x5a, 0xa8, 0x2e), width: 2 },
    },
    /// The same ruleset with an interval set of LAN prefixes in place of devices.
    NftablesIntervals => Row {
        label: "nftables, interval sets",
        setup: Setup::Ruleset(Ruleset::NftablesIntervals),
        passes: Passes::Policy,
        conntrack: Conntrack::Default,
        measures: any_case,
        max_customers: ANY_CUSTOMERS,
        esp: Esp::OnRequest,
        control: true,
        memory: false,
        needs_symbol: &[],
        line: Line { colour: (0x8c, 0x6d, 0x00), width: 2 },
    },
    /// The same ruleset with a flowtable. Not policy-equivalent: its flows bypass all rules and window checks.
    NftablesFlowtable => Row {
        label: "nftables flowtable",
        setup: Setup::Ruleset(Ruleset::NftablesFlowtable),
        passes: Passes::Roughly,
        conntrack: Conntrack::Default,
        measures: any_case,
        max_customers: ANY_CUSTOMERS,
        esp: Esp::OnRequest,
        control: false,
        memory: false,
        needs_symbol: &["nf_flow_offload_ip_hook", "nf_flow_table_init"],
        line: Line { colour: (0x9b, 0x4d, 0xa8), width: 2 },
    },
    /// A verdict map at netdev ingress. It drops what the policy denies and forwards nothing statefully.
    NftablesNetdevDrop => Row {
        label: "nftables netdev drop",
        setup: Setup::Ruleset(Ruleset::NftablesNetdevDrop),
        passes: Passes::Roughly,
        conntrack: Conntrack::None,
        measures: |case| case.workload == Workload::DeniedSyn,
        max_customers: ANY_CUSTOMERS,
        // It forwards nothing.
        esp: Esp::Never,
        control: false,
        memory: false,
        needs_symbol: &[],
        line: Line { colour: (0x55, 0x55, 0x99), width: 2 },
    },
    /// The original two rules for each customer, loaded by `iptables-legacy`.
    IptablesLegacy => Row {
        label: "iptables-legacy",
        setup: Setup::Ruleset(Ruleset::IptablesLegacy),
        passes: Passes::Policy,
        conntrack: Conntrack::Default,
        measures: few_rules,
        max_customers: IPTABLES_CUSTOMERS,
        esp: Esp::OnRequest,
        control: true,
        memory: true,
        needs_symbol: &[],
        line: Line { colour: (0xe0, 0x7b, 0x00), width: 2 },
    },
    /// The original two rules for each customer, loaded by `iptables-nft`.
    IptablesNft => Row {
        label: "iptables-nft",
        setup: Setup::Ruleset(Ruleset::IptablesNft),
        passes: Passes::Policy,
        conntrack: Conntrack::Default,
        measures: few_rules,
        max_customers: IPTABLES_CUSTOMERS,
        esp: Esp::OnRequest,
        control: true,
        memory: true,
        needs_symbol: &[],
        line: Line { colour: (0xc6, 0x28, 0x28), width: 2 },
    },
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
