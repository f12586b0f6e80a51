//! An opened authority.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rcgen::PublicKeyData as _;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::authority::SigningAuthority;
use crate::certificate::ReadBack;
use crate::clock::Clock;
use crate::crl::Crl;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::index::{AuthorityRecord, Index, KeyPlace, Record, Role, sha256};
use crate::key::PrivateKey;
use crate::name::Name;
use crate::passphrase::Passphrase;
use crate::serial::Serial;

/// Largest certificate or key in bytes.
pub(crate) const MAX_FILE: u64 = 0xffff;
/// Largest CRL in bytes.
pub(crate) const MAX_CRL: u64 = 64 << 20;

/// An authority's folder.
pub struct Pki {
    pub(crate) folder: Folder,
    pub(crate) index: Index,
    /// The time of the change for which it was opened.
    pub(crate) now: OffsetDateTime,
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM, if it was made here.
    pub key: Option<PathBuf>,
}

impl Pki {
    /// Opens a folder to look at it.
    pub fn read(path: &Path, now: OffsetDateTime) -> Result<Self> {
        let folder = Folder::open(path)?;
        let index = Index::read(&folder)?;
        let mut pki = Self { folder, index, now };
        if let Err(Error::OldIndex { .. }) = pki.check_crls() {
            // Another process may have made a CRL since the index was read.
            pki.index = Index::read(&pki.folder)?;
        }
        pki.check_crls()?;
        Ok(pki)
    }

    /// Returns certificates in the folder that the index does not name, sorted. A crash has left them before they were
    /// handed out, or the index is an old copy.
    #[must_use]
    pub fn strays(&self) -> Vec<PathBuf> {
        let known: BTreeSet<PathBuf> =
            self.index.certificates.iter().map(|record| self.files(record).certificate).collect();
        let entries = |folder: &Path| {
            folder
                .read_dir()
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect::<Vec<_>>()
        };
        let files = entries(&self.folder.at("issued")).into_iter().flat_map(|folder| entries(&folder));
        let mut strays: Vec<PathBuf> = files
            .filter(|path| {
                path.extension().is_some_and(|extension| extension == "crt") && !known.contains(path)
            })
            .collect();
        strays.sort();
        strays
    }

    /// Opens a folder to change it, and locks it until the value is dropped. Completes what a process that died has
    /// left.
    pub fn change(path: &Path, clock: Clock) -> Result<Self> {
        Self::change_in(Folder::open(path)?, clock)
    }

    pub(crate) fn change_in(folder: Folder, clock: Clock) -> Result<Self> {
        folder.lock()?;
        let index = Index::read(&folder)?;
        clock.check(index.changed)?;
        let pki = Self { folder, index, now: clock.now };
        pki.check_crls()?;
        pki.folder.clean()?;
        pki.refresh_copies()?;
        Ok(pki)
    }

    /// Returns the root and, if there is one, the issuing authority.
    #[must_use]
    pub fn authorities(&self) -> &[AuthorityRecord] {
        &self.index.authorities
    }

    /// Returns the certificates of gateways and sites, in the order in which they were issued.
    #[must_use]
    pub fn certificates(&self) -> &[Record] {
        &self.index.certificates
    }

    /// Returns the newest certificate of a name.
    #[must_use]
    pub fn latest(&self, name: &Name) -> Option<&Record> {
        self.index.certificates.iter().rfind(|record| record.name == *name)
    }

    /// Returns the certificate with this serial number.
    #[must_use]
    pub fn by_serial(&self, serial: Serial) -> Option<&Record> {
        self.index.certificates.iter().find(|record| record.serial == serial)
    }

    /// Returns the place in the chain of the authority that signs for gateways and sites.
    #[must_use]
    pub fn signer(&self) -> Role {
        self.index.authorities.last().map_or(Role::Root, |authority| authority.role)
    }

    pub(crate) fn authority(&self, role: Role) -> Result<&AuthorityRecord> {
        let found = self.index.authorities.iter().find(|authority| authority.role == role);
        found.ok_or_else(|| Error::Unknown(role.to_string()))
    }

    /// Returns the place of an authority's key.
    #[must_use]
    pub fn key_path(&self, role: Role) -> PathBuf {
        self.folder.at(&format!("{role}.key"))
    }

    /// Returns true if an authority's key is encrypted.
    pub fn is_encrypted(&self, role: Role) -> Result<bool> {
        Ok(PrivateKey::is_encrypted(&self.authority_key(role)?))
    }

