//! The SAs that charon reports.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;

/// One IKE_SA and its CHILD_SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSa {
    /// The connection's name; `(unnamed)` until the peer has sent its identity.
    pub name: String,
    /// charon's number of the IKE_SA; rekeying assigns a new one.
    pub unique_id: u32,
    /// State of the IKE_SA.
    pub state: IkeState,
    /// Local outer address.
    pub local_host: IpAddr,
    /// Local UDP port.
    pub local_port: u16,
    /// Local identity.
    pub local_id: String,
    /// The peer's outer address; behind NAT, the address of the NAT.
    pub remote_host: IpAddr,
    /// The peer's UDP port.
    pub remote_port: u16,
    /// The peer's identity. It is authenticated only if [`IkeState::is_authenticated`] returns true.
    pub remote_id: String,
    /// True if the local side initiated.
    pub initiator: bool,
    /// True if the local side is behind NAT.
    pub nat_local: bool,
    /// True if the peer is behind NAT.
    pub nat_remote: bool,
    /// Algorithms that protect IKE itself.
    pub algorithms: Algorithms,
    /// Time since establishment; `None` before.
    pub established: Option<Duration>,
    /// The readable CHILD_SAs.
    pub children: Vec<ChildSa>,
}

/// One CHILD_SA: a pair of kernel SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSa {
    /// The child configuration's name.
    pub name: String,
    /// charon's number of the CHILD_SA; rekeying assigns a new one.
    pub unique_id: u32,
    /// The reqid, which is the tunnel id.
    pub reqid: u32,
    /// State of the CHILD_SA.
    pub state: ChildState,
    /// Inbound SPI, host byte order. `None` before the SAs are installed, and in state `Updating` (NAT
    /// rebinding), in which charon 5.9.8 does not list it although the SAs exist.
    pub spi_in: Option<u32>,
    /// Outbound SPI, host byte order. `None` when `spi_in` is.
    pub spi_out: Option<u32>,
    /// XFRM mark of the inbound policies, 0 if none.
    pub mark_in: u32,
    /// XFRM mark of the outbound policy and SA, 0 if none.
    pub mark_out: u32,
    /// True for ESP in UDP.
    pub encap: bool,
    /// Algorithms that protect the traffic.
    pub algorithms: Algorithms,
    /// Inner bytes received.
    pub bytes_in: u64,
    /// Inner packets received.
    pub packets_in: u64,
    /// Inner bytes sent.
    pub bytes_out: u64,
    /// Inner packets sent.
    pub packets_out: u64,
    /// Local traffic selectors.
    pub local_ts: Vec<TrafficSelector>,
    /// Remote traffic selectors.
    pub remote_ts: Vec<TrafficSelector>,
}

/// An unreadable SA, which is missing from the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the IKE_SA or CHILD_SA, shortened.
    pub name: String,
    /// The faulty value and its fault.
    pub reason: String,
}

/// Negotiated algorithms in strongSwan's notation, such as `AES_GCM_16`, 256, `CURVE_25519`.
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
    /// Key exchange. `None` in a CHILD_SA created with its IKE_SA, whose keys come from IKE's exchange.
    pub key_exchange: Option<String>,
}

/// A traffic selector as charon prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrafficSelector {
    /// A whole prefix, any protocol and port.
    Net(IpNet),
    /// A narrower selector or a range, such as `10.1.0.0/16[tcp/80]`.
    Other(String),
}

/// States of an IKE_SA (`ike_sa_state_names` in strongSwan's ike_sa.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IkeState {
    /// Created; nothing sent yet.
    Created,
    /// Negotiating; the peer is not authenticated yet.
    Connecting,
    /// Authenticated and in use.
    Established,
    /// IKEv1 only.
    Passive,
    /// A new one is replacing it; still in use.
    Rekeying,
    /// Replaced; its CHILD_SAs belong to the new IKE_SA.
    Rekeyed,
    /// Being deleted.
    Deleting,
    /// Being destroyed.
    Destroying,
}

/// States of a CHILD_SA (`child_sa_state_names` in strongSwan's child_sa.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// Created; nothing installed yet.
    Created,
    /// Only a trap policy is installed.
    Routed,
    /// Being installed in the kernel.
    Installing,
    /// Installed and in use.
    Installed,
    /// Its addresses are changing; still in use.
    Updating,
    /// A new one is replacing it; still in use.
    Rekeying,
    /// Replaced; decrypts for some more seconds.
    Rekeyed,
    /// Being negotiated again with another key exchange group.
    Retrying,
    /// Being deleted.
    Deleting,
    /// Deleted; decrypts for some more seconds.
    Deleted,
    /// Being destroyed.
    Destroying,
}

impl IkeState {
    /// Returns true if the peer has proved its identity.
    #[must_use]
    pub fn is_authenticated(self) -> bool {
        matches!(self, Self::Established | Self::Rekeying | Self::Rekeyed | Self::Deleting)
    }

    /// Parses a state name.
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
    /// Returns true if this CHILD_SA encrypts traffic now, even if a new one is about to replace it.
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
    /// Writes strongSwan's notation of proposals: `AES_GCM_16_256/PRF_HMAC_SHA2_512/CURVE_25519`.
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
