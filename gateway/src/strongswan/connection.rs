//! A connection as `load-conn` sends it: one peer or all, their authentication and their children.
//!
//! The message states every option whose default would affect which traffic passes.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    check::{check_blob, check_identity, check_name, check_proposals, check_time},
    child::{Child, WireChild},
    error::Error,
    message::{self, Blob},
    time::seconds,
};

/// IKE proposals, preferred first: AES256-GCM, then AES256-CBC with HMAC-SHA-512 for routers that need it.
pub const IKE_PROPOSALS: [&str; 2] =
    ["aes256gcm16-prfsha512-curve25519", "aes256-sha512-prfsha512-curve25519"];

/// One IKEv2 connection, authenticated by certificates on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Name: at most 128 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Local outer addresses. Empty means any.
    pub local_addrs: Vec<IpAddr>,
    /// The peer's outer addresses. Empty means any, and then only the peer can initiate.
    pub remote_addrs: Vec<IpAddr>,
    /// Local authentication.
    pub local: Local,
    /// Authentication of the peer.
    pub remote: Remote,
    /// IKE proposals, preferred first.
    pub proposals: Vec<Cow<'static, str>>,
    /// Forces ESP in UDP even without NAT.
    pub encap: bool,
    /// Treatment of an older IKE_SA of the same peer.
    pub unique: Unique,
    /// Silence after which charon probes the peer; zero disables probing. charon gives the peer up after its
    /// retransmissions (`charon.retransmit_*`, 165 s by default).
    pub dpd_delay: Duration,
    /// Age at which charon rekeys the IKE_SA. charon deletes it at 110 % of this age.
    pub rekey_time: Duration,
    /// Age at which the peer must authenticate again; `None` for never. Reauthentication breaks before it
    /// makes (docs/facts.md: order-of-rekey-events). Without it an expired certificate stays in use for as long as
    /// its IKE_SA is rekeyed.
    pub reauth_time: Option<Duration>,
    /// Attempts to connect, each with all retransmissions; 0 for unlimited.
    pub keying_tries: u32,
    /// Tunnels, at least one.
    pub children: Vec<Child>,
}

/// Local authentication. `Client::load_key` loads the private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// A DNS name that the certificate carries as subjectAltName.
    pub identity: String,
    /// PEM or DER.
    pub certificate: Arc<[u8]>,
}

/// Authentication of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The peers that may use the connection.
    pub identity: PeerIdentity,
    /// The CA that must have issued the peer's certificate. PEM or DER.
    pub authority: Arc<[u8]>,
    /// Requirement for revocation information.
    pub revocation: Revocation,
}

/// The peers that may use a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerIdentity {
    /// Every peer with a certificate of the authority, whatever its identity. Its identity must be checked afterwards.
    Any,
    /// The peer whose certificate carries this DNS name as subjectAltName. No wildcards.
    Name(String),
}

/// Treatment of a missing CRL. charon always refuses a certificate listed in a loaded CRL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Accept the peer.
    #[default]
    Relaxed,
    /// Refuse the peer unless there is a valid CRL.
    Strict,
}

/// Treatment of a second IKE_SA of the same identity.
///
/// charon applies it after authentication, to IKE_SAs of the same connection whose identities are equal in
/// type and content (`check_uniqueness` in ike_sa_manager.c). No other identity can displace an SA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unique {
    /// The new IKE_SA replaces the old one: at once if the peer sends INITIAL_CONTACT, as it does after a
    /// crash; after 10 s if it comes from the same address, which charon takes for reauthentication; otherwise
    /// by a DELETE. The gateway uses this, because a returning site must not be locked out.
    #[default]
    Replace,
    /// Only INITIAL_CONTACT replaces the old IKE_SA. Two SAs of one site may coexist with one reqid.
    No,
}

impl Connection {
    /// Creates a connection with this project's proposals and the gateway's defaults: any peer address, no
    /// initiation, dead-peer detection after 30 s, IKE rekeying every 4 h.
    #[must_use]
    pub fn new(name: impl Into<String>, local: Local, remote: Remote) -> Self {
        Self {
            name: name.into(),
            local_addrs: Vec::new(),
            remote_addrs: Vec::new(),
            local,
            remote,
            proposals: IKE_PROPOSALS.map(Cow::Borrowed).to_vec(),
            encap: false,
            unique: Unique::default(),
            dpd_delay: Duration::from_secs(30),
            rekey_time: Duration::from_secs(4 * 3600),
            reauth_time: None,
            keying_tries: 1,
            children: Vec::new(),
        }
    }

