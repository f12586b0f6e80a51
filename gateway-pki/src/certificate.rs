//! The certificates that are issued here: their contents, and a look at them after they were signed.
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SerialNumber,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::{Period, at};
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::serial::Serial;
use crate::subject::{alternative_name, subject};

/// id-kp-ipsecIKE (RFC 4945, 5.1.3.12).
const IPSEC_IKE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 17];

/// Returns the contents of an authority's certificate. At most `below` authorities may follow it in a chain.
pub(crate) fn authority(
    subject: DistinguishedName,
    below: u8,
    period: Period,
    serial: Serial,
) -> CertificateParams {
    let mut params = contents(subject, period, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Returns the contents of a gateway's or site's certificate: good for signing in IKE, and for nothing else.
pub(crate) fn end_entity(identity: &Identity, period: Period, serial: Serial) -> Result<CertificateParams> {
    let mut params = contents(subject(identity)?, period, serial);
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = alternative_name(identity)?.into_iter().collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(IPSEC_IKE.to_vec())];
    Ok(params)
}

fn contents(subject: DistinguishedName, period: Period, serial: Serial) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    (params.not_before, params.not_after) = (at(period.from), at(period.until));
    params.serial_number = Some(SerialNumber::from_slice(serial.bytes()));
    params.use_authority_key_identifier_extension = true;
    params
}

/// A certificate read back from its PEM.
pub(crate) struct ReadBack {
    pub der: Vec<u8>,
    /// SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

impl ReadBack {
    /// Reads a certificate. Returns `None` if it is none.
    pub fn new(pem: &[u8]) -> Option<Self> {
        let (_, block) = parse_x509_pem(pem).ok()?;
        let (rest, certificate) = X509Certificate::from_der(&block.contents).ok()?;
        let public_key = certificate.public_key().raw.to_vec();
        (block.label == "CERTIFICATE" && rest.is_empty())
            .then(|| Self { der: block.contents.clone(), public_key })
    }

    /// Reads a certificate that was just signed, and verifies it with its issuer's public key: a fault of memory or of
    /// a library must not get out.
    pub fn verified(pem: &str, issuer: &[u8]) -> Result<Self> {
        let failed = || Error::Crypto("the new certificate does not verify".to_owned());
        let read = Self::new(pem.as_bytes()).ok_or_else(failed)?;
        let (_, certificate) = X509Certificate::from_der(&read.der).map_err(|_| failed())?;
        let (_, issuer) = SubjectPublicKeyInfo::from_der(issuer).map_err(|_| failed())?;
        certificate.verify_signature(Some(&issuer)).map_err(|_| failed())?;
        Ok(read)
    }
}
