//! Rulesets of the kernel's own firewalls, as text for their tools: this project's policy for customers 1 to
//! N.
//!
//! | customer | its server | its LAN, the same for all | mark |
//! |---|---|---|---|
//! | N | 10.128.0.0 + N, TCP 80 | 192.168.0.0/16, devices from 192.168.0.2 on | N, or 0 for all |
use std::{
    fmt::{self, Display, Write as _},
    net::Ipv4Addr,
};

/// The port that servers offer.
pub const PORT: u16 = 80;
/// The servers' network: address and prefix length.
pub const SERVERS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);
/// The LAN of every customer: network address and prefix length.
pub const LAN: (Ipv4Addr, u8) = (Ipv4Addr::new(192, 168, 0, 0), 16);
/// The interface that receives packets from sites.
pub const SITE_INTERFACE: &str = "site";
/// The interface towards the servers.
pub const LAN_INTERFACE: &str = "lan";

/// The table and the map of a ruleset. [`Ruleset::change`] adds to the map.
const TABLE: &str = "bench";
const MAP: &str = "allowed";

/// A ruleset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ruleset {
    /// Two iptables rules for each customer, nft back end.
    IptablesNft,
    /// Two iptables rules for each customer, legacy back end.
    IptablesLegacy,
    /// Established connections first, then a verdict map with an element for each device.
    Nftables,
    /// The same with an element for each LAN prefix.
    NftablesIntervals,
    /// [`Self::Nftables`] with a flowtable.
    NftablesFlowtable,
    /// A verdict map at netdev ingress.
    NftablesNetdevDrop,
}

/// The command that loads a ruleset from its standard input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loader {
    /// The tool.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: &'static [&'static str],
}

/// The customers that a ruleset is for.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Number of customers, counted from 1.
    pub customers: u32,
    /// The marks of tunnels' packets.
    pub marks: Marks,
    /// Devices of each customer, from 192.168.0.2 on, for rulesets that name each device.
    pub devices: u32,
}

/// The marks of packets when the rules see them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marks {
    /// The mark of their tunnel, which is the customer's number.
    Tunnel,
    /// No mark, if nothing sets one: the rules compare with 0, at the same cost.
    Zero,
}

impl Policy {
    /// Returns a policy with one device for each customer and tunnels' marks.
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

/// Returns the address of a customer's server.
pub fn server(customer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SERVERS.0.to_bits() + customer)
}

/// Returns the address of a customer's device, counted from 0.
pub fn device(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(LAN.0.to_bits() + 2 + number)
}

impl Ruleset {
    /// Returns the command that loads the ruleset.
    pub fn loader(self) -> Loader {
        match self {
            Self::IptablesNft => Loader { program: "iptables-nft-restore", arguments: &[] },
            Self::IptablesLegacy => Loader { program: "iptables-legacy-restore", arguments: &[] },
            Self::Nftables | Self::NftablesIntervals | Self::NftablesFlowtable | Self::NftablesNetdevDrop => {
                Loader { program: "nft", arguments: &["-f", "-"] }
            }
        }
    }

    /// Returns the ruleset as its loader reads it.
    pub fn text(self, policy: &Policy) -> String {
        match self {
            Self::IptablesNft | Self::IptablesLegacy => iptables(policy),
            Self::Nftables => forward(policy, Lan::Devices, ""),
            Self::NftablesIntervals => forward(policy, Lan::Prefixes, ""),
            Self::NftablesFlowtable => forward(policy, Lan::Devices, "  ip protocol tcp flow add @fast\n"),
            Self::NftablesNetdevDrop => netdev(policy),
        }
    }

    /// Returns the change that adds customer N + 1 to N, or removes that customer again; `None` for rulesets
    /// whose changes are not measured.
    pub fn change(self, policy: &Policy, add: bool) -> Option<Change> {
        match self {
            Self::IptablesNft => Some(change_rules("iptables-nft", policy, add)),
            Self::IptablesLegacy => Some(change_rules("iptables-legacy", policy, add)),
            Self::Nftables => Some(change_elements(Lan::Devices, policy, add)),
            Self::NftablesIntervals => Some(change_elements(Lan::Prefixes, policy, add)),
            Self::NftablesFlowtable | Self::NftablesNetdevDrop => None,
        }
    }
}

/// One change, made with the ruleset's own tool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The tool.
    pub program: &'static str,
    /// Its arguments, one list for each run.
    pub runs: Vec<Vec<String>>,
}

/// Returns the input of `iptables-restore`, the same for both back ends: two rules for each customer.
fn iptables(policy: &Policy) -> String {
    let mut text = String::from("*filter\n:FORWARD DROP [0:0]\n");
    for customer in 1..=policy.customers {
        for rule in iptables_rules(policy, customer) {
            text += &rule;
            text.push('\n');
        }
    }
    text + "COMMIT\n"
}

/// Returns one customer's two rules: new and established towards the server, established back.
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

/// The form of the customers' LANs in a verdict map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lan {
    /// Each device: a hash table.
    Devices,
    /// Prefixes: a set of intervals, stored by the kernel as `pipapo`.
    Prefixes,
}

/// Returns a ruleset that accepts established connections first, then looks up mark, source, destination and
/// port in one verdict map.
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

/// Returns a ruleset that drops denied packets at the site's interface, before routing and conntrack. It
/// decides nothing else and forwards nothing statefully.
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

/// Writes `elements = { … }` in lines. Writes nothing without elements: nft rejects an empty list.
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

/// Appends or deletes one customer's two rules.
fn change_rules(program: &'static str, policy: &Policy, add: bool) -> Change {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rules = iptables_rules(policy, policy.customers + 1);
    let runs = rules.iter().map(|rule| words(&if add { rule.clone() } else { rule.replacen("-A", "-D", 1) }));
    Change { program, runs: runs.collect() }
}

/// Adds or deletes one customer's elements of the verdict map.
fn change_elements(lan: Lan, policy: &Policy, add: bool) -> Change {
    let tuples = tuples(policy, policy.customers + 1, lan);
    // nft deletes by key.
    let tuples: Vec<_> =
        tuples.iter().map(|tuple| if add { tuple } else { tuple.trim_end_matches(" : accept") }).collect();
    let verb = if add { "add" } else { "delete" };
    let command = format!("{verb} element ip {TABLE} {MAP} {{ {} }}", tuples.join(", "));
    Change { program: "nft", runs: vec![vec![command]] }
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
        let of = |ruleset: Ruleset, devices| ruleset.text(&Policy { devices, ..Policy::of(10) });
        assert_eq!(of(Ruleset::Nftables, 3).matches(" : accept").count(), 30);
        assert_eq!(of(Ruleset::NftablesIntervals, 3).matches(" . 192.168.0.0/16 . ").count(), 10);
        assert_eq!(of(Ruleset::NftablesNetdevDrop, 3).matches(" : accept").count(), 10);
    }

    #[test]
    fn change_adds_the_next_customer_and_removes_it_again() {
        let add = Ruleset::Nftables.change(&Policy::of(7), true).unwrap();
        assert_eq!(
            add.runs,
            [["add element ip bench allowed { 8 . 192.168.0.2 . 10.128.0.8 . 80 : accept }"]]
        );
        let delete = Ruleset::IptablesLegacy.change(&Policy::of(7), false).unwrap();
        assert_eq!(delete.runs.len(), 2);
        assert!(delete.runs.iter().all(|run| run[0] == "-D" && run.contains(&"10.128.0.8".to_owned())));
    }
}
