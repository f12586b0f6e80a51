//! A tunnel as charon is told it: one CHILD_SA configuration of a connection.

use std::{borrow::Cow, time::Duration};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Error,
    connection::{check_name, check_proposals, check_time, seconds},
};

/// ESP proposals in the order of [`IKE_PROPOSALS`](super::IKE_PROPOSALS). The group gives perfect forward
/// secrecy when a CHILD_SA is rekeyed; the first one, made with its IKE_SA, takes its keys from IKE's
/// exchange and has none (RFC 7296, 1.2).
pub const ESP_PROPOSALS: [&str; 2] = ["aes256gcm16-curve25519", "aes256-sha512-curve25519"];

/// Marks from here on mean something else to charon (`MARK_UNIQUE`, `MARK_SAME` in ipsec_types.h).
const FIRST_RESERVED_MARK: u32 = 0xffff_fffd;

/// One tunnel: a CHILD_SA configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// As a connection's name. Events and `list-sas` show it.
    pub name: String,
    /// What is reached on our side, at least one.
    pub local_ts: Vec<IpNet>,
    /// What is reached on the peer's side, at least one.
    pub remote_ts: Vec<IpNet>,
    /// ESP proposals, preferred first.
    pub esp_proposals: Vec<Cow<'static, str>>,
    /// Fixed reqid (not 0), the same over rekeying and reconnecting; `None`: charon chooses.
    pub reqid: Option<u32>,
    /// XFRM mark: on all policies, set on packets that were decrypted, and demanded of packets to encrypt.
    /// The inbound SA itself is found without it, since ESP arrives unmarked.
    pub mark: Option<u32>,
    /// What to do when loaded.
    pub start_action: Action,
    /// What to do when the peer is found dead.
    pub dpd_action: Action,
    /// What to do when the peer closes the CHILD_SA.
    pub close_action: Action,
    /// Age at which it is rekeyed; it is deleted when 10 % over it.
    pub rekey_time: Duration,
    /// Packets that may overtake each other without being dropped as replayed.
    pub replay_window: u32,
}

/// What to do with a child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Action {
    /// Nothing; an SA goes.
    #[default]
    None,
    /// Trap policies: traffic waits for the tunnel instead of leaving in plaintext.
    Trap,
    /// Connect.
    Start,
}

impl Child {
    /// With this project's proposals; waits for the peer, gives up dead peers, rekeys every hour.
    #[must_use]
    pub fn new(name: impl Into<String>, local_ts: Vec<IpNet>, remote_ts: Vec<IpNet>) -> Self {
        Self {
            name: name.into(),
            local_ts,
            remote_ts,
            esp_proposals: ESP_PROPOSALS.map(Cow::Borrowed).to_vec(),
            reqid: None,
            mark: None,
            start_action: Action::None,
            dpd_action: Action::None,
            close_action: Action::None,
            rekey_time: Duration::from_secs(3600),
            replay_window: 128,
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        check_name("child", &self.name)?;
        check_proposals("esp_proposals", &self.esp_proposals)?;
        check_time("rekey_time", self.rekey_time)?;
        if self.local_ts.is_empty() || self.remote_ts.is_empty() {
            return Err(Error::invalid("traffic selectors", &self.name, "at least one on each side"));
        }
        if self.reqid == Some(0) {
            return Err(Error::invalid("reqid", "0", "not 0, which means any"));
        }
        if self.mark.is_some_and(|mark| mark == 0 || mark >= FIRST_RESERVED_MARK) {
            return Err(Error::invalid("mark", &self.name, "1 to 0xfffffffc"));
        }
        Ok(())
    }

    pub(super) fn wire(&self) -> WireChild<'_> {
        // The whole mark, all bits.
        let mark = self.mark.map(|mark| format!("{mark:#x}/0xffffffff"));
        WireChild {
            mode: "tunnel",
            policies: true,
            local_ts: self.local_ts.iter().map(IpNet::to_string).collect(),
            remote_ts: self.remote_ts.iter().map(IpNet::to_string).collect(),
            esp_proposals: &self.esp_proposals,
            reqid: self.reqid,
            mark_in: mark.clone(),
            mark_in_sa: false,
            set_mark_in: mark.clone(),
            mark_out: mark,
            start_action: self.start_action.keyword(),
            dpd_action: self.dpd_action.keyword(),
            close_action: self.close_action.keyword(),
            rekey_time: seconds(self.rekey_time),
            replay_window: self.replay_window,
            // So that path-MTU discovery of the inner connection works.
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

/// Keys of swanctl.conf(5), section connections.<conn>.children.<child>.
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
