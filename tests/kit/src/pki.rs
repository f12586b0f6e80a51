//! A certificate authority for site-to-site tunnels, for tests: certificates, keys and CRLs in strongSwan's
//! formats.
//!
//! The authority's key is ECDSA P-384, all others are P-256. Keys are not encrypted: write them with
//! [`write_private`]. Functions take the time as an argument.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, pem::parse_x509_pem};

/// id-kp-ipsecIKE (RFC 4945, 5.1.3.12).
const IPSEC_IKE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 17];

/// A root that issues for gateways directly, without intermediate authorities.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS #8, not encrypted.
    pub key_pem: String,
    /// Its serial number, big-endian, as [`Authority::revoke`] takes it.
    pub serial: Vec<u8>,
}

/// A period, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: OffsetDateTime,
    /// Last moment.
    pub until: OffsetDateTime,
}

/// An entry of a CRL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
    /// The time of revocation.
    pub at: OffsetDateTime,
}

/// The reason why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be put in a certificate.
    #[error("{0:?} cannot be an identity: expected a host name such as berlin.acme.example")]
    Identity(String),
    /// The validity ends before it begins, or a CRL's next update comes before this one.
    #[error("the validity ends before it begins")]
    Validity,
    /// The certificate is not a CA's, or the key is another certificate's.
    #[error("the certificate is not a CA's, or the private key does not belong to it")]
    Authority,
    /// The text is not a certificate in PEM.
    #[error("not an X.509 certificate in PEM")]
    Certificate,
    /// rcgen failed, or cannot read the key.
    #[error(transparent)]
    Rcgen(#[from] rcgen::Error),
}

impl Authority {
    /// Makes a new root with a new key.
    pub fn new(common_name: &str, validity: Validity) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        let mut params = params(common_name, validity)?;
        params.serial_number = Some(serial(&key));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// Reads an authority back. Fails if the certificate is not a CA's or the key is not the certificate's.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key_pem)?;
        let fits = with_certificate(certificate_pem, |certificate| {
            certificate.is_ca() && *certificate.public_key().subject_public_key.data == *key.public_key_raw()
        })?;
        if !fits {
            return Err(Error::Authority);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)?;
        Ok(Self { issuer, certificate_pem: certificate_pem.to_owned() })
    }

    /// Returns the authority's certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Returns the authority's private key, PKCS #8, not encrypted.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a certificate with a new key for a gateway whose IKE identity is this host name.
    pub fn issue(&self, identity: &str, validity: Validity) -> Result<Issued, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let serial = serial(&key);
        self.issue_to(identity, key, serial, validity)
    }

    /// Issues a certificate for a key (PEM) that has others already. `number` becomes the serial number.
    pub fn issue_another(
        &self,
        identity: &str,
        key_pem: &str,
        number: u64,
        validity: Validity,
    ) -> Result<Issued, Error> {
        self.issue_to(identity, KeyPair::from_pem(key_pem)?, number.into(), validity)
    }

    fn issue_to(
        &self,
        identity: &str,
        key: KeyPair,
        serial: SerialNumber,
        validity: Validity,
    ) -> Result<Issued, Error> {
        check_identity(identity)?;
        let mut params = params(identity, validity)?;
        params.serial_number = Some(serial.clone());
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![SanType::DnsName(identity.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(IPSEC_IKE.to_vec())];
        params.use_authority_key_identifier_extension = true;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate_pem, key_pem: key.serialize_pem(), serial: serial.to_bytes() })
    }

    /// Issues a CRL in PEM. `revoked` is *all* revoked certificates, not only new ones. `number` must grow
    /// with each CRL: charon keeps the one with the higher number.
    pub fn revoke(&self, revoked: &[Revoked], number: u64, validity: Validity) -> Result<String, Error> {
        if validity.until <= validity.from {
            return Err(Error::Validity);
        }
        let entry = |revoked: &Revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&revoked.serial),
            revocation_time: revoked.at,
            reason_code: None,
            invalidity_date: None,
        };
        let crl = CertificateRevocationListParams {
            this_update: validity.from,
            next_update: validity.until,
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(crl.signed_by(&self.issuer)?.pem()?)
    }
}

impl std::fmt::Debug for Issued {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// Returns the serial number of a certificate in PEM, big-endian, as [`Revoked`] takes it.
pub fn serial_of(certificate_pem: &str) -> Result<Vec<u8>, Error> {
    with_certificate(certificate_pem, |certificate| certificate.raw_serial().to_vec())
}

/// Writes a new file with mode 0600, for the owner only, and syncs it. Fails if the file exists, because
/// overwriting a key loses it.
pub fn write_private(path: &Path, contents: &str) -> io::Result<()> {
    write_new(path, contents, 0o600)
}

/// Writes a new file with mode 0644, readable for all, such as a certificate.
pub fn write_public(path: &Path, contents: &str) -> io::Result<()> {
    write_new(path, contents, 0o644)
}

fn write_new(path: &Path, contents: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, Error> {
    if validity.until <= validity.from {
        return Err(Error::Validity);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = (validity.from, validity.until);
    Ok(params)
}

fn with_certificate<T>(pem: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, Error> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|_| Error::Certificate)?;
    let certificate = pem.parse_x509().map_err(|_| Error::Certificate)?;
    Ok(read(&certificate))
}

/// Returns a serial number that is as unique as the key: 16 bytes of the hash of its public half. The top
/// bits are 01 so that the DER integer has exactly these bytes.
fn serial(key: &KeyPair) -> SerialNumber {
    let mut bytes = CertificateParams::default().key_identifier(key);
    bytes.truncate(16);
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from(bytes)
}

/// Fails unless the identity is a host name. Wildcards are refused because a certificate is for one gateway.
fn check_identity(identity: &str) -> Result<(), Error> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if identity.len() > 253 || !identity.split('.').all(label) {
        return Err(Error::Identity(identity.to_owned()));
    }
    Ok(())
}
