//! The lab's certificates: valid from an hour ago for a day, as no lab lives longer.
use ::gateway::pki::{self, Validity};
use anyhow::{Context, Result};
use time::{Duration, OffsetDateTime};

pub use ::gateway::pki::Issued;

/// A root certificate authority.
#[derive(Debug)]
pub struct Authority(pki::Authority);

impl Authority {
    /// A new root.
    pub fn new(common_name: &str) -> Result<Self> {
        Ok(Self(pki::Authority::new(common_name, validity())?))
    }

    /// Its certificate.
    pub fn certificate_pem(&self) -> &str {
        self.0.certificate_pem()
    }

    /// A certificate and a key for `identity`, a host name.
    pub fn issue(&self, identity: &str) -> Result<Issued> {
        self.0.issue(identity, validity()).with_context(|| format!("no certificate for {identity}"))
    }
}

fn validity() -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity { from: now - Duration::hours(1), until: now + Duration::days(1) }
}