    /// Checks every field and returns the `load-conn` message.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        message::encode(&BTreeMap::from([(self.name.as_str(), self.to_wire())]))
    }

    fn check(&self) -> Result<(), Error> {
        check_name("connection", &self.name)?;
        check_identity("local identity", &self.local.identity)?;
        if let PeerIdentity::Name(identity) = &self.remote.identity {
            check_identity("remote identity", identity)?;
        }
        check_blob("certificate", &self.local.certificate)?;
        check_blob("authority", &self.remote.authority)?;
        check_proposals("proposals", &self.proposals)?;
        check_time("rekey_time", self.rekey_time)?;
        if let Some(reauth_time) = self.reauth_time {
            check_time("reauth_time", reauth_time)?;
        }
        if self.children.is_empty() {
            return Err(Error::invalid("children", "", "at least one"));
        }
        for (index, child) in self.children.iter().enumerate() {
            child.check()?;
            if self.children.iter().take(index).any(|other| other.name == child.name) {
                return Err(Error::invalid("child", &child.name, "a name used once per connection"));
            }
        }
        Ok(())
    }

    fn to_wire(&self) -> WireConnection<'_> {
        WireConnection {
            version: 2,
            local_addrs: addresses(&self.local_addrs),
            remote_addrs: addresses(&self.remote_addrs),
            proposals: &self.proposals,
            encap: self.encap,
            mobike: false,
            fragmentation: "yes",
            unique: match self.unique {
                Unique::Replace => "replace",
                Unique::No => "no",
            },
            // Request and send certificates always, so that neither side needs the other's beforehand.
            send_certreq: true,
            send_cert: "always",
            dpd_delay: seconds(self.dpd_delay),
            rekey_time: seconds(self.rekey_time),
            reauth_time: self.reauth_time.map_or_else(|| "0s".into(), seconds),
            keyingtries: self.keying_tries,
            local: WireLocal {
                auth: "pubkey",
                id: fqdn(&self.local.identity),
                certs: [Blob(&self.local.certificate)],
            },
            remote: WireRemote {
                auth: "pubkey",
                id: match &self.remote.identity {
                    // No other type: an e-mail address or a key id may print like a DNS name.
                    PeerIdentity::Any => fqdn("*"),
                    PeerIdentity::Name(identity) => fqdn(identity),
                },
                cacerts: [Blob(&self.remote.authority)],
                revocation: match self.remote.revocation {
                    Revocation::Relaxed => "relaxed",
                    Revocation::Strict => "strict",
                },
            },
            children: self.children.iter().map(|c| (c.name.as_str(), c.to_wire())).collect(),
        }
    }
}

/// Forces the type of an identity: charon takes a bare `10.0.0.1` for an address.
fn fqdn(identity: &str) -> String {
    format!("fqdn:{identity}")
}

/// Returns addresses as text, `%any` for none.
fn addresses(addresses: &[IpAddr]) -> Vec<String> {
    match addresses {
        [] => vec!["%any".into()],
        some => some.iter().map(IpAddr::to_string).collect(),
    }
}

/// Keys of swanctl.conf(5), section `connections.<conn>`.
#[derive(Debug, Serialize)]
struct WireConnection<'a> {
    version: u8,
    local_addrs: Vec<String>,
    remote_addrs: Vec<String>,
    proposals: &'a [Cow<'static, str>],
    encap: bool,
    mobike: bool,
    fragmentation: &'static str,
    unique: &'static str,
    send_certreq: bool,
    send_cert: &'static str,
    dpd_delay: String,
    rekey_time: String,
    reauth_time: String,
    keyingtries: u32,
    local: WireLocal<'a>,
    remote: WireRemote<'a>,
    children: BTreeMap<&'a str, WireChild<'a>>,
}

#[derive(Debug, Serialize)]
struct WireLocal<'a> {
    auth: &'static str,
    id: String,
    certs: [Blob<'a>; 1],
}

