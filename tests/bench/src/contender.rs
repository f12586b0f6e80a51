//! Putting a contender on the ground.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests_kit::{namespace::Namespace, process::run_with_input};

use super::{
    case::Case,
    figure::{Contender, Workload},
    firewall::{Attached, Firewall},
    frames::{Batch, Side},
    ground::Ground,
    rules::{self, Policy},
};

/// All of them, in the order of reports.
pub const ALL: [Contender; 12] = [
    Contender::IngressDrop,
    Contender::Forwarding,
    Contender::CallsOnly,
    Contender::IptablesNft,
    Contender::IptablesLegacy,
    Contender::Nftables,
    Contender::NftablesIntervals,
    Contender::NftablesTuned,
    Contender::NftablesFlowtable,
    Contender::NftablesNetdevDrop,
    Contender::Stack,
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
        !matches!(self, Self::IngressDrop | Self::Forwarding | Self::CallsOnly | Self::NftablesNetdevDrop)
    }

    /// Whether it gives the verdicts of the original rules on any packet. A flowtable does not: what is in it
    /// goes past all rules and TCP's windows.
    pub fn claims_equal_policy(self) -> bool {
        self.is_firewall() && self != Self::NftablesFlowtable
    }

    /// Whether it is this project.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Stack | Self::Redirect)
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

    /// Whether the case says something about it, within reason.
    pub fn can(self, case: &Case) -> bool {
        match self {
            Self::NftablesNetdevDrop => case.workload == Workload::DeniedSyn,
            // It knows no customers.
            Self::CallsOnly => case.workload == Workload::Established && case.customers == 1,
            // Of one flow its buckets make no difference.
            Self::NftablesTuned => case.flows > 1,
            // The number of rules is what they are slow by: how slow, one workload says.
            Self::IptablesNft | Self::IptablesLegacy => {
                case.flows <= 1000 && (case.customers <= 1000 || case.workload == Workload::Established)
            }
            _ => true,
        }
    }

    /// How many customers it can have, within reason.
    pub fn most_customers(self) -> u32 {
        match self {
            // With 10,000 a packet of the last one takes 7 million instructions, and 0.5 million.
            Self::IptablesNft | Self::IptablesLegacy => 10_000,
            _ => 100_000,
        }
    }
}

impl Working {
    /// Makes a ground and puts the contender on it. `identity` knows the marks of all customers; `firewall`
    /// is what is measured of ours, of the purpose that the contender has. `known` are the customers whose packets there will be.
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
            Contender::Redirect | Contender::Stack => attached.push(firewall.protect(&ground, known)?),
            Contender::CallsOnly => attached.push(firewall.call_only(&ground)?),
            contender => start_tool(&ground.namespace, contender, policy)?,
        }
        Ok(Self { ground, contender, _attached: attached })
    }

    /// Sends a batch, makes sure that what arrived is what should, and returns how long it took.
    pub fn send(&self, batch: &Batch) -> Result<Duration> {
        let passed = self.ground.send(batch)?;
        for from in [Side::Site, Side::Lan] {
            let expected = match self.contender {
                Contender::IngressDrop | Contender::Forwarding | Contender::CallsOnly => batch.sent(from),
                _ => batch.passing(from),
            };
            let (arrived, sent) = (passed.arrived[from as usize], batch.sent(from));
            ensure!(
                arrived == expected,
                "{:?}: {arrived} packets of {sent} from {from:?} arrived, and should have been {expected}",
                self.contender
            );
        }
        Ok(passed.lasted)
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.ground.remove()
    }
}

/// Puts what is the kernel's own on a gateway.
pub fn start_tool(gateway: &Namespace, contender: Contender, policy: &Policy) -> Result<()> {
    let (program, text) = match contender {
        Contender::Forwarding => return Ok(()),
        Contender::IptablesNft => ("iptables-nft-restore", rules::iptables(policy)),
        Contender::IptablesLegacy => ("iptables-legacy-restore", rules::iptables(policy)),
        contender => ("nft", rules::nftables(contender, policy).context("no contender of the kernel's")?),
    };
    let arguments: &[&str] = if program == "nft" { &["-f", "-"] } else { &[] };
    run_with_input(gateway.command(program).args(arguments), &text)?;
    if contender.tracks_with_kernel() {
        // As ours: only a SYN opens a connection.
        gateway.set_sysctl("netfilter/nf_conntrack_tcp_loose", "0")?;
    }
    Ok(())
}
