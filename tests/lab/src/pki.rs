//! The lab's certificates: valid from an hour ago for a day, as no lab lives longer.
use anyhow::{Context, Result};
use gateway_tests_kit::pki::{self, Validity};
use rcgen::{CertificateParams, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use time::{Duration, OffsetDateTime};

pub use gateway_tests_kit::pki::Issued;

/// In a large certificate, of about 30 bytes each.
const OTHER_NAMES: usize = 100;

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

    /// The same with so many other names in the certificate that no packet holds it.
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
