//! Sizes of tables, what one customer may take of them, and lifetimes of flows.
use std::time::Duration;

use gateway_common::{layout, tcp::DOUBTFUL_TIMEOUT_SECONDS, wheel::MAX_NODES};

/// Sizes of the maps. Memory for them is taken when they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tunnels, hence sites of all customers; tunnel ids are 1 to this number.
    pub tunnels: u32,
    /// Customers; customer ids are 1 to this number.
    pub customers: u32,
    /// IPv4 flows of all customers.
    pub flows: u32,
    /// IPv6 flows of all customers, if that is written down.
    pub flows6: Option<u32>,
}

impl Limits {
    /// The most that `tunnels` and `customers` may be.
    pub const MAX_TUNNELS: u32 = 1_000_000;
    /// The most that `flows` and `flows6` may be: 2.5 GiB each at 160 bytes a flow.
    pub const MAX_FLOWS: u32 = MAX_NODES;

    /// IPv6 flows of all customers. What is not written down follows from whether any has an IPv6
    /// server.
    pub fn flows6(&self, any_v6_server: bool) -> u32 {
        self.flows6.unwrap_or(if any_v6_server { self.flows } else { 1 })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { tunnels: 1024, customers: 1024, flows: 262_144, flows6: None }
    }
}

/// What a customer may take, as far as its file says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Flows at once, of both families together.
    pub max_flows: Option<u32>,
    /// Flows at once whose handshake is not complete.
    pub max_half_open: Option<u32>,
    /// New flows.
    pub new_flows_per_second: Option<u32>,
}

impl Quota {
    /// The most that `new_flows_per_second` may be.
    pub const MAX_NEW_FLOWS_PER_SECOND: u32 = 1_000_000;

    /// Flows at once: without a word an equal share of the IPv4 table.
    pub fn flows(&self, limits: &Limits) -> u32 {
        self.max_flows.unwrap_or_else(|| (limits.flows / limits.customers.max(1)).max(1))
    }

    /// As the maps have it. Without a word a quarter of the flows may be half-open, and as many may
    /// come in a second; as many may come at once.
    pub fn resolve(&self, limits: &Limits) -> layout::Quota {
        let flows = self.flows(limits);
        let half_open = self.max_half_open.unwrap_or((flows / 4).max(1));
        let per_second =
            self.new_flows_per_second.unwrap_or(half_open).clamp(1, Self::MAX_NEW_FLOWS_PER_SECOND);
        layout::Quota {
            flows,
            half_open,
            new_flow_interval_ns: 1_000_000_000 / per_second,
            new_flow_burst: half_open,
        }
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
    /// A segment was sent four times without an answer.
    pub retransmission: Duration,
    /// Data was sent that the other end has not acknowledged.
    pub unacknowledged: Duration,
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
            retransmission: Duration::from_secs(u64::from(DOUBTFUL_TIMEOUT_SECONDS)),
            unacknowledged: Duration::from_secs(u64::from(DOUBTFUL_TIMEOUT_SECONDS)),
        }
    }
}
