//! What is to be reached, as data: how each number follows from figures, and its bound.
use super::{
    figure::{Choice, Contender, Figure, Unit, Workload},
    figures::{Figures, Query},
};

/// One thing to be reached.
pub struct Target {
    /// Its name in `explanations.toml`.
    pub name: &'static str,
    /// What is measured, for people.
    pub what: &'static str,
    /// How the number is computed, for people.
    pub formula: &'static str,
    /// What it has to be.
    pub bound: Bound,
    /// The number; None unless all of it was measured.
    pub measure: fn(&Figures) -> Option<f64>,
}

/// What a number has to be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// More than this.
    Above(f64),
    /// Anything.
    Reported,
}

impl Bound {
    /// Whether a number is as it has to be.
    pub fn is_met(self, number: f64) -> bool {
        match self {
            Self::AtMost(bound) => number <= bound,
            Self::AtLeast(bound) => number >= bound,
            Self::Above(bound) => number > bound,
            Self::Reported => true,
        }
    }
}

use Bound::{Above, AtLeast, AtMost, Reported};
use Contender::{
    Forwarding, IptablesLegacy, IptablesNft, Nftables, NftablesNetdevDrop, NftablesTuned, Redirect, Stack,
};

/// All of them, in the order of the issue.
pub const ALL: &[Target] = &[
    Target {
        name: "established-stack",
        what: "established packet, LAN to server, verdict passed to the stack",
        formula: "tax ÷ floor, 1 customer",
        bound: AtMost(0.12),
        measure: |figures| {
            let query = Query::new(Stack, Workload::Established);
            ratio(figures.tax(query), figures.floor(query))
        },
    },
    Target {
        name: "established-redirect",
        what: "established packet, LAN to server, redirected",
        formula: "cost ÷ floor, 1 customer",
        bound: AtMost(0.65),
        measure: |figures| {
            let query = Query::new(Redirect, Workload::Established);
            ratio(figures.cost(query), figures.floor(query))
        },
    },
    Target {
        name: "nftables-tax",
        what: "best nftables, established packet",
        formula: "its tax ÷ ours (stack), 1 customer",
        bound: AtLeast(5.0),
        measure: |figures| tax_ratio(figures, Nftables, 1),
    },
    Target {
        name: "iptables-nft-tax-1",
        what: "original rules by iptables-nft, established packet",
        formula: "their tax ÷ ours (stack), 1 customer",
        bound: AtLeast(5.0),
        measure: |figures| tax_ratio(figures, IptablesNft, 1),
    },
    Target {
        name: "iptables-nft-tax-1000",
        what: "original rules by iptables-nft, established packet",
        formula: "their tax ÷ ours (stack), 1,000 customers, packets of the last",
        bound: AtLeast(1500.0),
        measure: |figures| tax_ratio(figures, IptablesNft, 1000),
    },
    Target {
        name: "iptables-nft-tax-10000",
        what: "original rules by iptables-nft, established packet",
        formula: "their tax ÷ ours (stack), 10,000 customers, packets of the last",
        bound: AtLeast(15_000.0),
        measure: |figures| tax_ratio(figures, IptablesNft, 10_000),
    },
    Target {
        name: "iptables-legacy-tax-1",
        what: "original rules by iptables-legacy, established packet",
        formula: "their tax ÷ ours (stack), 1 customer",
        bound: AtLeast(4.0),
        measure: |figures| tax_ratio(figures, IptablesLegacy, 1),
    },
    Target {
        name: "iptables-legacy-tax-1000",
        what: "original rules by iptables-legacy, established packet",
        formula: "their tax ÷ ours (stack), 1,000 customers, packets of the last",
        bound: AtLeast(100.0),
        measure: |figures| tax_ratio(figures, IptablesLegacy, 1000),
    },
    Target {
        name: "iptables-legacy-tax-10000",
        what: "original rules by iptables-legacy, established packet",
        formula: "their tax ÷ ours (stack), 10,000 customers, packets of the last",
        bound: AtLeast(1000.0),
        measure: |figures| tax_ratio(figures, IptablesLegacy, 10_000),
    },
    Target {
        name: "customers-stack",
        what: "100,000 customers, verdict passed to the stack",
        formula: "cost ÷ cost with 1 customer",
        bound: AtMost(1.01),
        measure: |figures| customers_ratio(figures, Stack),
    },
    Target {
        name: "customers-redirect",
        what: "100,000 customers, redirected",
        formula: "cost ÷ cost with 1 customer",
        bound: AtMost(1.01),
        measure: |figures| customers_ratio(figures, Redirect),
    },
    Target {
        name: "million-flows",
        what: "1,000,000 flows, uniform, time",
        formula: "our tax (stack) ÷ that of nftables with tuned buckets",
        bound: AtMost(0.5),
        measure: |figures| {
            let query = Query {
                flows: 1_000_000,
                choice: Choice::Uniform,
                unit: Unit::Ratio,
                ..Query::new(Stack, Workload::Established)
            };
            // Tuned buckets are measured at another time than the others, so each tax by the floor beside it.
            let tax = |contender| Some(figures.value(query.of(contender))? - 1.0);
            ratio(tax(Stack), tax(NftablesTuned))
        },
    },
    Target {
        name: "new-connection",
        what: "new connection, whole life",
        formula: "tax of nftables ÷ ours (stack), instructions, 1 customer",
        bound: AtLeast(6.0),
        measure: |figures| {
            let query = Query::new(Stack, Workload::NewConnection);
            ratio(figures.tax(query.of(Nftables)), figures.tax(query))
        },
    },
    Target {
        name: "denied-syn-floor",
        what: "denied SYN",
        formula: "our cost ÷ floor, 1 customer",
        bound: AtMost(0.12),
        measure: |figures| {
            let query = Query::new(Redirect, Workload::DeniedSyn);
            ratio(figures.cost(query), figures.cost(query.of(Forwarding)))
        },
    },
    Target {
        name: "denied-syn-netdev",
        what: "denied SYN",
        formula: "our cost ÷ that of nftables' verdict map at netdev ingress, 1 customer",
        bound: AtMost(0.4),
        measure: |figures| {
            let query = Query::new(Redirect, Workload::DeniedSyn);
            ratio(figures.cost(query), figures.cost(query.of(NftablesNetdevDrop)))
        },
    },
    Target {
        name: "load-all",
        what: "100,000 customers loaded into the maps",
        formula: "milliseconds",
        bound: AtMost(100.0),
        measure: |figures| figures.value(control(Redirect, Workload::LoadAll, 100_000)),
    },
    Target {
        name: "load-all-nft",
        what: "100,000 customers loaded into the maps",
        formula: "time of `nft -f` ÷ ours",
        bound: AtLeast(10.0),
        measure: |figures| load_ratio(figures, Nftables),
    },
    Target {
        name: "load-all-iptables",
        what: "100,000 customers loaded into the maps",
        formula: "time of `iptables-restore` (Debian's default, nft back end) ÷ ours",
        bound: AtLeast(100.0),
        measure: |figures| load_ratio(figures, IptablesNft),
    },
    Target {
        name: "load-all-iptables-legacy",
        what: "100,000 customers loaded into the maps",
        formula: "time of `iptables-legacy-restore` ÷ ours",
        bound: AtLeast(100.0),
        measure: |figures| load_ratio(figures, IptablesLegacy),
    },
    Target {
        name: "change-one",
        what: "one change among 100,000 customers",
        formula: "milliseconds",
        bound: AtMost(1.0),
        measure: |figures| figures.value(control(Redirect, Workload::ChangeOne, 100_000)),
    },
    Target {
        name: "change-one-scale",
        what: "one change among 100,000 customers",
        formula: "time ÷ time among 1",
        bound: AtMost(1.1),
        measure: |figures| {
            let query = control(Redirect, Workload::ChangeOne, 100_000);
            ratio(figures.value(query), figures.value(query.customers(1)))
        },
    },
    Target {
        name: "flow-memory",
        what: "kernel memory for one IPv4 flow",
        formula: "bytes",
        bound: AtMost(160.0),
        measure: |figures| figures.value(memory(Redirect)),
    },
    Target {
        name: "flow-memory-conntrack",
        what: "kernel memory for one IPv4 flow",
        formula: "ours ÷ nf_conntrack's",
        bound: AtMost(0.5),
        measure: |figures| ratio(figures.value(memory(Redirect)), figures.value(memory(Nftables))),
    },
    Target {
        name: "bulk-segments",
        what: "bulk upload through ESP, GRO on",
        formula: "mean segments a packet at the firewall",
        bound: Above(4.0),
        measure: |figures| Some(esp(figures, Workload::BulkGro, Unit::Segments)?.value),
    },
    Target {
        name: "bulk-instructions",
        what: "bulk upload through ESP, GRO on",
        formula: "instructions a byte in firewall and forwarding, GRO off ÷ GRO on",
        bound: AtLeast(3.0),
        measure: |figures| {
            let cost = |workload| esp_cost(figures, workload);
            ratio(cost(Workload::BulkNoGro), cost(Workload::BulkGro))
        },
    },
    Target {
        name: "esp-share",
        what: "firewall and forwarding in decapsulation + firewall + forwarding, AES-GCM, 64 bytes",
        formula: "share of instructions",
        bound: Reported,
        measure: |figures| {
            let ours = esp_cost(figures, Workload::FirewallAndForwarding)?;
            Some(ours / (ours + esp_cost(figures, Workload::Decapsulation)?))
        },
    },
];

