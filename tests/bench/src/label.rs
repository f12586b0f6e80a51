//! Contenders, workloads and numbers as tables and plots call them.
use super::figure::{Contender, Workload};

/// Rows of tables, in this order. A drop at ingress is in none: it is what all costs are without.
pub const CONTENDERS: [Contender; 11] = [
    Contender::Forwarding,
    Contender::CallsOnly,
    Contender::Redirect,
    Contender::Stack,
    Contender::Nftables,
    Contender::NftablesTuned,
    Contender::NftablesIntervals,
    Contender::NftablesFlowtable,
    Contender::NftablesNetdevDrop,
    Contender::IptablesLegacy,
    Contender::IptablesNft,
];

/// A contender's name for people.
pub fn contender(contender: Contender) -> &'static str {
    match contender {
        Contender::IngressDrop => "drop at ingress",
        Contender::Forwarding => "forwarding, no firewall",
        Contender::CallsOnly => "the least: two hooks, clock, flow, lock",
        Contender::IptablesNft => "iptables-nft",
        Contender::IptablesLegacy => "iptables-legacy",
        Contender::Nftables => "nftables",
        Contender::NftablesIntervals => "nftables, interval sets",
        Contender::NftablesTuned => "nftables, tuned buckets",
        Contender::NftablesFlowtable => "nftables flowtable (not policy-equivalent)",
        Contender::NftablesNetdevDrop => "nftables netdev drop (forwards nothing)",
        Contender::Stack => "this project, to the stack",
        Contender::Redirect => "this project",
    }
}

/// A workload's name for people.
pub fn workload(workload: Workload) -> &'static str {
    match workload {
        Workload::Established => "established",
        Workload::Reply => "reply",
        Workload::NewConnection => "new connection",
        Workload::DeniedSyn => "denied SYN",
        Workload::FloodOfNewTuples => "flood of new tuples",
        Workload::Mixed => "mixed",
        Workload::BulkGro => "bulk upload, GRO on",
        Workload::BulkNoGro => "bulk upload, GRO off",
        Workload::Decapsulation => "decapsulation",
        Workload::FirewallAndForwarding => "firewall and forwarding",
        Workload::LoadAll => "load all",
        Workload::ChangeOne => "change one",
        Workload::MemoryPerFlow => "memory for a flow",
        Workload::MemoryPerCustomer => "memory for a customer",
        Workload::ControlAA => "against itself",
        Workload::Control50Ns => "against itself with 50 ns more",
    }
}

/// A number with three digits that count, thousands apart.
pub fn number(number: f64) -> String {
    let decimals = match number.abs() {
        0.0 => 0,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("−", text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let mut grouped = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}
