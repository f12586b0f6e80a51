//! The contenders' rulesets, as text for their tools: the same policy as ours, for customers 1 to N.
//!
//! | customer | its server | its LAN, the same for all | mark |
//! |---|---|---|---|
//! | N | 10.128.0.0 + N, TCP 80 | 192.168.0.0/16, devices from 192.168.0.2 on | N, or 0 for all |
use std::{
    fmt::{self, Display, Write as _},
    net::Ipv4Addr,
};

use super::figure::Contender;

/// The port that servers offer.
pub const PORT: u16 = 80;
/// Where the servers are, network address and prefix length.
pub const SERVERS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);
/// Where every customer's devices are, network address and prefix length.
pub const LAN: (Ipv4Addr, u8) = (Ipv4Addr::new(192, 168, 0, 0), 16);
/// The interface that packets from sites come in by.
pub const SITE_INTERFACE: &str = "site";
/// The interface towards the servers.
pub const LAN_INTERFACE: &str = "lan";

/// A ruleset's table and chain, which [`change`] adds to.
const TABLE: &str = "bench";
const MAP: &str = "allowed";

/// Which customers a ruleset is for.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Customers 1 to this.
    pub customers: u32,
    /// What mark a tunnel's packets have.
    pub marks: Marks,
    /// Devices of each customer, for rulesets that name each: 192.168.0.2 and those that follow.
    pub devices: u32,
}

/// What mark packets have where the rules look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marks {
    /// That of their tunnel, which is the customer's number.
    Tunnel,
    /// None, where nothing sets it: the rules ask for 0, at the same cost.
    Zero,
}

impl Policy {
    /// One device, marks of tunnels.
    pub fn of(customers: u32) -> Self {
        Self { customers, marks: Marks::Tunnel, devices: 1 }
    }

    fn mark(&self, customer: u32) -> u32 {
        match self.marks {
            Marks::Tunnel => customer,
            Marks::Zero => 0,
        }
    }
}

/// A customer's server.
pub fn server(customer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SERVERS.0.to_bits() + customer)
}

/// A customer's device, counted from 0.
pub fn device(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(LAN.0.to_bits() + 2 + number)
}

/// The ruleset for `iptables-restore`, nft back end or legacy alike: two rules for each customer.
pub fn iptables(policy: &Policy) -> String {
    let mut text = String::from("*filter\n:FORWARD DROP [0:0]\n");
    for customer in 1..=policy.customers {
        for rule in iptables_rules(policy, customer) {
            text += &rule;
            text.push('\n');
        }
    }
    text + "COMMIT\n"
}

/// One customer's two rules: new and established towards the server, established back.
fn iptables_rules(policy: &Policy, customer: u32) -> [String; 2] {
    let (server, mark) = (server(customer), policy.mark(customer));
    let lan = Net(LAN);
    [
        format!(
            "-A FORWARD -s {lan} -d {server} -p tcp --dport {PORT} \
             -m conntrack --ctstate NEW,ESTABLISHED -m mark --mark {mark} -j ACCEPT"
        ),
        format!(
            "-A FORWARD -s {server} -d {lan} -p tcp --sport {PORT} \
             -m conntrack --ctstate ESTABLISHED -m mark --mark {mark} -j ACCEPT"
        ),
    ]
}

/// The ruleset for `nft -f` of one of the contenders that nftables runs; None for another contender.
pub fn nftables(contender: Contender, policy: &Policy) -> Option<String> {
    match contender {
        Contender::Nftables | Contender::NftablesTuned => Some(forward(policy, Lan::Devices, "")),
        Contender::NftablesIntervals => Some(forward(policy, Lan::Prefixes, "")),
        Contender::NftablesFlowtable => {
            Some(forward(policy, Lan::Devices, "  ip protocol tcp flow add @fast\n"))
        }
        Contender::NftablesNetdevDrop => Some(netdev(policy)),
        _ => None,
    }
}

/// How a verdict map has the customers' LANs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lan {
    /// Each device: a hash table.
    Devices,
    /// Prefixes: a set of intervals, which the kernel keeps as `pipapo`.
    Prefixes,
}

/// Established first, then one verdict map on mark, source, destination and port.
fn forward(policy: &Policy, lan: Lan, before: &str) -> String {
    let flags = if lan == Lan::Prefixes { "flags interval; " } else { "" };
    let mut text = format!("table ip {TABLE} {{\n");
    if !before.is_empty() {
        _ = writeln!(
            text,
            " flowtable fast {{ hook ingress priority 0; devices = {{ {SITE_INTERFACE}, {LAN_INTERFACE} }}; }}"
        );
    }
    _ = writeln!(text, " map {MAP} {{ type mark . ipv4_addr . ipv4_addr . inet_service : verdict; {flags}");
    elements(&mut text, (1..=policy.customers).flat_map(|customer| tuples(policy, customer, lan)));
    text += &format!(
        " }}\n chain forward {{\n  type filter hook forward priority 0; policy drop;\n{before}\
         \x20 ct state established accept\n\
         \x20 ct state invalid drop\n\
         \x20 meta mark . ip saddr . ip daddr . tcp dport vmap @{MAP}\n }}\n}}\n"
    );
    text
}

