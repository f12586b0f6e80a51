//! A connection as charon is told it: one peer, its authentication and its children.
//!
//! Everything is sent explicitly where a different default would change what gets through. Names and
//! identities are held to plain characters, since charon gives others a meaning (`%any`, `*`, `#…`).

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Child, Error,
    child::WireChild,
    message::{self, Blob, MAX_VALUE_BYTES},
};

/// IKE proposals, preferred first: AES256-GCM, then AES256-CBC with HMAC-SHA-512 for routers that need it.
pub const IKE_PROPOSALS: [&str; 2] =
    ["aes256gcm16-prfsha512-curve25519", "aes256-sha512-prfsha512-curve25519"];

/// The other keys of a message that holds a connection's section under its name (see `events`).
const RESERVED_NAMES: [&str; 5] = ["up", "local-host", "local-port", "remote-host", "remote-port"];

/// One IKEv2 connection, authenticated by certificates on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Letters, digits, `.`, `_`, `-`; at most 128.
    pub name: String,
    /// Our outer addresses; empty: any.
    pub local_addrs: Vec<IpAddr>,
    /// The peer's outer addresses; empty: any, and the peer has to initiate.
    pub remote_addrs: Vec<IpAddr>,
    /// We.
    pub local: Local,
    /// The peer.
    pub remote: Remote,
    /// IKE proposals, preferred first.
    pub proposals: Vec<Cow<'static, str>>,
    /// ESP in UDP even without NAT.
    pub encap: bool,
    /// What becomes of an older IKE_SA of the same peer.
    pub unique: Unique,
    /// Silence after which the peer is probed; zero: never. It is given up after charon's
    /// retransmissions (`charon.retransmit_*`, 165 s by default).
    pub dpd_delay: Duration,
    /// Age at which the IKE_SA is rekeyed; it is deleted when 10 % over it.
    pub rekey_time: Duration,
    /// Age at which the peer must authenticate again; `None`: never. It breaks before it makes: about
    /// 130 ms without policies. Without it an expired certificate stays in use as long as its IKE_SA is
    /// rekeyed.
    pub reauth_time: Option<Duration>,
    /// How often to try to connect, each with all retransmissions; 0: forever.
    pub keying_tries: u32,
    /// Tunnels, at least one.
    pub children: Vec<Child>,
}

/// How we authenticate. The private key is loaded with [`Client::load_key`](super::Client::load_key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// A DNS name that the certificate carries as subjectAltName.
    pub identity: String,
    /// PEM or DER.
    pub certificate: Arc<[u8]>,
}

/// Whom we accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// A DNS name that the peer's certificate must carry as subjectAltName. No wildcards.
    pub identity: String,
    /// The CA that must have issued the peer's certificate. PEM or DER.
    pub authority: Arc<[u8]>,
    /// How much must be known about revocation.
    pub revocation: Revocation,
}

/// What a missing CRL means. A certificate that a loaded CRL lists is refused in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Revocation {
    /// No CRL: accepted.
    #[default]
    Relaxed,
    /// No valid CRL: refused.
    Strict,
}

/// What happens when the same identity connects once more.
///
/// charon applies it after authentication, to IKE_SAs of the same connection whose two identities are equal
/// in type and content (`check_uniqueness` in ike_sa_manager.c). So no other identity can displace an SA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unique {
    /// The new one replaces the old: at once if the peer says INITIAL_CONTACT, which a peer that crashed
    /// does; else after 10 s from the same address (taken for reauthentication), else by a DELETE.
    /// The gateway's choice: a site that comes back must not find itself locked out.
    #[default]
    Replace,
    /// Only INITIAL_CONTACT replaces: two SAs of one site may live side by side with one reqid.
    No,
}

impl Connection {
    /// With this project's proposals and defaults fit for the gateway's side: any peer address, no
    /// initiating, 30 s dead-peer detection, IKE rekeyed every 4 h.
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