    /// Opens an authority's key.
    pub fn unlock(&self, role: Role, passphrase: Option<&Passphrase>) -> Result<SigningAuthority> {
        let path = self.key_path(role);
        let pem = self.authority_key(role)?;
        let key = PrivateKey::read(&path, &pem, passphrase)?;
        SigningAuthority::new(self.authority(role)?, key, &path, &self.folder.at(&format!("{role}.crt")))
    }

    fn authority_key(&self, role: Role) -> Result<Zeroizing<Vec<u8>>> {
        let name = format!("{role}.key");
        let missing = || Error::Key { path: self.folder.at(&name), fault: "the file is missing" };
        self.folder.read(&name, MAX_FILE)?.map(Zeroizing::new).ok_or_else(missing)
    }

    /// Returns the files of a certificate.
    #[must_use]
    pub fn files(&self, record: &Record) -> Files {
        let key = (record.key != KeyPlace::Elsewhere).then(|| self.folder.at(&record.file("key")));
        Files { certificate: self.folder.at(&record.file("crt")), key }
    }

    /// Returns a certificate in PEM. Fails if the file is not the certificate that the index names.
    pub fn certificate_pem(&self, record: &Record) -> Result<String> {
        let name = record.file("crt");
        let fault = |fault: &str| Error::Certificate { path: self.folder.at(&name), fault: fault.to_owned() };
        let pem = self.folder.read(&name, MAX_FILE)?.ok_or_else(|| fault("is missing"))?;
        let read = ReadBack::new(&pem).ok_or_else(|| fault("is damaged"))?;
        if sha256(&read.der) != record.sha256 {
            return Err(fault("is not the certificate that the index names"));
        }
        String::from_utf8(pem).map_err(|_| fault("is damaged"))
    }

    /// Returns a certificate's private key in PEM as it is on disk, or `None` if it is elsewhere. Fails if it is not
    /// encrypted and not the certificate's.
    pub fn key_pem(&self, record: &Record) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Files { certificate, key: Some(path) } = self.files(record) else { return Ok(None) };
        let missing = || Error::Key { path: path.clone(), fault: "the file is missing" };
        let pem = self.folder.read(&record.file("key"), MAX_FILE)?.ok_or_else(missing)?;
        let pem = Zeroizing::new(pem);
        if !PrivateKey::is_encrypted(&pem) {
            let key = PrivateKey::read(&path, &pem, None)?;
            if sha256(&key.subject_public_key_info()) != record.key_sha256 {
                return Err(Error::KeyMismatch { key: path, certificate });
            }
        }
        Ok(Some(pem))
    }

    /// Makes the change: writes the index, and then the copies of what is in it.
    pub(crate) fn commit(&mut self) -> Result<()> {
        self.index.changed = self.now.unix_timestamp();
        self.index.write(&self.folder)?;
        self.refresh_copies().map_err(|cause| Error::AfterCommit {
            what: "a copy of an authority's certificate or CRL".to_owned(),
            cause: Box::new(cause),
        })
    }

    /// Writes the authorities' certificates and CRLs as files of their own, for other programs.
    fn refresh_copies(&self) -> Result<()> {
        for AuthorityRecord { role, certificate, crl, .. } in &self.index.authorities {
            for (name, content, max) in
                [(format!("{role}.crt"), certificate, MAX_FILE), (format!("{role}.crl"), crl, MAX_CRL)]
            {
                if self.folder.read(&name, max)?.as_deref() != Some(content.as_bytes()) {
                    self.folder.replace(&name, content.as_bytes())?;
                }
            }
        }
        Ok(())
    }

    /// Fails if a CRL on disk is newer than the index, which is an old copy then: it would forget revocations.
    fn check_crls(&self) -> Result<()> {
        for authority in &self.index.authorities {
            let name = format!("{}.crl", authority.role);
            let key = ReadBack::new(authority.certificate.as_bytes()).map(|read| read.public_key);
            let found =
                self.folder.read(&name, MAX_CRL)?.and_then(|pem| Crl::read_all(&pem)).unwrap_or_default();
            let newer = found.iter().find(|crl| {
                (crl.number > authority.crl_number || !self.knows(crl))
                    && key.as_ref().is_some_and(|key| crl.is_signed_by(key))
            });
            if let Some(crl) = newer {
                let (path, index) = (self.folder.at(&name), authority.crl_number);
                return Err(Error::OldIndex { path, file: crl.number, index });
            }
        }
        Ok(())
    }
}
