//! The lab's certificates: the root that the gateway and all sites trust, and a stranger's.
use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A root certificate authority whose key stays in memory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its private key.
pub struct Issued {
    /// X.509, with the identity as its only name.
    pub certificate_pem: String,
    /// PKCS #8, ECDSA P-256.
    pub key_pem: String,
}

impl Authority {
    /// Makes a root with a fresh key.
    pub fn new(common_name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The root certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// A certificate for `identity`, a DNS name.
    pub fn issue(&self, identity: &str) -> Result<Issued> {
        let mut params = CertificateParams::new([identity.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, identity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate_pem: params.signed_by(&key, &self.issuer)?.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}
