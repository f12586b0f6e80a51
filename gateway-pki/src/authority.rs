//! An authority whose key is open.
use std::path::Path;

use rcgen::{Issuer, PublicKeyData};
use time::OffsetDateTime;

use crate::certificate::ReadBack;
use crate::clock::{at, utc};
use crate::error::{Error, Result};
use crate::index::{AuthorityRecord, Role, State};
use crate::key::PrivateKey;

/// An authority that can sign.
pub struct SigningAuthority {
    pub(crate) role: Role,
    pub(crate) issuer: Issuer<'static, PrivateKey>,
    /// SubjectPublicKeyInfo in DER.
    pub(crate) public_key: Vec<u8>,
}

impl SigningAuthority {
    /// Joins an authority and its key. The paths are for messages.
    pub(crate) fn new(
        record: &AuthorityRecord,
        key: PrivateKey,
        key_path: &Path,
        path: &Path,
    ) -> Result<Self> {
        let unreadable =
            || Error::Certificate { path: path.to_owned(), fault: "cannot be parsed".to_owned() };
        let certificate = ReadBack::new(record.certificate.as_bytes()).ok_or_else(unreadable)?;
        if certificate.public_key != key.subject_public_key_info() {
            return Err(Error::KeyMismatch { key: key_path.to_owned(), certificate: path.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_pem(&record.certificate, key)?;
        Ok(Self { role: record.role, issuer, public_key: certificate.public_key })
    }
}

/// Fails unless the authority's certificate is valid now and at the end of what it signs.
pub(crate) fn check_period(record: &AuthorityRecord, until: i64, now: OffsetDateTime) -> Result<()> {
    let (from, end) = record.period();
    match record.state(now) {
        State::Revoked => Err(Error::Revoked(record.role.to_string())),
        State::NotYet | State::Expired => {
            Err(Error::AuthorityPeriod { from: utc(from), until: utc(end), now: utc(now) })
        }
        State::Valid if until > record.until => {
            Err(Error::Outlives { until: utc(at(until)), authority: utc(end) })
        }
        State::Valid => Ok(()),
    }
}
