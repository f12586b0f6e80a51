//! Certificate revocation lists.
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::{Period, at};
use crate::error::{Error, Result};
use crate::index::{Reason, Revocation};
use crate::key::PrivateKey;
use crate::serial::Serial;

const LABEL: &str = "X509 CRL";

/// A CRL in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    der: Vec<u8>,
    /// Its number (RFC 5280, 5.2.3): grows with each CRL of an authority.
    pub number: u64,
    /// The time at which it was made.
    pub from: OffsetDateTime,
    /// The time by which there is a newer one.
    pub until: Option<OffsetDateTime>,
    /// Serial numbers of the revoked certificates, big-endian.
    pub revoked: Vec<Vec<u8>>,
}

impl Crl {
    /// Reads each CRL of a PEM file. Returns `None` if anything in it is no CRL, or if there is none.
    #[must_use]
    pub fn read_all(pem: &[u8]) -> Option<Vec<Self>> {
        let blocks: Vec<Pem> = Pem::iter_from_buffer(pem).collect::<std::result::Result<_, _>>().ok()?;
        let crls: Option<Vec<Self>> = blocks
            .into_iter()
            .map(|block| (block.label == LABEL).then(|| Self::read(block.contents))?)
            .collect();
        crls.filter(|crls| !crls.is_empty())
    }

    fn read(der: Vec<u8>) -> Option<Self> {
        let (rest, crl) = CertificateRevocationList::from_der(&der).ok()?;
        let number = u64::try_from(crl.crl_number()?.clone()).ok()?;
        let revoked = crl.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect();
        let (from, until) =
            (crl.last_update().to_datetime(), crl.next_update().map(|time| time.to_datetime()));
        rest.is_empty().then(|| Self { number, from, until, revoked, der: der.clone() })
    }

    /// Returns true if the owner of this public key (SubjectPublicKeyInfo, DER) has signed the CRL.
    #[must_use]
    pub fn is_signed_by(&self, public_key: &[u8]) -> bool {
        let crl = CertificateRevocationList::from_der(&self.der);
        let (Ok((_, crl)), Ok((_, key))) = (crl, SubjectPublicKeyInfo::from_der(public_key)) else {
            return false;
        };
        crl.verify_signature(&key).is_ok()
    }
}

/// Returns a new CRL in PEM.
pub(crate) fn sign(
    issuer: &Issuer<'_, PrivateKey>,
    public_key: &[u8],
    number: u64,
    period: Period,
    revoked: impl Iterator<Item = (Serial, Revocation)>,
) -> Result<String> {
    let entry = |(serial, Revocation { at: time, reason }): (Serial, Revocation)| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial.bytes()),
        revocation_time: at(time),
        reason_code: code(reason),
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: at(period.from),
        next_update: at(period.until),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.map(entry).collect(),
        // The same as in the authority's certificate (certificate.rs): the subject key identifier of rcgen's default.
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let pem = params.signed_by(issuer)?.pem()?;
    let verified =
        Crl::read_all(pem.as_bytes()).is_some_and(|crls| crls.iter().all(|crl| crl.is_signed_by(public_key)));
    if verified { Ok(pem) } else { Err(Error::Crypto("the new CRL does not verify".to_owned())) }
}

/// Returns the code of a reason; RFC 5280, 5.3.1 wants none instead of `unspecified`.
fn code(reason: Reason) -> Option<RevocationReason> {
    match reason {
        Reason::Unspecified => None,
        Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
        Reason::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
        Reason::Superseded => Some(RevocationReason::Superseded),
        Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
    }
}
