//! Putting a contender on the ground.
use anyhow::{Context, Result, bail};

use super::{
    figure::{Contender, Workload},
    firewall::{Attached, Firewall},
    ground::Ground,
    rules::{self, Policy},
};
use crate::lab::process::run_with_input;

/// All of them, in the order of reports.
pub const ALL: [Contender; 10] = [
    Contender::IngressDrop,
    Contender::Forwarding,
    Contender::IptablesNft,
    Contender::IptablesLegacy,
    Contender::Nftables,
    Contender::NftablesIntervals,
    Contender::NftablesTuned,
    Contender::NftablesFlowtable,
    Contender::NftablesNetdevDrop,
    Contender::Redirect,
];

/// A contender at work.
pub struct Working {
    /// What is around it.
    pub ground: Ground,
    /// What it is.
    pub contender: Contender,
    _attached: Vec<Attached>,
}

impl Contender {
    /// Whether it drops what the policy does not allow, and lets pass what it does.
    pub fn is_firewall(self) -> bool {
        !matches!(self, Self::IngressDrop | Self::Forwarding | Self::NftablesNetdevDrop)
    }

    /// Whether it gives the verdicts of the original rules on any packet. A flowtable does not: what is in it
    /// goes past all rules and TCP's windows.
    pub fn claims_equal_policy(self) -> bool {
        self.is_firewall() && self != Self::NftablesFlowtable
    }

    /// Whether it needs the kernel's connection tracking.
    pub fn tracks_with_kernel(self) -> bool {
        matches!(
            self,
            Self::IptablesNft
                | Self::IptablesLegacy
                | Self::Nftables
                | Self::NftablesIntervals
                | Self::NftablesTuned
                | Self::NftablesFlowtable
        )
    }

    /// Whether the workload says something about it.
    pub fn can(self, workload: Workload) -> bool {
        match self {
            Self::NftablesNetdevDrop => workload == Workload::DeniedSyn,
            // There is nothing to change about what comes from a server.
            _ => true,
        }
    }

    /// How many customers it can have, within reason.
    pub fn most_customers(self) -> u32 {
        match self {
            // A packet of the last customer takes 7 million instructions with 10,000.
            Self::IptablesNft => 10_000,
            Self::IptablesLegacy => 10_000,
            _ => 100_000,
        }
    }
}

impl Working {
    /// Makes a ground and puts the contender on it. `identity` knows the marks of all customers; `firewall`
    /// is what is measured of ours. `known` are the customers whose packets there will be.
    pub fn start(
        contender: Contender,
        name: &str,
        policy: &Policy,
        known: &[u32],
        firewall: &mut Firewall,
    ) -> Result<Self> {
        let mut ground = Ground::create(name, known)?;
        let mut attached = vec![firewall.identify(&ground)?];
        match contender {
            Contender::IngressDrop => ground.drop_at_ingress()?,
            Contender::Forwarding => {}
            Contender::IptablesNft => restore(&ground, "iptables-nft-restore", policy)?,
            Contender::IptablesLegacy => restore(&ground, "iptables-legacy-restore", policy)?,
            Contender::Redirect => attached.push(firewall.protect(&ground)?),
            Contender::Stack => bail!("this version of the programs always redirects"),
            contender => {
                let text = rules::nftables(contender, policy).context("no contender of nftables")?;
                run_with_input(ground.namespace.command("nft").args(["-f", "-"]), &text)?;
            }
        }
        if contender.tracks_with_kernel() {
            // As ours: only a SYN opens a connection.
            ground.namespace.set_sysctl("netfilter/nf_conntrack_tcp_loose", "0")?;
        }
        Ok(Self { ground, contender, _attached: attached })
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.ground.remove()
    }
}

fn restore(ground: &Ground, program: &str, policy: &Policy) -> Result<()> {
    run_with_input(&mut ground.namespace.command(program), &rules::iptables(policy)).map(drop)
}
