//! X.509 certificates.
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::fault::{Invalid, quote};

/// A certificate, borrowed from its DER encoding.
pub(super) struct Certificate<'d>(X509Certificate<'d>);

/// A moment compared with a certificate's period of validity (RFC 5280, 4.1.2.5).
pub(super) enum Period {
    /// The moment is within the period.
    Valid,
    /// The period begins later, at this time.
    NotYet(String),
    /// The period has ended, at this time.
    Expired(String),
}

impl<'d> Certificate<'d> {
    /// Parses a certificate.
    pub fn read(der: &'d [u8]) -> Result<Self, Invalid> {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(Self(certificate)),
            Ok(_) => Err(Invalid::new("has bytes behind the certificate", "an X.509 certificate in PEM")),
            Err(_) => Err(Invalid::new("cannot be parsed", "an X.509 certificate in PEM")),
        }
    }

    /// Returns the DNS names among the subject alternative names, harmless to a terminal.
    pub fn dns_names(&self) -> Vec<String> {
        let extension = self.0.subject_alternative_name().ok().flatten();
        let names = extension.into_iter().flat_map(|extension| &extension.value.general_names);
        let dns = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(quote(name).trim_matches('`').to_owned()),
            _ => None,
        });
        dns.collect()
    }

    /// Returns true if the certificate's owner may sign others (RFC 5280, 4.2.1.9). strongSwan looks at this
    /// flag alone (openssl_x509.c, `parse_basicConstraints_ext`).
    pub fn is_authority(&self) -> bool {
        self.0.is_ca()
    }

    /// Returns the certified public key.
    pub fn public_key(&self) -> &SubjectPublicKeyInfo<'_> {
        self.0.public_key()
    }

    /// Compares `now` with the period of validity, both ends included.
    pub fn period(&self, now: OffsetDateTime) -> Period {
        let validity = self.0.validity();
        let (from, until) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        if now < from {
            Period::NotYet(utc(from))
        } else if now.unix_timestamp() > until.unix_timestamp() {
            Period::Expired(utc(until))
        } else {
            Period::Valid
        }
    }
}

/// Returns text such as `2027-01-31 12:00:00 UTC`.
fn utc(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
}
