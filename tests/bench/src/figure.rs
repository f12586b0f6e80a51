//! One measured figure, as the measuring commands print it and the report reads it: a line of JSON.
use std::io::{self, BufRead, Write};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One figure and what it was measured with. Of instructions and times the value is raw: of the whole run,
/// for each packet or connection; the report subtracts what a drop at the first ingress hook costs.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What was measured.
    pub contender: Contender,
    /// What it had to do.
    pub workload: Workload,
    /// Customers that are configured.
    pub customers: u32,
    /// Which of them the packets are of.
    pub place: Place,
    /// Flows that are open.
    pub flows: u32,
    /// How the packets choose among the flows.
    pub choice: Choice,
    /// Bytes of a frame, Ethernet header included; 0 where there are no frames.
    pub frame_bytes: u32,
    /// Unit of the value, of low and of high.
    pub unit: Unit,
    /// Median of the rounds.
    pub value: f64,
    /// Least of the rounds; of times, the lower end of the 95 % confidence interval.
    pub low: f64,
    /// Most of the rounds; of times, the upper end of the 95 % confidence interval.
    pub high: f64,
    /// How many rounds.
    pub rounds: u32,
}

/// What is measured.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Dropped at the gateway's first ingress hook: generator and sink, which is subtracted.
    IngressDrop,
    /// Forwarding with no firewall and no netfilter table: the floor.
    Forwarding,
    /// No firewall: at the two hooks that a packet passes, programs that ask of the kernel what tracking a
    /// connection asks at the least, the time, its flow and the flow's lock. What any such firewall costs.
    CallsOnly,
    /// The original two rules for each customer, by `iptables-nft`.
    IptablesNft,
    /// The same by `iptables-legacy`.
    IptablesLegacy,
    /// The best ruleset: established first, then one verdict map.
    Nftables,
    /// The same with interval sets for LAN prefixes.
    NftablesIntervals,
    /// [`Self::Nftables`] with nf_conntrack's buckets tuned.
    NftablesTuned,
    /// nftables flowtable. Not policy-equivalent.
    NftablesFlowtable,
    /// A verdict map at netdev ingress that drops. It forwards nothing.
    NftablesNetdevDrop,
    /// This project, verdict passed to the stack.
    Stack,
    /// This project as shipped: redirected.
    Redirect,
}

/// What contenders do.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Packets of established flows, LAN to server.
    Established,
    /// Replies from the server.
    Reply,
    /// Connections from SYN to last ACK; figures are for each connection.
    NewConnection,
    /// SYNs that the policy does not allow.
    DeniedSyn,
    /// Allowed SYNs, each of another flow.
    FloodOfNewTuples,
    /// Some of everything.
    Mixed,
    /// Bulk upload through ESP with GRO.
    BulkGro,
    /// Bulk upload through ESP without GRO.
    BulkNoGro,
    /// ESP: share of decapsulation.
    Decapsulation,
    /// ESP: share of firewall and forwarding.
    FirewallAndForwarding,
    /// Control: all customers from nothing.
    LoadAll,
    /// Control: one customer more.
    ChangeOne,
    /// Kernel memory for a flow.
    MemoryPerFlow,
    /// Kernel memory for a customer.
    MemoryPerCustomer,
    /// One contender against itself.
    #[serde(rename = "control-a-a")]
    ControlAA,
    /// One contender against itself with 50 ns more.
    #[serde(rename = "control-50-ns")]
    Control50Ns,
}

impl Workload {
    /// Those of packets without ESP.
    pub const PACKETS: [Self; 6] = [
        Self::Established,
        Self::Reply,
        Self::NewConnection,
        Self::DeniedSyn,
        Self::FloodOfNewTuples,
        Self::Mixed,
    ];
}

/// Which customer of all packets are of.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The one added first.
    First,
    /// One in the middle.
    Middle,
    /// The one added last.
    Last,
}

/// How packets choose among flows.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Each as likely.
    Uniform,
    /// The k-th with likelihood 1/k.
    Zipf,
}

/// Units of figures.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Instructions for a packet or connection.
    Instructions,
    /// Nanoseconds for a packet or connection.
    Nanoseconds,
    /// Time as a multiple of the floor's in adjacent blocks.
    Ratio,
    /// Bytes.
    Bytes,
    /// Segments that a packet is merged from.
    Segments,
    /// Milliseconds.
    Milliseconds,
}

impl Figure {
    /// Writes it as a line of JSON.
    pub fn write(&self, output: &mut impl Write) -> Result<()> {
        let line = serde_json::to_string(self).context("write a figure as JSON")?;
        writeln!(output, "{line}").context("write a figure")
    }

    /// Reads the figures in an output. Other lines, which do not begin with a brace, are skipped.
    pub fn read_all(input: impl BufRead) -> Result<Vec<Self>> {
        let lines: Vec<String> = input.lines().collect::<io::Result<_>>().context("read figures")?;
        lines
            .iter()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a figure: {line}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_survives_being_written_among_other_lines() {
        let figure = Figure {
            contender: Contender::NftablesNetdevDrop,
            workload: Workload::Control50Ns,
            customers: 100_000,
            place: Place::Middle,
            flows: 64_000,
            choice: Choice::Zipf,
            frame_bytes: 64,
            unit: Unit::Instructions,
            value: 897.5,
            low: 896.0,
            high: 898.25,
            rounds: 5,
        };
        let mut output = b"booting\n".to_vec();
        figure.write(&mut output).unwrap();
        let text = String::from_utf8(output.clone()).unwrap();
        assert!(text.contains(r#""contender":"nftables-netdev-drop","workload":"control-50-ns""#), "{text}");
        assert_eq!(Figure::read_all(&output[..]).unwrap(), [figure]);
        assert!(Figure::read_all(&b"{\"contender\":\"unheard-of\"}\n"[..]).is_err());
    }
}
