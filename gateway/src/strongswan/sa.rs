//! The SAs charon reports.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;

/// One IKE_SA and its CHILD_SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSa {
    /// The connection's name; `(unnamed)` as long as a peer has not said who it is.
    pub name: String,
    /// charon's number for it; a rekeyed IKE_SA gets a new one.
    pub unique_id: u32,
    /// Where in its life it is.
    pub state: IkeState,
    /// Our outer address.
    pub local_host: IpAddr,
    /// Our UDP port.
    pub local_port: u16,
    /// Our identity.
    pub local_id: String,
    /// The peer's outer address, behind NAT that of the NAT.
    pub remote_host: IpAddr,
    /// The peer's UDP port.
    pub remote_port: u16,
    /// The peer's identity. Authenticated only in the states for which
    /// [`IkeState::is_authenticated`] holds.
    pub remote_id: String,
    /// Whether we initiated.
    pub initiator: bool,
    /// Whether we are behind NAT.
    pub nat_local: bool,
    /// Whether the peer is behind NAT.
    pub nat_remote: bool,
    /// What protects IKE itself.
    pub algorithms: Algorithms,
    /// How long it has been established; `None` in other states.
    pub established: Option<Duration>,
    /// Its CHILD_SAs that could be read.
    pub children: Vec<ChildSa>,
}

/// One CHILD_SA: a pair of kernel SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSa {
    /// The child configuration's name.
    pub name: String,
    /// charon's number for it; a rekeyed CHILD_SA gets a new one.
    pub unique_id: u32,
    /// The tunnel id.
    pub reqid: u32,
    /// Where in its life it is.
    pub state: ChildState,
    /// SPI of what we receive, host byte order. `None` before the SAs are installed, and in state
    /// `Updating` (NAT rebinding), where charon 5.9.8 does not list it though the SAs exist.
    pub spi_in: Option<u32>,
    /// SPI of what we send, as `spi_in`.
    pub spi_out: Option<u32>,
    /// XFRM mark of the inbound policies, 0 if none.
    pub mark_in: u32,
    /// XFRM mark of the outbound policy and SA, 0 if none.
    pub mark_out: u32,
    /// Whether ESP goes in UDP.
    pub encap: bool,
    /// What protects the traffic.
    pub algorithms: Algorithms,
    /// Inner bytes received.
    pub bytes_in: u64,
    /// Inner packets received.
    pub packets_in: u64,
    /// Inner bytes sent.
    pub bytes_out: u64,
    /// Inner packets sent.
    pub packets_out: u64,
    /// Our side's traffic selectors.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's traffic selectors.
    pub remote_ts: Vec<TrafficSelector>,
}

/// What could not be read of an SA, and was left out of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the IKE_SA or CHILD_SA, shortened.
    pub name: String,
    /// Which value, and what was wrong with it.
    pub reason: String,
}

/// Negotiated algorithms by strongSwan's names, e.g. `AES_GCM_16`, 256, `CURVE_25519`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Algorithms {
    /// Encryption.
    pub encryption: Option<String>,
    /// Encryption key, in bits.
    pub encryption_key_bits: Option<u16>,
    /// Integrity; `None` with AEAD.
    pub integrity: Option<String>,
    /// Pseudo-random function, of IKE_SAs only.
    pub prf: Option<String>,
    /// Key exchange. `None` in a CHILD_SA made with its IKE_SA: that one's keys come from IKE's exchange.
    pub key_exchange: Option<String>,
}

/// A traffic selector as charon prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrafficSelector {
    /// A whole prefix, any protocol and port.
    Net(IpNet),
    /// Anything narrower or a range, e.g. `10.1.0.0/16[tcp/80]`.
    Other(String),
}

/// States of an IKE_SA (`ike_sa_state_names` in strongSwan's ike_sa.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IkeState {
    /// Made, nothing sent.
    Created,
    /// Negotiating; the peer is not authenticated yet.
    Connecting,
    /// In use.
    Established,
    /// IKEv1 only.
    Passive,
    /// Being replaced by a new one, in use still.
    Rekeying,
    /// Replaced; its CHILD_SAs belong to the new one.
    Rekeyed,
    /// Being deleted.
    Deleting,
    /// Going away.
    Destroying,
}

/// States of a CHILD_SA (`child_sa_state_names` in strongSwan's child_sa.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// Made, nothing installed.
    Created,
    /// A trap policy only.
    Routed,
    /// Being installed in the kernel.
    Installing,
    /// In use.
    Installed,
    /// Its addresses are being changed, in use still.
    Updating,
    /// Being replaced by a new one, in use still.
    Rekeying,
    /// Replaced; still decrypts for some seconds.
    Rekeyed,
    /// Negotiated again with another key exchange group.
    Retrying,
    /// Being deleted.
    Deleting,
    /// Deleted; still decrypts for some seconds.
    Deleted,
    /// Going away.
    Destroying,
}

impl IkeState {
    /// Whether the peer has proved its identity.
    #[must_use]
    pub fn is_authenticated(self) -> bool {
        matches!(self, Self::Established | Self::Rekeying | Self::Rekeyed | Self::Deleting)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "CREATED" => Self::Created,
            "CONNECTING" => Self::Connecting,
            "ESTABLISHED" => Self::Established,
            "PASSIVE" => Self::Passive,
            "REKEYING" => Self::Rekeying,
            "REKEYED" => Self::Rekeyed,
            "DELETING" => Self::Deleting,
            "DESTROYING" => Self::Destroying,
            _ => return None,
        })
    }
}

impl ChildState {
    /// Whether it is the one that encrypts now (or is about to be replaced as that).
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Installed | Self::Updating | Self::Rekeying)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "CREATED" => Self::Created,
            "ROUTED" => Self::Routed,
            "INSTALLING" => Self::Installing,
            "INSTALLED" => Self::Installed,
            "UPDATING" => Self::Updating,
            "REKEYING" => Self::Rekeying,
            "REKEYED" => Self::Rekeyed,
            "RETRYING" => Self::Retrying,
            "DELETING" => Self::Deleting,
            "DELETED" => Self::Deleted,
            "DESTROYING" => Self::Destroying,
            _ => return None,
        })
    }
}

impl fmt::Display for Algorithms {
    /// As strongSwan writes proposals: `AES_GCM_16_256/PRF_HMAC_SHA2_512/CURVE_25519`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encryption.as_deref().unwrap_or("none"))?;
        if let Some(bits) = self.encryption_key_bits {
            write!(f, "_{bits}")?;
        }
        [&self.integrity, &self.prf, &self.key_exchange]
            .into_iter()
            .flatten()
            .try_for_each(|algorithm| write!(f, "/{algorithm}"))
    }
}

impl Fault {
    pub(super) fn new(name: &str, reason: impl Into<String>) -> Self {
        Self { name: name.chars().take(64).collect(), reason: reason.into() }
    }
}