#[derive(Debug, Serialize)]
struct WireRemote<'a> {
    auth: &'static str,
    id: String,
    cacerts: [Blob<'a>; 1],
    revocation: &'static str,
}

#[cfg(test)]
mod tests {
    use super::{super::child::Marks, *};

    fn connection() -> Connection {
        let local = Local { identity: "gateway.example".into(), certificate: (*b"C").into() };
        let remote = Remote {
            identity: PeerIdentity::Name("berlin.acme.example".into()),
            authority: (*b"A").into(),
            revocation: Revocation::Strict,
        };
        let mut connection = Connection::new("acme.berlin", local, remote);
        let net = |text: &str| vec![text.parse().unwrap()];
        connection.children.push(Child::new("t", net("10.200.0.11/32"), net("192.168.0.0/16")));
        connection
    }

    fn contains(message: &[u8], part: &[u8]) -> bool {
        message.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn marks_and_reqid_are_sent_only_when_given() {
        let mut connection = connection();
        let without = connection.encode().unwrap();
        assert!(!contains(&without, b"\x05reqid") && !contains(&without, b"\x07mark_in"));
        connection.children[0].reqid = Some(101);
        connection.children[0].marks = Marks::Fixed(101);
        let with = connection.encode().unwrap();
        assert!(contains(&with, b"\x03\x05reqid\x00\x03101"));
        for key in [&b"\x07mark_in"[..], b"\x0bset_mark_in", b"\x08mark_out"] {
            assert!(contains(&with, &[b"\x03", key, b"\x00\x0f0x65/0xffffffff"].concat()));
        }
        assert!(contains(&with, b"\x03\x0amark_in_sa\x00\x02no"));
        assert!(contains(&with, b"\x03\x06unique\x00\x07replace"));
        assert!(contains(&with, b"\x03\x02id\x00\x18fqdn:berlin.acme.example"));
        assert!(contains(&with, b"\x03\x0arevocation\x00\x06strict"));
        assert!(contains(&with, b"\x04\x07cacerts\x05\x00\x01A\x06"));
    }

    #[test]
    fn wildcard_connection_has_unique_marks_and_no_reqid() {
        let mut connection = connection();
        connection.remote.identity = PeerIdentity::Any;
        connection.children[0].marks = Marks::Unique;
        let sent = connection.encode().unwrap();
        assert!(contains(&sent, b"\x03\x02id\x00\x06fqdn:*"));
        for key in [&b"\x07mark_in"[..], b"\x08mark_out"] {
            assert!(contains(&sent, &[b"\x03", key, b"\x00\x07%unique"].concat()));
        }
        assert!(contains(&sent, b"\x03\x0bset_mark_in\x00\x05%same"));
        assert!(contains(&sent, b"\x03\x0amark_in_sa\x00\x02no"));
        assert!(!contains(&sent, b"\x05reqid"));
    }

    #[test]
    fn values_that_charon_interprets_differently_are_refused() {
        type Change = fn(&mut Connection);
        let changes: [(&str, Change); 14] = [
            ("wildcard", |c| c.remote.identity = PeerIdentity::Name("*.acme.example".into())),
            ("any", |c| c.remote.identity = PeerIdentity::Name("%any".into())),
            ("hex", |c| c.remote.identity = PeerIdentity::Name("#0102".into())),
            ("empty identity", |c| c.remote.identity = PeerIdentity::Name(String::new())),
            ("name with a line", |c| c.name = "a\nb".into()),
            ("event's key", |c| c.name = "up".into()),
            ("cut at 16 bits", |c| c.local.certificate = vec![0; 65_536].into()),
            ("no authority", |c| c.remote.authority = [].into()),
            ("no children", |c| c.children.clear()),
            ("two children of a name", |c| c.children.push(c.children[0].clone())),
            ("any reqid", |c| c.children[0].reqid = Some(0)),
            ("no mark", |c| c.children[0].marks = Marks::Fixed(0)),
            ("mark that means unique", |c| c.children[0].marks = Marks::Fixed(u32::MAX)),
            ("no selectors", |c| c.children[0].remote_ts.clear()),
        ];
        for (what, change) in changes {
            let mut connection = connection();
            change(&mut connection);
            let encoded = connection.encode();
            assert!(matches!(encoded, Err(Error::Invalid { .. })), "{what}: {encoded:?}");
        }
    }
}
