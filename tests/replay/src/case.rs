//! A case, as written in a file.
//!
//! ```toml
//! [[case]]
//! name = "reply_goes_into_the_tunnel_of_its_flow"
//! steps = [
//!   { from = "munich", packet = "10.20.0.9:40000 > 10.200.0.11:80 S", verdict = "to server", counts = "acme: to_server, opened" },
//!   { hook = "lan_ingress", packet = "10.200.0.11:80 > 10.20.0.9:40000 SA", verdict = "to tunnel munich", counts = "acme: to_site" },
//! ]
//! ```
//!
//! The runner checks that each step's packet gets the stated verdict, counts and flows, and after every step that
//! - no counter has changed that `counts` does not name, and each drop that is not `lost` has written one
//!   event that describes the packet;
//! - a packet that is dropped or passed keeps its bytes and its mark, and one that goes to a server has a
//!   TTL one lower; `out` states further differences of the bytes;
//! - a dropped packet has changed no flow (except for what the tracker remembers of a segment outside the
//!   windows), and any other has changed no flow but its own, and added one only if `counts` says `opened`;
//! - each customer's usage equals a count over the flows.
//!
//! A step `{ expire = true }` turns the timing wheels up to the step's time and states the flows that are
//! left.
use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use gateway_common::layout::Hook;
use gateway_tests_kit::{
    packet::{Network, Packet},
    world::{TUNNELS, named_mark, named_reqid},
};
use serde::Deserialize;

use crate::{
    change::Change,
    expect::{Counts, FlowLine, Verdict},
};

/// A file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

/// Packets in order, and the expected result of each.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The behaviour that the case shows.
    pub name: String,
    /// Differences of the world from the usual one (see [`gateway_tests_kit::world`]).
    #[serde(default)]
    pub world: Change,
    /// Capacity of the flow maps, if not the usual one.
    pub flow_limit: Option<u32>,
    /// The steps, in order.
    pub steps: Vec<Event>,
}

/// One step of a case.
#[derive(Clone, Deserialize, Debug)]
#[serde(try_from = "toml::Table")]
pub enum Event {
    /// A packet arrives.
    Packet(Box<Step>),
    /// The timing wheels turn.
    Expire(Expire),
}

impl TryFrom<toml::Table> for Event {
    type Error = toml::de::Error;

    fn try_from(table: toml::Table) -> Result<Self, toml::de::Error> {
        match table.contains_key("expire") {
            true => table.try_into().map(Self::Expire),
            false => table.try_into().map(|step| Self::Packet(Box::new(step))),
        }
    }
}

/// A turn of the timing wheels.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Expire {
    /// Time in milliseconds since the start of the case; by default that of the previous step.
    pub at_ms: Option<u64>,
    /// Always true: marks the kind of step.
    pub expire: bool,
    /// All flows afterwards.
    pub flows: Vec<FlowLine>,
}

/// One packet, or several similar ones.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Changes of the world before the packet.
    #[serde(default)]
    pub world: Change,
    /// Time in milliseconds since the start of the case; by default that of the previous step.
    pub at_ms: Option<u64>,
    /// The tunnel that the packet was decapsulated from: reqid, mark and SPI are that tunnel's, and the hook
    /// is internet_ingress.
    pub from: Option<String>,
    /// The hook at which the packet arrives.
    #[serde(default, deserialize_with = "hook")]
    pub hook: Option<Hook>,
    /// reqid of the SA that decrypted the packet, if not the tunnel's: a number, or the site whose tunnel has it.
    pub reqid: Option<Number>,
    /// SPI of that SA, if not the tunnel's.
    pub spi: Option<u32>,
    /// skb->mark, if not the tunnel's: a number, or the site whose tunnel has it.
    pub mark: Option<Number>,
    /// The packet, in the language of [`gateway_tests_kit::packet`].
    pub packet: String,
    /// Number of times that the packet arrives.
    #[serde(default = "once")]
    pub repeat: u32,
    /// Increment of the source address on each repetition: `0.0.0.1`, `0:0:0:1::`.
    pub source_step: Option<IpAddr>,
    /// Device end of a flow (`acme 192.168.1.2:40000`) that a wheel is removing at that moment.
    pub ending: Option<String>,
    /// Number of packets that GRO merged into this one, each with `segment_bytes` of payload.
    #[serde(default)]
    pub segments: u32,
    /// Payload bytes of each merged packet.
    #[serde(default)]
    pub segment_bytes: u32,
    /// `drop Reason`, `pass`, `answer`, `to server` or `to tunnel NAME`.
    pub verdict: Verdict,
    /// Differences of the output from the packet, in the packet language; the whole output of an answer.
    #[serde(default)]
    pub out: String,
    /// Every counter that changes.
    pub counts: Counts,
    /// All flows afterwards; not compared if left out.
    pub flows: Option<Vec<FlowLine>>,
}

/// A number as a case writes it: itself, or the name of the site whose number it is.
#[derive(Clone, Deserialize, Debug)]
#[serde(untagged)]
pub enum Number {
    /// The number.
    Itself(u32),
    /// The site's name.
    Of(String),
}

impl Number {
    /// Returns the number; `read` finds it by the site's name.
    pub fn get(&self, read: impl Fn(&str) -> Result<u32>) -> Result<u32> {
        match self {
            Self::Itself(number) => Ok(*number),
            Self::Of(name) => read(name),
        }
    }
}

