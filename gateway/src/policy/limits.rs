//! Limits: table sizes, a customer's share of them, and flow timeouts.
use std::time::Duration;

use gateway_common::{
    layout,
    node::MAX_CUSTOMER,
    tcp::{DOUBTFUL_TIMEOUT_SECONDS, State},
};

/// Prefixes of one family in a site's `lan`. The tunnel's map entry holds them inline.
pub const MAX_LAN_PREFIXES: usize = gateway_common::limits::PREFIXES_PER_SITE;

/// Entries in `[management] allow`.
pub const MAX_MANAGEMENT: usize = gateway_common::limits::MANAGEMENT_RULES;

/// TCP port of a customer's server when its file names none: HTTP.
pub const DEFAULT_SERVER_PORT: u16 = 80;

/// Percentage of the customers that one reload may remove unless configured otherwise.
pub const DEFAULT_MAX_REMOVED_PERCENT: u8 = 10;

/// Sizes of the maps. The kernel allocates their memory when it creates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tunnels, one per site of any customer. Tunnel ids are 1 to this number.
    pub tunnels: u32,
    /// Customers. Customer ids are 1 to this number.
    pub customers: u32,
    /// IPv4 flows of all customers.
    pub flows: u32,
    /// IPv6 flows of all customers, if the policy states a number.
    pub flows6: Option<u32>,
}

impl Limits {
    /// Upper bound of `tunnels` and of `customers`.
    pub const MAX_TUNNELS: u32 = 1_000_000;
    /// The most that `flows` and `flows6` may be: 2.5 GiB each at 160 bytes a flow.
    pub const MAX_FLOWS: u32 = (1 << 24) - 1;

    /// Returns the size of the IPv6 flow table. If the policy states none, it equals `flows` when any
    /// customer has an IPv6 server, and 1 otherwise.
    pub fn flows6(&self, any_v6_server: bool) -> u32 {
        self.flows6.unwrap_or(if any_v6_server { self.flows } else { 1 })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { tunnels: 1024, customers: 1024, flows: 262_144, flows6: None }
    }
}

/// A customer's quota as written in its file. `None` means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Concurrent flows, both families together.
    pub max_flows: Option<u32>,
    /// Concurrent half-open flows: those whose handshake is not complete.
    pub max_half_open: Option<u32>,
    /// New flows per second.
    pub new_flows_per_second: Option<u32>,
}

impl Quota {
    /// Upper bound of `new_flows_per_second`.
    pub const MAX_NEW_FLOWS_PER_SECOND: u32 = 1_000_000;

    /// Returns the quota of concurrent flows. The default is an equal share of the IPv4 table.
    pub fn flows(&self, limits: &Limits) -> u32 {
        self.max_flows.unwrap_or_else(|| (limits.flows / limits.customers.max(1)).max(1))
    }

    /// Returns the quota in the form of the maps, defaults filled in: a quarter of the flows may be
    /// half-open, as many new flows may come per second, and the burst equals the half-open quota.
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

/// A site's share of its customer's quota as written in the file. `None` means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteQuota {
    /// Concurrent flows, both families together.
    pub max_flows: Option<u32>,
    /// Concurrent half-open flows.
    pub max_half_open: Option<u32>,
}

impl SiteQuota {
    /// The share that a site needs, however many others there are, as long as it leaves them half of the quota.
    pub const LEAST: u32 = 8;

    /// Returns the share in the form of the maps, defaults filled in: equal shares of the flows, and of the
    /// half-open flows in proportion. Never exceeds the quota; a customer's only site has the whole.
    pub fn resolve(&self, quota: &layout::Quota, sites: usize) -> layout::Share {
        let sites = u32::try_from(sites).unwrap_or(u32::MAX).max(1);
        let needed = |whole: u32| Self::LEAST.min(whole / 2).max(1);
        let flows = self.max_flows.unwrap_or((quota.flows / sites).max(needed(quota.flows))).min(quota.flows);
        let proportional = u64::from(quota.half_open) * u64::from(flows) / u64::from(quota.flows.max(1));
        let proportional = u32::try_from(proportional).unwrap_or(u32::MAX);
        let half_open = self.max_half_open.unwrap_or(proportional.max(needed(quota.half_open)));
        layout::Share { flows, half_open: half_open.min(quota.half_open) }
    }
}

/// Idle timeouts of a flow by TCP state. The defaults are those of
/// [`State::default_timeout_seconds`](gateway_common::tcp::State::default_timeout_seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// SYN seen.
    pub syn_sent: Duration,
    /// SYN and SYN-ACK seen.
    pub syn_recv: Duration,
    /// Handshake complete. RFC 5382, REQ-5 requires at least 2 hours 4 minutes.
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
    /// The same segment was sent four times without an answer.
    pub retransmission: Duration,
    /// Data is in flight that the other end has not acknowledged.
    pub unacknowledged: Duration,
}

impl Timeouts {
    /// Upper bound of every timeout: 5 days, which is nf_conntrack's default for `established`.
    pub const MAX_SECONDS: u32 = 5 * 24 * 60 * 60;
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let state = |state: State| seconds(state.default_timeout_seconds());
        Self {
            syn_sent: state(State::SynSent),
            syn_recv: state(State::SynRecv),
            established: state(State::Established),
            fin_wait: state(State::FinWait),
            close_wait: state(State::CloseWait),
            last_ack: state(State::LastAck),
            time_wait: state(State::TimeWait),
            close: state(State::Close),
            retransmission: seconds(DOUBTFUL_TIMEOUT_SECONDS),
            unacknowledged: seconds(DOUBTFUL_TIMEOUT_SECONDS),
        }
    }
}

const _: () = assert!(Limits::MAX_TUNNELS <= MAX_CUSTOMER, "a node holds a customer's id");