/// Loading or changing customers.
pub fn control(contender: Contender, workload: Workload, customers: u32) -> Query {
    Query { unit: Unit::Milliseconds, ..Query::new(contender, workload).customers(customers) }
}

/// Memory for a flow.
pub fn memory(contender: Contender) -> Query {
    Query { unit: Unit::Bytes, ..Query::new(contender, Workload::MemoryPerFlow) }
}

fn ratio(above: Option<f64>, below: Option<f64>) -> Option<f64> {
    below.filter(|below| *below != 0.0).and_then(|below| Some(above? / below))
}

fn tax_ratio(figures: &Figures, contender: Contender, customers: u32) -> Option<f64> {
    let query = Query::new(Stack, Workload::Established).customers(customers);
    ratio(figures.tax(query.of(contender)), figures.tax(query))
}

fn customers_ratio(figures: &Figures, contender: Contender) -> Option<f64> {
    let query = Query::new(contender, Workload::Established);
    ratio(figures.cost(query.customers(100_000)), figures.cost(query))
}

fn load_ratio(figures: &Figures, contender: Contender) -> Option<f64> {
    let query = control(Redirect, Workload::LoadAll, 100_000);
    ratio(figures.value(query.of(contender)), figures.value(query))
}

/// Ours with real ESP, where only one measurement of each kind is made.
fn esp(figures: &Figures, workload: Workload, unit: Unit) -> Option<&Figure> {
    figures
        .iter()
        .find(|figure| figure.contender == Redirect && figure.workload == workload && figure.unit == unit)
}

