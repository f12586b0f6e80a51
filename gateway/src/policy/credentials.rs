//! The credential files that the policy names: read, and checked against the policy and one another.
//!
//! Everything that charon would find out only at the first handshake, or not say at all, is a fault here.
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::certificate::{Certificate, Period};
use super::fault::{Fault, Faults, Invalid};
use super::gateway::{Gateway, Ipsec};
use super::key;
use super::pem;
use super::regular::{Unread, read_regular};

/// Largest file in bytes: VICI has no larger values.
const MAX_BYTES: u64 = 0xffff;
/// Permission bits of everyone but the owner and the group.
const OTHERS: u32 = 0o007;
/// Permission bit that lets the group write.
const GROUP_WRITE: u32 = 0o020;

const CERTIFICATE: &str = "the gateway's certificate";
const PRIVATE_KEY: &str = "the gateway's private key";
const AUTHORITY: &str = "the certificate authority's certificate";

/// The contents of the credential files, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The gateway's certificate.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub private_key: Vec<u8>,
    /// The certificate of the authority that signs the sites' certificates.
    pub authority: Vec<u8>,
}

/// The result of [`read_credentials`].
pub struct CredentialCheck {
    /// The credentials, if they can be used. A certificate outside its period of validity can be: charon takes
    /// it, and tunnels that are up are rekeyed with it.
    pub credentials: Option<Credentials>,
    /// Every fault of the files.
    pub faults: Faults,
}

/// Reads the certificates and the key that `gateway.toml` names, and checks them at the time `now`.
pub fn read_credentials(gateway: &Gateway, now: OffsetDateTime) -> CredentialCheck {
    let Ipsec { identity: _, certificate, private_key, authority } = &gateway.ipsec;
    let mut check = Check { now, faults: Faults::default(), unusable: false };
    let certificate_pem = check.read(certificate, CERTIFICATE, None);
    let authority_pem = check.read(authority, AUTHORITY, None);
    let key_pem = check.read(private_key, PRIVATE_KEY, Some(OTHERS | GROUP_WRITE));
    if let Some(pem) = &authority_pem {
        check.authority(authority, pem);
    }
    let certified = certificate_pem.as_deref().and_then(|pem| check.certificate(gateway, pem));
    if let Some(pem) = &key_pem {
        check.key(private_key, pem, certified.as_ref());
    }
    let credentials = match (certificate_pem, key_pem, authority_pem) {
        (Some(certificate), Some(private_key), Some(authority)) if !check.unusable => {
            Some(Credentials { certificate, private_key, authority })
        }
        _ => None,
    };
    CredentialCheck { credentials, faults: check.faults }
}

/// Checks the certificates at the time `now`, but neither opens the private key nor misses a file that does not
/// exist on this machine. Returns the faults and the files that were not checked.
pub fn check_certificates(gateway: &Gateway, now: OffsetDateTime) -> (Faults, Vec<PathBuf>) {
    let Ipsec { identity: _, certificate, private_key, authority } = &gateway.ipsec;
    let mut check = Check { now, faults: Faults::default(), unusable: false };
    let mut unchecked = vec![private_key.clone()];
    if !certificate.exists() {
        unchecked.push(certificate.clone());
    } else if let Some(pem) = check.read(certificate, CERTIFICATE, None) {
        check.certificate(gateway, &pem);
    }
    if !authority.exists() {
        unchecked.push(authority.clone());
    } else if let Some(pem) = check.read(authority, AUTHORITY, None) {
        check.authority(authority, &pem);
    }
    (check.faults, unchecked)
}

struct Check {
    now: OffsetDateTime,
    faults: Faults,
    /// True if there is a fault other than the period of validity.
    unusable: bool,
}

impl Check {
    fn fault(&mut self, path: &Path, message: impl Into<String>, expected: impl Into<String>) {
        self.unusable = true;
        self.faults.insert(Fault::of_file(path, message, expected));
    }

