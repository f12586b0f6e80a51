//! The targets, as data: the formula of each number and its bound.
use super::{
    contender::Contender,
    figure::{Figure, Unit},
    figures::{Figures, Query},
    workload::{Choice, Workload},
};

/// A target.
pub struct Target {
    /// Its name in `explanations.toml`.
    pub name: &'static str,
    /// The subject, for people.
    pub subject: &'static str,
    /// The formula of the number, for people. "(stack)" is this project via the stack.
    pub formula: &'static str,
    /// The bound of the number.
    pub bound: Bound,
    /// Returns the number, or `None` unless all its figures were measured.
    pub measure: fn(&Figures) -> Option<f64>,
}

/// The bound of a number.
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
    /// Returns true if a number is within the bound.
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

/// All targets, in the order of the original issue.
pub const ALL: &[Target] = &[
    Target {
        name: "established-stack",
        subject: "established packet, via the stack",
        formula: "tax ÷ floor",
        bound: AtMost(0.12),
        measure: |figures| {
            let query = Query::new(Stack, Workload::Established);
            ratio(figures.tax(query), figures.floor(query))
        },
    },
    Target {
        name: "established-redirect",
        subject: "established packet, redirected",
        formula: "cost ÷ floor",
        bound: AtMost(0.65),
        measure: |figures| {
            let query = Query::new(Redirect, Workload::Established);
            ratio(figures.cost(query), figures.floor(query))
        },
    },
    Target {
        name: "nftables-tax",
        subject: "established packet, nftables",
        formula: "tax ÷ ours (stack)",
        bound: AtLeast(5.0),
        measure: |figures| tax_ratio(figures, Nftables, 1),
    },
    Target {
        name: "iptables-nft-tax-1",
        subject: "established packet, iptables-nft",
        formula: "tax ÷ ours (stack)",
        bound: AtLeast(5.0),
        measure: |figures| tax_ratio(figures, IptablesNft, 1),
    },
    Target {
        name: "iptables-nft-tax-1000",
        subject: "established packet, iptables-nft",
        formula: "tax ÷ ours (stack), 1,000 customers",
        bound: AtLeast(1500.0),
        measure: |figures| tax_ratio(figures, IptablesNft, 1000),
    },
    Target {
        name: "iptables-nft-tax-10000",
        subject: "established packet, iptables-nft",
        formula: "tax ÷ ours (stack), 10,000 customers",
        bound: AtLeast(15_000.0),
        measure: |figures| tax_ratio(figures, IptablesNft, 10_000),
    },
    Target {
        name: "iptables-legacy-tax-1",
        subject: "established packet, iptables-legacy",
        formula: "tax ÷ ours (stack)",
        bound: AtLeast(4.0),
        measure: |figures| tax_ratio(figures, IptablesLegacy, 1),
    },
    Target {
        name: "iptables-legacy-tax-1000",
        subject: "established packet, iptables-legacy",
        formula: "tax ÷ ours (stack), 1,000 customers",
        bound: AtLeast(100.0),
        measure: |figures| tax_ratio(figures, IptablesLegacy, 1000),
    },
    Target {
        name: "iptables-legacy-tax-10000",
        subject: "established packet, iptables-legacy",
        formula: "tax ÷ ours (stack), 10,000 customers",
        bound: AtLeast(1000.0),
        measure: |figures| tax_ratio(figures, IptablesLegacy, 10_000),
    },
    Target {
        name: "customers-stack",
        subject: "100,000 customers, via the stack",
        formula: "cost ÷ cost with 1 customer",
        bound: AtMost(1.01),
        measure: |figures| customers_ratio(figures, Stack),
    },
    Target {
        name: "customers-redirect",
        subject: "100,000 customers, redirected",
        formula: "cost ÷ cost with 1 customer",
        bound: AtMost(1.01),
        measure: |figures| customers_ratio(figures, Redirect),
    },
    Target {
        name: "million-flows",
        subject: "1,000,000 flows, uniform, time",
        formula: "tax (stack) ÷ nftables, tuned buckets",
        bound: AtMost(0.5),
        measure: |figures| {
            let query = Query {
                flows: 1_000_000,
                choice: Choice::Uniform,
                unit: Unit::Ratio,
                ..Query::new(Stack, Workload::Established)
            };
            // Tuned buckets are measured separately, so each tax is relative to its own adjacent floor.
            let tax = |contender| Some(figures.value(query.of(contender))? - 1.0);
            ratio(tax(Stack), tax(NftablesTuned))
        },
    },
    Target {
        name: "new-connection",
        subject: "whole connection, nftables",
        formula: "tax ÷ ours (stack)",
        bound: AtLeast(6.0),
        measure: |figures| {
            let query = Query::new(Stack, Workload::NewConnection);
            ratio(figures.tax(query.of(Nftables)), figures.tax(query))
        },
    },
    Target {
        name: "denied-syn-floor",
        subject: "denied SYN",
        formula: "cost ÷ floor",
        bound: AtMost(0.12),
        measure: |figures| {
            let query = Query::new(Redirect, Workload::DeniedSyn);
            ratio(figures.cost(query), figures.cost(query.of(Forwarding)))
        },
    },
    Target {
        name: "denied-syn-netdev",
        subject: "denied SYN",
        formula: "cost ÷ nftables netdev drop",
        bound: AtMost(0.4),
        measure: |figures| {
            let query = Query::new(Redirect, Workload::DeniedSyn);
            ratio(figures.cost(query), figures.cost(query.of(NftablesNetdevDrop)))
        },
    },
    Target {
        name: "load-all",
        subject: "loading 100,000 customers",
        formula: "milliseconds",
        bound: AtMost(100.0),
        measure: |figures| figures.value(control(Redirect, Workload::LoadAll, 100_000)),
    },
    Target {
        name: "load-all-nft",
        subject: "loading 100,000 customers",
        formula: "`nft -f` ÷ ours",
        bound: AtLeast(10.0),
        measure: |figures| load_ratio(figures, Nftables),
    },
    Target {
        name: "load-all-iptables",
        subject: "loading 100,000 customers",
        formula: "`iptables-nft-restore` ÷ ours",
        bound: AtLeast(100.0),
        measure: |figures| load_ratio(figures, IptablesNft),
    },
    Target {
        name: "load-all-iptables-legacy",
        subject: "loading 100,000 customers",
        formula: "`iptables-legacy-restore` ÷ ours",
        bound: AtLeast(100.0),
        measure: |figures| load_ratio(figures, IptablesLegacy),
    },
    Target {
        name: "change-one",
        subject: "adding one customer to 100,000",
        formula: "milliseconds",
        bound: AtMost(1.0),
        measure: |figures| figures.value(control(Redirect, Workload::ChangeOne, 100_000)),
    },
    Target {
        name: "change-one-scale",
        subject: "adding one customer to 100,000",
        formula: "time ÷ time with 1 customer",
        bound: AtMost(1.1),
        measure: |figures| {
            let query = control(Redirect, Workload::ChangeOne, 100_000);
            ratio(figures.value(query), figures.value(query.customers(1)))
        },
    },
    Target {
        name: "flow-memory",
        subject: "kernel memory of an IPv4 flow",
        formula: "bytes",
        bound: AtMost(160.0),
        measure: |figures| figures.value(memory(Redirect)),
    },
    Target {
        name: "flow-memory-conntrack",
        subject: "kernel memory of an IPv4 flow",
        formula: "ours ÷ nf_conntrack",
        bound: AtMost(0.5),
        measure: |figures| ratio(figures.value(memory(Redirect)), figures.value(memory(Nftables))),
    },
    Target {
        name: "bulk-segments",
        subject: "bulk upload through ESP, GRO on",
        formula: "mean segments in a packet",
        bound: Above(4.0),
        measure: |figures| Some(esp(figures, Workload::BulkGro, Unit::Segments)?.value),
    },
    Target {
        name: "bulk-instructions",
        subject: "bulk upload through ESP",
        formula: "instructions a byte, GRO off ÷ GRO on",
        bound: AtLeast(3.0),
        measure: |figures| {
            let cost = |workload| esp_cost(figures, workload);
            ratio(cost(Workload::BulkNoGro), cost(Workload::BulkGro))
        },
    },
    Target {
        name: "esp-share",
        subject: "firewall and forwarding after ESP",
        formula: "share in the sum with decapsulation",
        bound: Reported,
        measure: |figures| {
            let ours = esp_cost(figures, Workload::FirewallAndForwarding)?;
            Some(ours / (ours + esp_cost(figures, Workload::Decapsulation)?))
        },
    },
    Target {
        name: "ike-sa-init",
        subject: "IKE_SA_INIT, 10,000 customers",
        formula: "milliseconds of charon's CPU",
        bound: AtMost(2.0),
        measure: |figures| milliseconds(figures, Workload::IkeSaInit, 10_000),
    },
    Target {
        name: "ike-sa-init-customers",
        subject: "IKE_SA_INIT, 100,000 customers",
        formula: "time ÷ time with 100",
        bound: AtMost(1.2),
        measure: |figures| by_customers(figures, Workload::IkeSaInit, 100_000),
    },
    Target {
        name: "ike-auth",
        subject: "IKE_AUTH, 10,000 customers",
        formula: "milliseconds of charon's CPU",
        bound: AtMost(6.0),
        measure: |figures| milliseconds(figures, Workload::IkeAuth, 10_000),
    },
    Target {
        name: "ike-auth-customers",
        subject: "IKE_AUTH, 100,000 customers",
        formula: "time ÷ time with 100",
        bound: AtMost(1.2),
        measure: |figures| by_customers(figures, Workload::IkeAuth, 100_000),
    },
    Target {
        name: "start-to-connect",
        subject: "start with 10,000 customers",
        formula: "milliseconds until one can connect",
        bound: AtMost(1000.0),
        measure: |figures| milliseconds(figures, Workload::StartToConnect, 10_000),
    },
    Target {
        name: "policies-read",
        subject: "10,000 customers read and checked",
        formula: "milliseconds",
        bound: AtMost(500.0),
        measure: |figures| milliseconds(figures, Workload::PoliciesRead, 10_000),
    },
    Target {
        name: "policies-read-100000",
        subject: "100,000 customers read and checked",
        formula: "milliseconds",
        bound: AtMost(5000.0),
        measure: |figures| milliseconds(figures, Workload::PoliciesRead, 100_000),
    },
    Target {
        name: "event-to-entry",
        subject: "event to entry, 10,000 tunnels",
        formula: "milliseconds, 99th percentile",
        bound: AtMost(20.0),
        measure: |figures| milliseconds(figures, Workload::EventToEntry, 10_000),
    },
    Target {
        name: "event-to-entry-tunnels",
        subject: "event to entry, 10,000 tunnels",
        formula: "99th percentile ÷ that with 100",
        bound: AtMost(1.2),
        measure: |figures| by_customers(figures, Workload::EventToEntry, 10_000),
    },
    Target {
        name: "all-connect",
        subject: "10,000 sites connect at once",
        formula: "milliseconds",
        bound: Reported,
        measure: |figures| milliseconds(figures, Workload::AllConnect, 10_000),
    },
    Target {
        name: "daemon-share",
        subject: "gatewayd while 10,000 sites connect",
        formula: "CPU time ÷ charon's",
        bound: AtMost(0.2),
        measure: |figures| figures.value(tunnels(Workload::DaemonShare, Unit::Ratio, 10_000)),
    },
    Target {
        name: "daemon-idle",
        subject: "gatewayd idle, 10,000 tunnels",
        formula: "share of a core",
        bound: AtMost(0.005),
        measure: |figures| figures.value(tunnels(Workload::DaemonIdle, Unit::Ratio, 10_000)),
    },
    Target {
        name: "daemon-memory",
        subject: "gatewayd's memory, 10,000 tunnels",
        formula: "MB",
        bound: AtMost(100.0),
        measure: |figures| Some(figures.value(tunnels(Workload::DaemonMemory, Unit::Bytes, 10_000))? / 1e6),
    },
    Target {
        name: "customer-added",
        subject: "adding one customer to 10,000",
        formula: "milliseconds until packets pass",
        bound: AtMost(50.0),
        measure: |figures| milliseconds(figures, Workload::CustomerAdded, 10_000),
    },
];