fn tuples(policy: &Policy, customer: u32, lan: Lan) -> Vec<String> {
    let (server, mark) = (server(customer), policy.mark(customer));
    let tuple = |source: &dyn Display| format!("{mark} . {source} . {server} . {PORT} : accept");
    match lan {
        Lan::Prefixes => vec![tuple(&Net(LAN))],
        Lan::Devices => (0..policy.devices).map(|number| tuple(&device(number))).collect(),
    }
}

/// What is not allowed is dropped at the site's interface, before routing and conntrack; nothing else is
/// decided, and nothing forwarded statefully.
fn netdev(policy: &Policy) -> String {
    let mut text =
        format!("table netdev {TABLE} {{\n map {MAP} {{ type mark . ipv4_addr . inet_service : verdict;\n");
    elements(
        &mut text,
        (1..=policy.customers)
            .map(|customer| format!("{} . {} . {PORT} : accept", policy.mark(customer), server(customer))),
    );
    text += &format!(
        " }}\n chain ingress {{\n  type filter hook ingress device {SITE_INTERFACE} priority 0; policy drop;\n\
         \x20 meta mark . ip daddr . tcp dport vmap @{MAP}\n  arp operation request accept\n }}\n}}\n"
    );
    text
}

/// `elements = { … }`, in lines; nothing if there are none, which nft refuses.
fn elements(text: &mut String, elements: impl Iterator<Item = String>) {
    let mut between = "  elements = {\n   ";
    for element in elements {
        text.push_str(between);
        text.push_str(&element);
        between = ",\n   ";
    }
    if between.starts_with(',') {
        text.push_str(" }\n");
    }
}

/// One change, as the contender's own tool makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The tool.
    pub program: &'static str,
    /// Its arguments, one list for each run.
    pub runs: Vec<Vec<String>>,
}

/// What adds customer N + 1 to N, or takes it away again; None if no tool of its own does that for this
/// contender.
pub fn change(contender: Contender, policy: &Policy, add: bool) -> Option<Change> {
    let customer = policy.customers + 1;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let iptables = |program| {
        let rules = iptables_rules(policy, customer);
        let rules =
            rules.iter().map(|rule| words(&if add { rule.clone() } else { rule.replacen("-A", "-D", 1) }));
        Change { program, runs: rules.collect() }
    };
    let nft = |lan| {
        // nft deletes by key.
        let tuples = tuples(policy, customer, lan);
        let tuples: Vec<_> = tuples
            .iter()
            .map(|tuple| if add { tuple } else { tuple.trim_end_matches(" : accept") })
            .collect();
        let verb = if add { "add" } else { "delete" };
        let command = format!("{verb} element ip {TABLE} {MAP} {{ {} }}", tuples.join(", "));
        Change { program: "nft", runs: vec![vec![command]] }
    };
    match contender {
        Contender::IptablesNft => Some(iptables("iptables-nft")),
        Contender::IptablesLegacy => Some(iptables("iptables-legacy")),
        Contender::Nftables | Contender::NftablesTuned => Some(nft(Lan::Devices)),
        Contender::NftablesIntervals => Some(nft(Lan::Prefixes)),
        _ => None,
    }
}

struct Net((Ipv4Addr, u8));

impl Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.0, self.0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iptables_has_two_rules_for_each_customer() {
        let text = iptables(&Policy::of(1000));
        assert_eq!(text.lines().filter(|line| line.starts_with("-A FORWARD")).count(), 2000);
        assert!(text.contains(
            "-A FORWARD -s 192.168.0.0/16 -d 10.128.3.232 -p tcp --dport 80 \
             -m conntrack --ctstate NEW,ESTABLISHED -m mark --mark 1000 -j ACCEPT\n"
        ));
        assert!(iptables(&Policy { marks: Marks::Zero, ..Policy::of(3) }).contains("--mark 0 "));
    }

    #[test]
    fn nftables_has_one_element_for_each_customer_and_device() {
        let of = |contender, devices| nftables(contender, &Policy { devices, ..Policy::of(10) }).unwrap();
        assert_eq!(of(Contender::Nftables, 3).matches(" : accept").count(), 30);
        assert_eq!(of(Contender::NftablesIntervals, 3).matches(" . 192.168.0.0/16 . ").count(), 10);
        assert_eq!(of(Contender::NftablesNetdevDrop, 3).matches(" : accept").count(), 10);
        assert!(nftables(Contender::Stack, &Policy::of(1)).is_none());
    }

    #[test]
    fn change_adds_the_next_customer_and_takes_it_away() {
        let add = change(Contender::Nftables, &Policy::of(7), true).unwrap();
        assert_eq!(
            add.runs,
            [["add element ip bench allowed { 8 . 192.168.0.2 . 10.128.0.8 . 80 : accept }"]]
        );
        let delete = change(Contender::IptablesLegacy, &Policy::of(7), false).unwrap();
        assert_eq!(delete.runs.len(), 2);
        assert!(delete.runs.iter().all(|run| run[0] == "-D" && run.contains(&"10.128.0.8".to_owned())));
    }
}
