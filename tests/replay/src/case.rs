//! A case as it stands in a file.
//!
//! ```toml
//! [[case]]
//! name = "reply_goes_into_the_tunnel_that_asked"
//! steps = [
//!   { from = "munich", packet = "10.20.0.9:40000 > 10.200.0.11:80 S", verdict = "to server", counts = "acme: to_server, opened" },
//!   { hook = "lan_ingress", packet = "10.200.0.11:80 > 10.20.0.9:40000 SA", verdict = "to tunnel munich", counts = "acme: to_site" },
//! ]
//! ```
//!
//! What a step says is expected, is; and beyond that, of every step:
//! - no counter changes that `counts` does not name, and each drop that is not `lost` writes one
//!   event that tells the truth about the packet;
//! - a packet that is dropped or only let through keeps its bytes and its mark, and one that goes to
//!   a server has a TTL one lower; `out` adds words to what is expected of the bytes;
//! - a packet that is dropped leaves the flows as they were (but for what the windows learn from a
//!   segment that they refuse), and one that goes on changes no flow but its own, and adds none unless
//!   it is counted as `opened`;
//! - each customer's usage is what a count over the flows says.
//!
//! A step `{ expire = true }` turns the wheel by which flows end as far as its time has come, and says
//! which flows are left.
use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use gateway_common::layout::Hook;
use gateway_tests_kit::{
    packet::{Network, Packet},
    world::TUNNELS,
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

/// Packets in order, and what becomes of each.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The behaviour that it shows.
    pub name: String,
    /// How the world differs from the usual one (see [`super::world`]).
    #[serde(default)]
    pub world: Change,
    /// How many flows there is room for, if not for many.
    pub flow_limit: Option<u32>,
    /// What happens.
    pub steps: Vec<Event>,
}

/// What happens at a time.
#[derive(Clone, Deserialize, Debug)]
#[serde(try_from = "toml::Table")]
pub enum Event {
    /// Packets.
    Packet(Box<Step>),
    /// Flows end.
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

/// The wheel turns.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Expire {
    /// When, in milliseconds since the case began; unless said, with the step before.
    pub at_ms: Option<u64>,
    /// Always true.
    pub expire: bool,
    /// All flows there are then.
    pub flows: Vec<FlowLine>,
}

/// One packet, or several alike.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What changes in the world before it.
    #[serde(default)]
    pub world: Change,
    /// When it comes, in milliseconds since the case began; unless said, with the one before.
    pub at_ms: Option<u64>,
    /// The tunnel it was decapsulated from: reqid, mark and SPI are that tunnel's, and the hook is
    /// internet_ingress.
    pub from: Option<String>,
    /// The hook it comes to.
    #[serde(default, deserialize_with = "hook")]
    pub hook: Option<Hook>,
    /// reqid of the SA that decrypted it, if not the tunnel's.
    pub reqid: Option<u32>,
    /// SPI of that SA, if not the tunnel's.
    pub spi: Option<u32>,
    /// skb->mark, if not the tunnel's.
    pub mark: Option<u32>,
    /// The packet, see [`super::packet`].
    pub packet: String,
    /// How often it comes.
    #[serde(default = "once")]
    pub repeat: u32,
    /// What is added to its source address each time it comes again: `0.0.0.1`, `0:0:0:1::`.
    pub source_step: Option<IpAddr>,
    /// The device's end of a flow (`acme 192.168.1.2:40000`) that is being removed at that moment.
    pub ending: Option<String>,
    /// How many packets GRO merged into it, each of `segment_bytes` of payload.
    #[serde(default)]
    pub segments: u32,
    /// See `segments`.
    #[serde(default)]
    pub segment_bytes: u32,
    /// `drop Reason`, `pass`, `to server` or `to tunnel NAME`.
    pub verdict: Verdict,
    /// How the bytes that go on differ, in words of the packet language.
    #[serde(default)]
    pub out: String,
    /// Every counter that changes.
    pub counts: Counts,
    /// All flows there are then.
    pub flows: Option<Vec<FlowLine>>,
}