    fn invalid(&mut self, path: &Path, what: &str, Invalid { message, expected }: Invalid) {
        self.fault(path, format!("{what} {message}"), expected);
    }

    /// Reads a file. `forbidden` are permission bits that it must not have.
    fn read(&mut self, path: &Path, what: &str, forbidden: Option<u32>) -> Option<Vec<u8>> {
        let (bytes, metadata) = match read_regular(path, MAX_BYTES) {
            Ok(read) => read,
            Err(unread) => {
                let message = match unread {
                    Unread::NotRegular => format!("{what} is not a regular file"),
                    Unread::TooLarge => format!("{what} is larger than {MAX_BYTES} bytes"),
                    Unread::Io(error) => format!("cannot read {what}: {error}"),
                };
                self.fault(path, message, "a PEM file");
                return None;
            }
        };
        let mode = metadata.mode() & 0o7777;
        if forbidden.is_some_and(|forbidden| mode & forbidden != 0) {
            let message = format!("{what} is accessible to other users: its mode is {mode:04o}");
            self.fault(path, message, format!("`chmod 600 {}`", path.display()));
        }
        Some(bytes)
    }

    fn authority(&mut self, path: &Path, pem: &[u8]) {
        let der = match pem::block(pem, "CERTIFICATE") {
            Ok(der) => der,
            Err(invalid) => return self.invalid(path, AUTHORITY, invalid),
        };
        match Certificate::read(&der) {
            Ok(certificate) => {
                self.period(path, AUTHORITY, &certificate);
                if !certificate.is_authority() {
                    let expected = "a certificate with `basicConstraints = CA:TRUE`";
                    self.fault(
                        path,
                        format!("{AUTHORITY} is no authority's: its CA flag is not set"),
                        expected,
                    );
                }
            }
            Err(invalid) => self.invalid(path, AUTHORITY, invalid),
        }
    }

    /// Checks the gateway's certificate and returns it in DER.
    fn certificate(&mut self, gateway: &Gateway, pem: &[u8]) -> Option<Vec<u8>> {
        let Ipsec { identity, certificate: path, .. } = &gateway.ipsec;
        let der = match pem::block(pem, "CERTIFICATE") {
            Ok(der) => der,
            Err(invalid) => {
                self.invalid(path, CERTIFICATE, invalid);
                return None;
            }
        };
        let certificate = match Certificate::read(&der) {
            Ok(certificate) => certificate,
            Err(invalid) => {
                self.invalid(path, CERTIFICATE, invalid);
                return None;
            }
        };
        self.period(path, CERTIFICATE, &certificate);
        let names = certificate.dns_names();
        if !names.iter().any(|name| name.eq_ignore_ascii_case(identity.as_str())) {
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let message = format!("{CERTIFICATE} is not the identity's: its DNS names are {found}");
            self.fault(path, message, format!("a subject alternative name `DNS:{identity}`"));
        }
        Some(der)
    }

    fn key(&mut self, path: &Path, pem: &[u8], certificate: Option<&Vec<u8>>) {
        let key = match pem::key_block(pem) {
            Ok(key) => key,
            Err(invalid) => return self.invalid(path, PRIVATE_KEY, invalid),
        };
        let certified = certificate.and_then(|der| Certificate::read(der).ok());
        let checked = match &certified {
            Some(certificate) => key::check(&key, certificate.public_key()),
            None => key::supported(&key),
        };
        if let Err(invalid) = checked {
            self.invalid(path, PRIVATE_KEY, invalid);
        }
    }

    fn period(&mut self, path: &Path, what: &str, certificate: &Certificate) {
        let message = match certificate.period(self.now) {
            Period::Valid => return,
            Period::NotYet(from) => format!("{what} is not valid before {from}"),
            Period::Expired(until) => format!("{what} expired on {until}"),
        };
        let expected = "a certificate that is valid now, and a clock that is right";
        self.faults.insert(Fault::of_file(path, message, expected));
    }
}
