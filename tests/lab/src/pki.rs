//! Certificates of the lab. They are valid for a day from an hour ago; no lab lives longer.
use anyhow::{Context, Result};
use gateway_tests_kit::pki::{self, Validity};
use rcgen::{CertificateParams, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use time::{Duration, OffsetDateTime};

pub use gateway_tests_kit::pki::Issued;

/// Number of additional names in a large certificate, about 30 bytes each.
const OTHER_NAMES: usize = 100;

/// A root certificate authority.
#[derive(Debug)]
pub struct Authority(pki::Authority);

impl Authority {
    /// Makes a new root.
    pub fn new(common_name: &str) -> Result<Self> {
        Ok(Self(pki::Authority::new(common_name, validity())?))
    }

    /// Returns the root's certificate.
    pub fn certificate_pem(&self) -> &str {
        self.0.certificate_pem()
    }

    /// Issues a certificate and a key for `identity`, a host name.
    pub fn issue(&self, identity: &str) -> Result<Issued> {
        self.0.issue(identity, validity()).with_context(|| format!("no certificate for {identity}"))
    }

    /// Issues a certificate with so many names that it does not fit one packet.
    pub fn issue_large(&self, identity: &str) -> Result<Issued> {
        let issue = || -> Result<_> {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let issuer =
                Issuer::from_ca_cert_pem(self.0.certificate_pem(), KeyPair::from_pem(&self.0.key_pem())?)?;
            let others = (0..OTHER_NAMES).map(|number| format!("other-{number:03}.{identity}"));
            let names: Vec<_> = [identity.to_owned()].into_iter().chain(others).collect();
            let mut params = CertificateParams::new(names)?;
            params.not_before = validity().from;
            params.not_after = validity().until;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.use_authority_key_identifier_extension = true;
            let certificate_pem = params.signed_by(&key, &issuer)?.pem();
            let serial = pki::serial_of(&certificate_pem)?;
            Ok(Issued { certificate_pem, key_pem: key.serialize_pem(), serial })
        };
        issue().with_context(|| format!("no large certificate for {identity}"))
    }
}

fn validity() -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity { from: now - Duration::hours(1), until: now + Duration::days(1) }
}
