//! Sizes of tables, and lifetimes of flows.
use std::time::Duration;

/// Sizes of the maps. Memory for them is taken when they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tunnels, hence sites of all customers; tunnel ids are 1 to this number.
    pub tunnels: u32,
    /// Customers; customer ids are 1 to this number.
    pub customers: u32,
    /// Flows of all customers.
    pub flows: u32,
}

impl Limits {
    /// The most that `tunnels` and `customers` may be.
    pub const MAX_TUNNELS: u32 = 1_000_000;
    /// The most that `flows` may be: 2.5 GiB at 160 bytes a flow.
    pub const MAX_FLOWS: u32 = 1 << 24;
}

impl Default for Limits {
    fn default() -> Self {
        Self { tunnels: 1024, customers: 1024, flows: 262_144 }
    }
}

/// How long a flow that sees no packet lives in each TCP state. The defaults are nf_conntrack's
/// (net/netfilter/nf_conntrack_proto_tcp.c), but for `established`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// SYN seen.
    pub syn_sent: Duration,
    /// SYN and SYN-ACK seen.
    pub syn_recv: Duration,
    /// Handshake done. RFC 5382, REQ-5: at least 2 hours 4 minutes.
    pub established: Duration,
    /// One side has sent FIN.
    pub fin_wait: Duration,
    /// That FIN is acknowledged.
    pub close_wait: Duration,
    /// Both sides have sent FIN.
    pub last_ack: Duration,
    /// Both FINs are acknowledged.
    pub time_wait: Duration,
    /// RST seen.
    pub close: Duration,
}

impl Timeouts {
    /// The longest that any may be, nf_conntrack's own for `established`: 5 days.
    pub const MAX_SECONDS: u32 = 5 * 24 * 60 * 60;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            syn_sent: Duration::from_secs(120),
            syn_recv: Duration::from_secs(60),
            established: Duration::from_secs(7440),
            fin_wait: Duration::from_secs(120),
            close_wait: Duration::from_secs(60),
            last_ack: Duration::from_secs(30),
            time_wait: Duration::from_secs(120),
            close: Duration::from_secs(10),
        }
    }
}
