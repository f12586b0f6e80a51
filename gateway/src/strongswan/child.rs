//! A CHILD_SA configuration as `load-conn` sends it: one tunnel of a connection.

use std::{borrow::Cow, time::Duration};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    check::{check_name, check_proposals, check_time},
    error::Error,
    time::seconds,
};

/// ESP proposals in the order of `IKE_PROPOSALS`. The group gives perfect forward secrecy to rekeyed
/// CHILD_SAs. The first one, created with its IKE_SA, derives its keys from IKE's key exchange and has none
/// of its own (RFC 7296, 1.2).
pub const ESP_PROPOSALS: [&str; 2] = ["aes256gcm16-curve25519", "aes256-sha512-curve25519"];

/// First mark value to which charon gives a meaning (`MARK_UNIQUE`, `MARK_SAME` in ipsec_types.h).
const FIRST_RESERVED_MARK: u32 = 0xffff_fffd;

/// A CHILD_SA configuration, from which charon may create any number of CHILD_SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Name in the form of a connection's. Events and `list-sas` show it.
    pub name: String,
    /// Local traffic selectors, at least one.
    pub local_ts: Vec<IpNet>,
    /// Remote traffic selectors, at least one.
    pub remote_ts: Vec<IpNet>,
    /// ESP proposals, preferred first.
    pub esp_proposals: Vec<Cow<'static, str>>,
    /// Fixed reqid, not 0, kept over rekeying and reconnecting. `None` lets charon choose.
    pub reqid: Option<u32>,
    /// XFRM marks of all policies.
    pub marks: Marks,
    /// Action after loading.
    pub start_action: Action,
    /// Action when dead-peer detection gives up.
    pub dpd_action: Action,
    /// Action when the peer closes the CHILD_SA.
    pub close_action: Action,
    /// Age at which charon rekeys the CHILD_SA. charon deletes it at 110 % of this age.
    pub rekey_time: Duration,
    /// Replay window in packets.
    pub replay_window: u32,
}

/// XFRM marks: the kernel sets a CHILD_SA's mark on the packets it decrypts and requires it on packets to encrypt.
/// The lookup of the inbound SA ignores it, because ESP arrives unmarked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Marks {
    /// No marks.
    #[default]
    None,
    /// The same mark for each CHILD_SA of this configuration, never 0.
    Fixed(u32),
    /// A mark for each CHILD_SA, which charon counts up. It stays through rekeyings, and this charon process never
    /// gives it to another CHILD_SA (docs/facts.md: reqids-are-recycled).
    Unique,
}

/// An action on a child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Action {
    /// Do nothing, or let the SA go.
    #[default]
    None,
    /// Install trap policies: traffic waits for the tunnel instead of leaving in plaintext.
    Trap,
    /// Initiate the tunnel.
    Start,
}

impl Child {
    /// Creates a child with this project's proposals that waits for the peer, drops dead peers and rekeys
    /// every hour.
    #[must_use]
    pub fn new(name: impl Into<String>, local_ts: Vec<IpNet>, remote_ts: Vec<IpNet>) -> Self {
        Self {
            name: name.into(),
            local_ts,
            remote_ts,
            esp_proposals: ESP_PROPOSALS.map(Cow::Borrowed).to_vec(),
            reqid: None,
            marks: Marks::None,
            start_action: Action::None,
            dpd_action: Action::None,
            close_action: Action::None,
            rekey_time: Duration::from_secs(3600),
            replay_window: 128,
        }
    }

    /// Checks every field for values that charon would interpret differently.
    pub(super) fn check(&self) -> Result<(), Error> {
        check_name("child", &self.name)?;
        check_proposals("esp_proposals", &self.esp_proposals)?;
        check_time("rekey_time", self.rekey_time)?;
        if self.local_ts.is_empty() || self.remote_ts.is_empty() {
            return Err(Error::invalid("traffic selectors", &self.name, "at least one on each side"));
        }
        if self.reqid == Some(0) {
            return Err(Error::invalid("reqid", "0", "1 or more: charon takes 0 for any"));
        }
        if let Marks::Fixed(mark) = self.marks
            && (mark == 0 || mark >= FIRST_RESERVED_MARK)
        {
            return Err(Error::invalid("mark", &self.name, "1 to 0xfffffffc"));
        }
        Ok(())
    }

    /// Returns the section of the `load-conn` message.
    pub(super) fn to_wire(&self) -> WireChild<'_> {
        let (mark, set_mark_in) = match self.marks {
            Marks::None => (None, None),
            // The mask covers all bits of the mark.
            Marks::Fixed(mark) => {
                let mark = format!("{mark:#x}/0xffffffff");
                (Some(mark.clone()), Some(mark))
            }
            Marks::Unique => (Some("%unique".to_owned()), Some("%same".to_owned())),
        };
        WireChild {
            mode: "tunnel",
            policies: true,
            local_ts: self.local_ts.iter().map(IpNet::to_string).collect(),
            remote_ts: self.remote_ts.iter().map(IpNet::to_string).collect(),
            esp_proposals: &self.esp_proposals,
            reqid: self.reqid,
            mark_in: mark.clone(),
            mark_in_sa: false,
            set_mark_in,
            mark_out: mark,
            start_action: self.start_action.keyword(),
            dpd_action: self.dpd_action.keyword(),
            close_action: self.close_action.keyword(),
            rekey_time: seconds(self.rekey_time),
            replay_window: self.replay_window,
            // Path-MTU discovery of the inner connection needs the DF bit outside.
            copy_df: true,
            hw_offload: "no",
        }
    }
}

impl Action {
    fn keyword(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Trap => "trap",
            Self::Start => "start",
        }
    }
}

/// Keys of swanctl.conf(5), section `connections.<conn>.children.<child>`.
#[derive(Debug, Serialize)]
pub(super) struct WireChild<'a> {
    mode: &'static str,
    policies: bool,
    local_ts: Vec<String>,
    remote_ts: Vec<String>,
    esp_proposals: &'a [Cow<'static, str>],
    reqid: Option<u32>,
    mark_in: Option<String>,
    mark_in_sa: bool,
    set_mark_in: Option<String>,
    mark_out: Option<String>,
    start_action: &'static str,
    dpd_action: &'static str,
    close_action: &'static str,
    rekey_time: String,
    replay_window: u32,
    copy_df: bool,
    hw_offload: &'static str,
}
