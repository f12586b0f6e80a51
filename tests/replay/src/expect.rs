//! The expectations of a step: verdict, counters and flows, parsed from text.
use std::{collections::BTreeMap, str::FromStr};

use anyhow::{Context, Error, Result, bail, ensure};
use gateway_common::{
    layout::{APPROVED_MARK, Hook},
    reason::Reason,
    tcp::{Flow, State},
    time::Ticks,
};
use gateway_tests_kit::{
    flow::FlowId,
    text::number,
    world::{customer_id, customer_name, named_mark, tunnel_id, tunnel_name},
};
use serde::Deserialize;

/// The fate of a packet, as the kernel sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Verdict {
    /// `drop Reason`
    Drop(Reason),
    /// `answer`: goes back to its sender; `out` is the whole answer.
    Answer,
    /// `pass`: continues on its usual way, with an unchanged mark.
    Pass,
    /// `to server`: redirected to the LAN, marked as approved and with the tunnel's mark.
    ToServer,
    /// `to tunnel NAME`: passed to the stack with the mark of that site's tunnel, or with the mark NAME.
    ToTunnel(u32),
}

impl FromStr for Verdict {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words[..] {
            ["drop", name] => Self::Drop(
                *Reason::ALL
                    .iter()
                    .find(|reason| reason.name() == name)
                    .with_context(|| format!("no reason is named {name:?}"))?,
            ),
            ["answer"] => Self::Answer,
            ["pass"] => Self::Pass,
            ["to", "server"] => Self::ToServer,
            ["to", "tunnel", name] => Self::ToTunnel(named_mark(name)?),
            _ => bail!("{text:?} is not a verdict"),
        })
    }
}

impl TryFrom<String> for Verdict {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: Error| format!("{error:#}"))
    }
}

// From linux/bpf.h and linux/pkt_cls.h; independent of the programs' definitions on purpose.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

impl Verdict {
    /// Returns the program's expected return value.
    pub fn action(self, hook: Hook) -> u32 {
        match (self, hook) {
            (Self::Drop(_), Hook::InternetXdp) => XDP_DROP,
            (Self::Drop(_), _) => TC_ACT_SHOT,
            (Self::Pass, Hook::InternetXdp) => XDP_PASS,
            (Self::Answer, _) => XDP_TX,
            (Self::Pass | Self::ToTunnel(_), _) => TC_ACT_OK,
            (Self::ToServer, _) => TC_ACT_REDIRECT,
        }
    }

    /// Returns the expected skb->mark after the program.
    pub fn mark(self, before: u32) -> u32 {
        match self {
            Self::Drop(_) | Self::Pass | Self::Answer => before,
            Self::ToServer => APPROVED_MARK | before,
            Self::ToTunnel(mark) => mark,
        }
    }
}

/// Returns the name of a program's return value.
pub fn action_name(action: u32, hook: Hook) -> String {
    let name = match (hook, action) {
        (Hook::InternetXdp, XDP_DROP) => "XDP_DROP",
        (Hook::InternetXdp, XDP_PASS) => "XDP_PASS",
        (Hook::InternetXdp, XDP_TX) => "XDP_TX",
        (Hook::InternetXdp, _) => return format!("XDP action {action}"),
        (_, TC_ACT_OK) => "TC_ACT_OK",
        (_, TC_ACT_SHOT) => "TC_ACT_SHOT",
        (_, TC_ACT_REDIRECT) => "TC_ACT_REDIRECT",
        _ => return format!("TC action {}", action as i32),
    };
    name.to_owned()
}

/// A counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Counter {
    /// Packets to servers.
    ToServer,
    /// Packets to sites.
    ToSite,
    /// Bytes to servers.
    BytesToServer,
    /// Bytes to sites.
    BytesToSite,
    /// Flows opened.
    Opened,
    /// ESP packets with an unknown SPI.
    UnknownSpi,
    /// Drop events that could not be written.
    Lost,
    /// Requests answered with a cookie.
    Asked,
    /// Requests with a valid cookie.
    Proved,
    /// Requests that charon answered with a cookie of its own.
    AskedByCharon,
    /// Drops that are counted as nobody's.
    Unattributed,
    /// Packets dropped for this reason.
    Dropped(Reason),
}

/// The counters of one customer that change, and by how much: `nobody: unknown_spi` or
/// `acme via berlin: dropped 3, lost 1`. `dropped` is for the verdict's reason; `via` is the tunnel that drop
/// events name. Passed bytes are the packet's length unless `bytes N` says otherwise.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Counts {
    /// Customer id, 0 for nobody.
    pub customer: u32,
    /// The tunnel id that events name, 0 for none.
    pub tunnel: u32,
    words: Vec<(String, u64)>,
}

impl TryFrom<String> for Counts {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|error| format!("counts {text:?}: {error:#}"))
    }
}

