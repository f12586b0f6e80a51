//! An identity in a certificate: its subject and its subject alternative name.
use rcgen::SanType;

use crate::distinguished::common_name;
use crate::error::Result;
use crate::identity::Identity;

/// Longest commonName (RFC 5280, A.1, ub-common-name).
const MAX_COMMON_NAME: usize = 64;

/// Returns the subject: the distinguished name itself, or a commonName for people. An identity that does not fit is
/// shortened there; nobody compares it, since IKE looks at the alternative name (RFC 4945, 3.1).
pub(crate) fn subject(identity: &Identity) -> Result<rcgen::DistinguishedName> {
    if let Identity::Dn(name) = identity {
        return name.subject();
    }
    let text = identity.to_string();
    match text.get(..MAX_COMMON_NAME - 3) {
        Some(start) if text.len() > MAX_COMMON_NAME => common_name(&format!("{start}...")),
        _ => common_name(&text),
    }
}

/// Returns the subject alternative name. IKE compares a distinguished name with the subject.
pub(crate) fn alternative_name(identity: &Identity) -> Result<Option<SanType>> {
    Ok(match identity {
        Identity::Fqdn(name) => Some(SanType::DnsName(name.as_str().try_into()?)),
        Identity::Email(address) => Some(SanType::Rfc822Name(address.as_str().try_into()?)),
        Identity::Ip(address) => Some(SanType::IpAddress(*address)),
        Identity::Dn(_) => None,
    })
}
