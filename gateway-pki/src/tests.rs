//! Tests of the operations on a folder.
mod bad_input;
mod crash;
mod operations;
mod requests;

use std::path::{Path, PathBuf};

use rcgen::CertificateParams;
use ring::rand::SystemRandom;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::{
    Clock, KeyProtection, Kind, NewAuthority, NewCertificate, Passphrase, Pki, Request, Result,
    SigningAuthority, init,
};

/// The time at which everything begins.
const START: OffsetDateTime = time::macros::datetime!(2026-11-29 10:00 UTC);

fn passphrase(text: &str) -> Passphrase {
    Passphrase::from_line(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

fn random() -> SystemRandom {
    SystemRandom::new()
}

/// A folder with an authority.
struct Place {
    directory: TempDir,
    passphrase: Passphrase,
}

impl Place {
    fn empty() -> Self {
        // In memory: each write is synced twice, and a crash test makes hundreds of authorities.
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        Self { directory: directory.unwrap(), passphrase: passphrase("correct horse battery") }
    }

    fn new(issuing: bool) -> Self {
        let place = Self::empty();
        init(&place.path(), &place.wishes(issuing), START, &random()).unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("pki")
    }

    fn protection(&self) -> KeyProtection<'_> {
        KeyProtection { passphrase: &self.passphrase, rounds: 16 }
    }

    fn wishes(&self, issuing: bool) -> NewAuthority<'_> {
        NewAuthority {
            name: "Acme VPN",
            root_days: 3652,
            issuing_days: issuing.then_some(1826),
            crl_days: 30,
            root_crl_days: 365,
            root_key: Some(self.protection()),
            issuing_key: Some(self.protection()),
            force: false,
        }
    }

    fn open(&self) -> Pki {
        self.open_at(START).unwrap()
    }

    fn open_at(&self, now: OffsetDateTime) -> Result<Pki> {
        Pki::change(&self.path(), Clock { now, trusted: false })
    }

    fn signer(&self, pki: &Pki) -> SigningAuthority {
        pki.unlock(pki.signer(), Some(&self.passphrase)).unwrap()
    }

    fn issue(&self, identity: &str) -> Result<crate::Record> {
        let mut pki = self.open();
        let signer = self.signer(&pki);
        pki.issue(&signer, &site(identity), None, &random())
    }
}

fn site(identity: &str) -> NewCertificate {
    let identity: crate::Identity = identity.parse().unwrap();
    let name = crate::Name::of(&identity).unwrap_or_else(|_| "dn".parse().unwrap());
    NewCertificate { kind: Kind::Site, identity, name, days: 365, force: false }
}

fn day(days: i64) -> OffsetDateTime {
    START + Duration::days(days)
}

/// Makes a request in PEM with a new key of rcgen's.
fn request(adjust: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    adjust(&mut params);
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn read_request(adjust: impl FnOnce(&mut CertificateParams)) -> Request {
    Request::read(request(adjust).as_bytes()).unwrap()
}

/// Returns all files below a folder, relative and sorted.
fn files(folder: &Path) -> Vec<String> {
    fn collect(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in folder.read_dir().unwrap().map(std::result::Result::unwrap) {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                collect(&entry.path(), &format!("{name}/"), found);
            } else {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    collect(folder, "", &mut found);
    found.sort();
    found
}

/// Checks that an error is one sentence with these words.
fn says<T>(result: Result<T>, words: &str) {
    let text = result.err().unwrap().to_string();
    assert!(text.contains(words) && !text.contains('\n') && !text.ends_with('.'), "{text}");
}