/// What a step feeds a program with.
pub struct Input {
    /// The program.
    pub hook: Hook,
    /// reqid (cb[0]; 0: not decapsulated), SPI (cb[1]) and skb->mark.
    pub identity: [u32; 3],
    /// Segments that GRO merged and bytes in each, 0 if it did not.
    pub merged: [u32; 2],
    /// The frame.
    pub frame: Vec<u8>,
}

/// EtherType of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];

impl Input {
    /// Bytes of the IP packet, as its header says; 0 if there is none.
    pub fn packet_bytes(&self) -> u64 {
        let v6 = self.is_v6();
        let length = self.frame.get(if v6 { 18 } else { 16 }..).and_then(|rest| rest.first_chunk::<2>());
        length.map_or(0, |length| u64::from(u16::from_be_bytes(*length)) + if v6 { 40 } else { 0 })
    }

    /// True if it says that it is IPv6.
    pub fn is_v6(&self) -> bool {
        self.frame.get(12..14) == Some(&IPV6)
    }
}

impl Case {
    /// Its steps that are packets.
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
    hook.map(Some).ok_or_else(|| serde::de::Error::custom(format!("there is no hook {name:?}")))
}

impl Step {
    /// The hook it comes to.
    pub fn hook(&self) -> Result<Hook> {
        match (self.hook, &self.from) {
            (Some(hook), None) => Ok(hook),
            (None, Some(_)) => Ok(Hook::InternetIngress),
            _ => anyhow::bail!("a step has either `hook` or `from`"),
        }
    }

    /// What it feeds the program with.
    pub fn input(&self) -> Result<Input> {
        let tunnel = match &self.from {
            Some(name) => Some(
                TUNNELS
                    .iter()
                    .find(|tunnel| tunnel.name == name)
                    .with_context(|| format!("tunnel {name:?}"))?,
            ),
            None => None,
        };
        let identity = [
            self.reqid.or(tunnel.map(|tunnel| tunnel.id)).unwrap_or(0),
            self.spi.or(tunnel.map(|tunnel| tunnel.inbound_spi)).unwrap_or(0),
            self.mark.or(tunnel.map(|tunnel| tunnel.id)).unwrap_or(0),
        ];
        let frame = self.packet.parse::<Packet>()?.frame()?;
        Ok(Input { hook: self.hook()?, identity, merged: [self.segments, self.segment_bytes], frame })
    }

    /// The step of the packet that comes as the one of this number, from 0 on.
    pub fn repetition(&self, number: u32) -> Result<Self> {
        let Some(by) = self.source_step.filter(|_| number != 0) else { return Ok(self.clone()) };
        let packet: Packet = self.packet.parse()?;
        let Network::Ip(ip, _) = &packet.network else { bail!("only addresses can be counted up") };
        let source = match (ip.source, by) {
            (IpAddr::V4(source), IpAddr::V4(by)) => {
                IpAddr::V4((u32::from(source).wrapping_add(u32::from(by).wrapping_mul(number))).into())
            }
            (IpAddr::V6(source), IpAddr::V6(by)) => {
                let by = u128::from(by).wrapping_mul(u128::from(number));
                IpAddr::V6(u128::from(source).wrapping_add(by).into())
            }
            _ => bail!("source_step is of another family"),
        };
        Ok(Self { packet: format!("{} source {source}", self.packet), ..self.clone() })
    }

    /// The bytes that go on, or stay.
    pub fn output(&self) -> Result<Vec<u8>> {
        let mut line = self.packet.clone();
        if self.verdict == Verdict::ToServer {
            let input = self.input()?;
            let ttl = input.frame[if input.is_v6() { 21 } else { 22 }];
            line += &format!(" ttl {}", ttl.checked_sub(1).context("TTL 0 cannot be lowered")?);
        }
        format!("{line} {}", self.out).parse::<Packet>()?.frame()
    }
}

/// All cases of a directory's `.toml` files, in the files' order.
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
            ensure!(
                !cases.iter().any(|other| other.name == case.name),
                "two cases have the name {}",
                case.name
            );
            ensure!(!case.steps.is_empty(), "the case {} has no steps", case.name);
            cases.push(case);
        }
    }
    Ok(cases)
}