/// The input of a program for one packet.
pub struct Input {
    /// The program's hook.
    pub hook: Hook,
    /// reqid (`cb[0]`; 0: not decapsulated), SPI (`cb[1]`) and skb->mark.
    pub identity: [u32; 3],
    /// Number of segments that GRO merged and bytes in each; 0 if it merged none.
    pub merged: [u32; 2],
    /// The frame.
    pub frame: Vec<u8>,
}

/// EtherType of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];

impl Input {
    /// Returns the IP packet's length according to its header; 0 without a header.
    pub fn packet_bytes(&self) -> u64 {
        let v6 = self.is_v6();
        let length = self.frame.get(if v6 { 18 } else { 16 }..).and_then(|rest| rest.first_chunk::<2>());
        length.map_or(0, |length| u64::from(u16::from_be_bytes(*length)) + if v6 { 40 } else { 0 })
    }

    /// Returns true if the EtherType is IPv6.
    pub fn is_v6(&self) -> bool {
        self.frame.get(12..14) == Some(&IPV6)
    }
}

impl Case {
    /// Returns the steps that are packets.
    pub fn packets(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter_map(|event| match event {
            Event::Packet(step) => Some(&**step),
            Event::Expire(_) => None,
        })
    }
}

fn once() -> u32 {
    1
}

fn hook<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Hook>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let hook = Hook::ALL.into_iter().find(|hook| hook.name() == name);
    hook.map(Some).ok_or_else(|| serde::de::Error::custom(format!("no hook is named {name:?}")))
}

impl Step {
    /// Returns the hook at which the packet arrives.
    pub fn hook(&self) -> Result<Hook> {
        match (self.hook, &self.from) {
            (Some(hook), None) => Ok(hook),
            (None, Some(_)) => Ok(Hook::InternetIngress),
            _ => anyhow::bail!("a step needs either `hook` or `from`"),
        }
    }

    /// Returns the program's input.
    pub fn input(&self) -> Result<Input> {
        let tunnel = match &self.from {
            Some(name) => Some(
                TUNNELS
                    .iter()
                    .find(|tunnel| tunnel.name == name)
                    .with_context(|| format!("no tunnel is named {name:?}"))?,
            ),
            None => None,
        };
        let of = |number: &Option<Number>, read: fn(&str) -> Result<u32>| {
            number.as_ref().map(|number| number.get(read)).transpose()
        };
        let identity = [
            of(&self.reqid, named_reqid)?.or(tunnel.map(|tunnel| tunnel.reqid)).unwrap_or(0),
            self.spi.or(tunnel.map(|tunnel| tunnel.inbound_spi)).unwrap_or(0),
            of(&self.mark, named_mark)?.or(tunnel.map(|tunnel| tunnel.mark)).unwrap_or(0),
        ];
        let frame = self.packet.parse::<Packet>()?.frame()?;
        Ok(Input { hook: self.hook()?, identity, merged: [self.segments, self.segment_bytes], frame })
    }

    /// Returns the step for repetition `number`, counted from 0.
    pub fn repetition(&self, number: u32) -> Result<Self> {
        let Some(by) = self.source_step.filter(|_| number != 0) else { return Ok(self.clone()) };
        let packet: Packet = self.packet.parse()?;
        let Network::Ip(ip, _) = &packet.network else { bail!("source_step needs an IP packet") };
        let source = match (ip.source, by) {
            (IpAddr::V4(source), IpAddr::V4(by)) => {
                IpAddr::V4((u32::from(source).wrapping_add(u32::from(by).wrapping_mul(number))).into())
            }
            (IpAddr::V6(source), IpAddr::V6(by)) => {
                let by = u128::from(by).wrapping_mul(u128::from(number));
                IpAddr::V6(u128::from(source).wrapping_add(by).into())
            }
            _ => bail!("source_step has another address family than the packet"),
        };
        Ok(Self { packet: format!("{} source {source}", self.packet), ..self.clone() })
    }

    /// Returns the frame expected after the program.
    pub fn output(&self) -> Result<Vec<u8>> {
        if self.verdict == Verdict::Answer {
            return self.out.parse::<Packet>()?.frame();
        }
        let mut line = self.packet.clone();
        if self.verdict == Verdict::ToServer {
            let input = self.input()?;
            let ttl = input.frame[if input.is_v6() { 21 } else { 22 }];
            line += &format!(" ttl {}", ttl.checked_sub(1).context("TTL 0 cannot be lowered")?);
        }
        format!("{line} {}", self.out).parse::<Packet>()?.frame()
    }
}

/// Reads all cases of a directory's `.toml` files, in order of file name.
pub fn read(directory: &Path) -> Result<Vec<Case>> {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("read {}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in paths {
        let file: File = fs::read_to_string(&path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(toml::from_str(&text)?))
            .with_context(|| format!("{}", path.display()))?;
        for case in file.case {
            ensure!(!cases.iter().any(|other| other.name == case.name), "two cases are named {}", case.name);
            ensure!(!case.steps.is_empty(), "the case {} has no steps", case.name);
            cases.push(case);
        }
    }
    Ok(cases)
}