    /// The `load-conn` message, after checking every field.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        message::encode(&BTreeMap::from([(self.name.as_str(), self.wire())]))
    }

    fn check(&self) -> Result<(), Error> {
        check_name("connection", &self.name)?;
        check_identity("local identity", &self.local.identity)?;
        check_identity("remote identity", &self.remote.identity)?;
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
                return Err(Error::invalid("child", &child.name, "once in a connection"));
            }
        }
        Ok(())
    }

    fn wire(&self) -> WireConnection<'_> {
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
            // Both: a peer must not need to know our certificate, nor we its.
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
                id: fqdn(&self.remote.identity),
                cacerts: [Blob(&self.remote.authority)],
                revocation: match self.remote.revocation {
                    Revocation::Relaxed => "relaxed",
                    Revocation::Strict => "strict",
                },
            },
            children: self.children.iter().map(|c| (c.name.as_str(), c.wire())).collect(),
        }
    }
}

/// Names of connections and children: no character that VICI, charon or a terminal gives a meaning.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
        return Err(Error::invalid(field, name, "1 to 128 letters, digits, `.`, `_`, `-`"));
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(Error::invalid(field, name, "not a key of VICI events"));
    }
    Ok(())
}

/// A value of raw bytes that fits.
pub(super) fn check_blob(field: &'static str, blob: &[u8]) -> Result<(), Error> {
    if blob.is_empty() || blob.len() > MAX_VALUE_BYTES {
        return Err(Error::invalid(field, &format!("{} bytes", blob.len()), "1 to 65535 bytes"));
    }
    Ok(())
}

/// A host name: charon would take `*` and `%any` for wildcards and `#` for hex.
fn check_identity(field: &'static str, identity: &str) -> Result<(), Error> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if identity.len() > 253 || !identity.split('.').all(label) {
        return Err(Error::invalid(field, identity, "a host name without wildcards"));
    }
    Ok(())
}

pub(super) fn check_proposals(field: &'static str, proposals: &[Cow<'_, str>]) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let bad = |proposal: &&Cow<'_, str>| {
        proposal.is_empty() || proposal.len() > 256 || !proposal.bytes().all(plain)
    };
    if proposals.is_empty() || proposals.len() > 16 {
        return Err(Error::invalid(field, "", "1 to 16 proposals"));
    }
    match proposals.iter().find(bad) {
        Some(proposal) => Err(Error::invalid(field, proposal, "algorithms joined by `-`")),
        None => Ok(()),
    }
}

pub(super) fn check_time(field: &'static str, time: Duration) -> Result<(), Error> {
    if time < Duration::from_secs(1) {
        return Err(Error::invalid(field, &format!("{time:?}"), "at least 1 s"));
    }
    Ok(())
}

/// Forces the identity's type: a bare name like `10.0.0.1` would be an address to charon.
fn fqdn(identity: &str) -> String {
    format!("fqdn:{identity}")
}

pub(super) fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

fn addresses(addresses: &[IpAddr]) -> Vec<String> {
    match addresses {
        [] => vec!["%any".into()],
        some => some.iter().map(IpAddr::to_string).collect(),
    }
}

/// Keys of swanctl.conf(5), section connections.<conn>.
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
    use super::*;

    fn connection() -> Connection {
        let local = Local { identity: "gateway.example".into(), certificate: (*b"C").into() };
        let remote = Remote {
            identity: "berlin.acme.example".into(),
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
        connection.children[0].mark = Some(101);
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
    fn what_charon_would_read_differently_is_refused() {
        type Change = fn(&mut Connection);
        let changes: [(&str, Change); 14] = [
            ("wildcard", |c| c.remote.identity = "*.acme.example".into()),
            ("any", |c| c.remote.identity = "%any".into()),
            ("hex", |c| c.remote.identity = "#0102".into()),
            ("empty identity", |c| c.remote.identity.clear()),
            ("name with a line", |c| c.name = "a\nb".into()),
            ("event's key", |c| c.name = "up".into()),
            ("cut at 16 bits", |c| c.local.certificate = vec![0; 65_536].into()),
            ("no authority", |c| c.remote.authority = [].into()),
            ("no children", |c| c.children.clear()),
            ("two children of a name", |c| c.children.push(c.children[0].clone())),
            ("any reqid", |c| c.children[0].reqid = Some(0)),
            ("no mark", |c| c.children[0].mark = Some(0)),
            ("unique mark", |c| c.children[0].mark = Some(u32::MAX)),
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
