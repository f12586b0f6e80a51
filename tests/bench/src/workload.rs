//! The kinds of work that contenders are measured at.
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of work.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Packets of established flows, LAN to server
    Established,
    /// Replies from the server
    Reply,
    /// Connections from SYN to last ACK; figures are for each connection
    NewConnection,
    /// SYNs that the policy does not allow
    DeniedSyn,
    /// Allowed SYNs, each of a new flow
    FloodOfNewTuples,
    /// A mix of all packets above
    Mixed,
    /// Bulk upload through ESP with GRO
    BulkGro,
    /// Bulk upload through ESP without GRO
    BulkNoGro,
    /// ESP: the share of decapsulation
    Decapsulation,
    /// ESP: the share of firewall and forwarding
    FirewallAndForwarding,
    /// Control: load all customers into empty maps or rulesets
    LoadAll,
    /// Control: add one customer
    ChangeOne,
    /// Kernel memory for a flow
    MemoryPerFlow,
    /// Kernel memory for a customer
    MemoryPerCustomer,
    /// Tunnels: charon's CPU time for an IKE_SA_INIT
    IkeSaInit,
    /// Tunnels: charon's CPU time for the rest of a handshake
    IkeAuth,
    /// Tunnels: read and check the policies
    PoliciesRead,
    /// Tunnels: from the policies read until a site can connect
    StartToConnect,
    /// Tunnels: from an event of charon to the map entry
    EventToEntry,
    /// Tunnels: all sites connect at once
    AllConnect,
    /// Tunnels: gatewayd's CPU time divided by charon's while all connect
    DaemonShare,
    /// Tunnels: gatewayd's share of a core while nothing happens
    DaemonIdle,
    /// Tunnels: gatewayd's memory
    DaemonMemory,
    /// Tunnels: from a new customer's file until its packets may pass
    CustomerAdded,
    /// One contender against itself
    #[serde(rename = "control-a-a")]
    ControlAA,
    /// One contender against itself plus 50 ns
    #[serde(rename = "control-50-ns")]
    Control50Ns,
}

impl Workload {
    /// Workloads of packets without ESP.
    pub const PACKETS: [Self; 6] = [
        Self::Established,
        Self::Reply,
        Self::NewConnection,
        Self::DeniedSyn,
        Self::FloodOfNewTuples,
        Self::Mixed,
    ];

    /// Workloads of tunnels, in the order of their table.
    pub const TUNNELS: [Self; 10] = [
        Self::IkeSaInit,
        Self::IkeAuth,
        Self::PoliciesRead,
        Self::StartToConnect,
        Self::EventToEntry,
        Self::AllConnect,
        Self::DaemonShare,
        Self::DaemonIdle,
        Self::DaemonMemory,
        Self::CustomerAdded,
    ];

    /// Returns the workload's name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Reply => "reply",
            Self::NewConnection => "new connection",
            Self::DeniedSyn => "denied SYN",
            Self::FloodOfNewTuples => "flood of new tuples",
            Self::Mixed => "mixed",
            Self::BulkGro => "bulk upload, GRO on",
            Self::BulkNoGro => "bulk upload, GRO off",
            Self::Decapsulation => "decapsulation",
            Self::FirewallAndForwarding => "firewall and forwarding",
            Self::LoadAll => "load all",
            Self::ChangeOne => "change one",
            Self::MemoryPerFlow => "memory for a flow",
            Self::MemoryPerCustomer => "memory for a customer",
            Self::IkeSaInit => "IKE_SA_INIT at charon",
            Self::IkeAuth => "rest of a handshake at charon",
            Self::PoliciesRead => "policies read and checked",
            Self::StartToConnect => "start, policies read, until a site can connect",
            Self::EventToEntry => "event to map entry, 99th percentile",
            Self::AllConnect => "all sites connect",
            Self::DaemonShare => "gatewayd ÷ charon, CPU time while all connect",
            Self::DaemonIdle => "gatewayd idle, share of a core",
            Self::DaemonMemory => "gatewayd's memory",
            Self::CustomerAdded => "customer added, until its packets may pass",
            Self::ControlAA => "against itself",
            Self::Control50Ns => "against itself plus 50 ns",
        }
    }
}

/// The position, in the order of addition, of the customer that the packets belong to.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The customer added first.
    First,
    /// The customer in the middle.
    Middle,
    /// The customer added last.
    Last,
}

/// The distribution of packets over flows.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// All flows are equally likely.
    Uniform,
    /// The k-th flow has probability proportional to 1/k.
    Zipf,
}