impl Counts {
    fn parse(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Self::default());
        }
        let (whose, what) = text.split_once(':').context("expected \"none\" or \"CUSTOMER: ...\"")?;
        let (customer, tunnel) = match whose.split_once(" via ") {
            Some((customer, tunnel)) => (customer, tunnel_id(tunnel)?),
            None => (whose, 0),
        };
        let words = what.split(',').map(|item| {
            let mut words = item.split_whitespace();
            let word = words.next().context("a counter is missing")?;
            ensure!(
                matches!(
                    word,
                    "to_server"
                        | "to_site"
                        | "bytes"
                        | "opened"
                        | "unknown_spi"
                        | "dropped"
                        | "lost"
                        | "asked"
                        | "proved"
                        | "asked_by_charon"
                ),
                "no counter is named {word:?}"
            );
            let by = words.next().map_or(Ok(1), number)?;
            ensure!(words.next().is_none(), "{item:?} has more than a counter and a number");
            Ok((word.to_owned(), by))
        });
        Ok(Self { customer: customer_id(customer)?, tunnel, words: words.collect::<Result<_>>()? })
    }

    /// Returns the change of each counter, for packets of `packet_bytes` bytes from the IP header on.
    pub fn changes(&self, verdict: Verdict, packet_bytes: u64) -> Result<BTreeMap<Counter, u64>> {
        let mut changes = self.named(verdict)?;
        for (packets, bytes) in
            [(Counter::ToServer, Counter::BytesToServer), (Counter::ToSite, Counter::BytesToSite)]
        {
            if let Some(packets) = changes.get(&packets).copied() {
                changes.entry(bytes).or_insert(packets * packet_bytes);
            }
        }
        Ok(changes)
    }

    /// Returns true if the counters say that a flow is opened.
    pub fn opens(&self) -> bool {
        self.words.iter().any(|(word, _)| word == "opened")
    }

    fn named(&self, verdict: Verdict) -> Result<BTreeMap<Counter, u64>> {
        self.words
            .iter()
            .map(|(word, by)| {
                let counter = match (word.as_str(), verdict) {
                    ("to_server", _) => Counter::ToServer,
                    ("to_site", _) => Counter::ToSite,
                    ("bytes", Verdict::ToServer) => Counter::BytesToServer,
                    ("bytes", Verdict::ToTunnel(_)) => Counter::BytesToSite,
                    ("opened", _) => Counter::Opened,
                    ("unknown_spi", _) => Counter::UnknownSpi,
                    ("lost", _) => Counter::Lost,
                    ("asked", _) => Counter::Asked,
                    ("proved", _) => Counter::Proved,
                    ("asked_by_charon", _) => Counter::AskedByCharon,
                    ("dropped", Verdict::Drop(reason)) => Counter::Dropped(reason),
                    _ => bail!("{word:?} does not fit the verdict"),
                };
                Ok((counter, *by))
            })
            .collect()
    }
}

/// The expected state of a flow: `acme 192.168.1.2:40000 berlin established`, optionally followed by
/// `generation 1` and `ends_ms 7440000` (since the start of the case, rounded to a tick).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct FlowLine {
    /// The line as written.
    pub text: String,
    id: FlowId,
    tunnel: u32,
    state: State,
    generation: Option<u16>,
    ends_ms: Option<u64>,
}

impl TryFrom<String> for FlowLine {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|error| format!("flow {text:?}: {error:#}"))
    }
}

impl FlowLine {
    fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let mut next = || words.next().context("the line ends too early");
        let id = FlowId::parse(next()?, next()?)?;
        let tunnel = tunnel_id(next()?)?;
        let state = next()?;
        let state = *State::ALL.iter().find(|other| other.name() == state).context("no such TCP state")?;
        let mut line = Self { text: text.to_owned(), id, tunnel, state, generation: None, ends_ms: None };
        while let Some(word) = words.next() {
            let value = words.next().context("the line ends too early")?;
            match word {
                "generation" => line.generation = Some(number(value)?),
                "ends_ms" => line.ends_ms = Some(number(value)?),
                _ => bail!("{word:?} does not belong here"),
            }
        }
        Ok(line)
    }

    /// Returns true if the line describes this flow, in a case that started at `start_ns`.
    pub fn describes(&self, id: &FlowId, flow: &Flow, start_ns: u64) -> bool {
        let ends_ns = self.ends_ms.map(|ms| start_ns + ms * 1_000_000);
        self.id == *id
            && self.tunnel == flow.tunnel
            && self.state as u8 == flow.state()
            && self.generation.is_none_or(|generation| generation == flow.generation)
            && ends_ns.is_none_or(|ends| is_about(flow.expires, ends))
    }
}

/// Returns true if `ticks` is `ns` or one tick less: both the current time and the timeout are rounded down.
fn is_about(ticks: Ticks, ns: u64) -> bool {
    let exact = Ticks::from_ns(ns);
    ticks == exact || ticks.plus(Ticks { ticks: 1 }) == exact
}

/// Formats a flow as such a line.
pub fn flow_line(id: &FlowId, flow: &Flow, start_ns: u64) -> String {
    format!(
        "{} {} {} {} generation {} ends_ms {}",
        customer_name(id.customer),
        std::net::SocketAddr::new(id.device, id.port),
        tunnel_name(flow.tunnel),
        State::from_number(flow.state()).map_or("?", State::name),
        flow.generation,
        (flow.expires.as_ns() as f64 - start_ns as f64) / 1e6,
    )
}