/// Instructions of it that its own first hook does not cost, see `esp.rs`.
fn esp_cost(figures: &Figures, workload: Workload) -> Option<f64> {
    figures.cost(Query::from(esp(figures, workload, Unit::Instructions)?))
}

#[cfg(test)]
mod tests {
    use super::{super::figures::tests::figure, *};

    fn measured(name: &str, figures: &[Figure]) -> Option<f64> {
        let target = ALL.iter().find(|target| target.name == name).unwrap();
        (target.measure)(&Figures::new(figures.to_vec()))
    }

    #[test]
    fn names_differ() {
        let mut names: Vec<_> = ALL.iter().map(|target| target.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn bounds_are_kept_at_their_edges() {
        assert!(AtMost(1.0).is_met(1.0) && !AtMost(1.0).is_met(1.001));
        assert!(AtLeast(5.0).is_met(5.0) && !AtLeast(5.0).is_met(4.999));
        assert!(!Above(4.0).is_met(4.0));
        assert!(!AtMost(1.0).is_met(f64::NAN) && !AtLeast(1.0).is_met(f64::NAN));
    }

    #[test]
    fn what_was_not_measured_has_no_number() {
        assert!(ALL.iter().all(|target| (target.measure)(&Figures::default()).is_none()));
    }

    #[test]
    fn numbers_are_computed_as_said() {
        let instructions = |contender, customers, value| {
            figure(contender, Workload::Established, customers, Unit::Instructions, value)
        };
        let figures = [
            instructions(Contender::IngressDrop, 1, 5871.0),
            instructions(Forwarding, 1, 8923.0),
            instructions(Stack, 1, 9123.0),
            instructions(Stack, 1000, 9123.0),
            instructions(Redirect, 1, 7400.0),
            instructions(Nftables, 1, 10_923.0),
            instructions(IptablesNft, 1000, 748_923.0),
        ];
        assert_eq!(measured("established-stack", &figures), Some(200.0 / 3052.0));
        assert_eq!(measured("established-redirect", &figures), Some(1529.0 / 3052.0));
        assert_eq!(measured("nftables-tax", &figures), Some(10.0));
        assert_eq!(measured("iptables-nft-tax-1000", &figures), Some(3700.0));
        assert_eq!(measured("iptables-nft-tax-10000", &figures), None);
    }
}