/// Returns the query for what IKE and gatewayd take with this many tunnels, or with this many customers in the policy.
pub fn tunnels(workload: Workload, unit: Unit, customers: u32) -> Query {
    Query { unit, ..Query::new(Redirect, workload).customers(customers) }
}

/// Returns the query for loading or changing customers.
pub fn control(contender: Contender, workload: Workload, customers: u32) -> Query {
    Query { unit: Unit::Milliseconds, ..Query::new(contender, workload).customers(customers) }
}

/// Returns the query for the memory of a flow.
pub fn memory(contender: Contender) -> Query {
    Query { unit: Unit::Bytes, ..Query::new(contender, Workload::MemoryPerFlow) }
}

/// Returns the milliseconds of a workload of tunnels with this many customers.
fn milliseconds(figures: &Figures, workload: Workload, customers: u32) -> Option<f64> {
    figures.value(tunnels(workload, Unit::Milliseconds, customers))
}

/// Returns those milliseconds divided by those with 100 customers.
fn by_customers(figures: &Figures, workload: Workload, customers: u32) -> Option<f64> {
    ratio(milliseconds(figures, workload, customers), milliseconds(figures, workload, 100))
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

/// Returns this project's figure with real ESP; each kind is measured only once.
fn esp(figures: &Figures, workload: Workload, unit: Unit) -> Option<&Figure> {
    figures
        .iter()
        .find(|figure| figure.contender == Redirect && figure.workload == workload && figure.unit == unit)
}

/// Returns this project's instructions with real ESP, minus those before its first hook; see `esp.rs`.
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
    fn unmeasured_target_has_no_number() {
        assert!(ALL.iter().all(|target| (target.measure)(&Figures::default()).is_none()));
    }

    #[test]
    fn numbers_follow_the_formulas() {
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
