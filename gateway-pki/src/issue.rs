//! Issuing: new certificates, certificates for requests, renewals.
use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use ring::rand::SecureRandom;

use crate::authority::{SigningAuthority, check_period};
use crate::certificate::{self, ReadBack};
use crate::clock::{Period, utc};
use crate::distinguished::DistinguishedName;
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::index::{Former, Index, KeyPlace, Kind, Record, Role, State, sha256};
use crate::key::{Curve, PrivateKey};
use crate::name::Name;
use crate::passphrase::KeyProtection;
use crate::pki::Pki;
use crate::request::Request;
use crate::serial::Serial;

/// The wishes for a new certificate.
#[derive(Clone, Debug)]
pub struct NewCertificate {
    /// The owner's kind.
    pub kind: Kind,
    /// The owner's identity.
    pub identity: Identity,
    /// Its name in the folder.
    pub name: Name,
    /// Its period in days.
    pub days: u32,
    /// True to issue although the name or the identity has a valid certificate.
    pub force: bool,
}

/// A new key: its public half, and the private half to write down if it is known.
struct NewKey<'k> {
    public: &'k dyn PublicKey,
    pem: Option<&'k [u8]>,
    place: KeyPlace,
}

/// [`PublicKeyData`] for trait objects.
trait PublicKey {
    fn spki(&self) -> Vec<u8>;
    fn sign(&self, params: &rcgen::CertificateParams, by: &SigningAuthority) -> Result<String>;
}

impl<K: PublicKeyData> PublicKey for K {
    fn spki(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }

    fn sign(&self, params: &rcgen::CertificateParams, by: &SigningAuthority) -> Result<String> {
        Ok(params.signed_by(self, &by.issuer)?.pem())
    }
}

impl Pki {
    /// Issues a certificate with a new key, which is written beside it.
    pub fn issue(
        &mut self,
        by: &SigningAuthority,
        new: &NewCertificate,
        protection: Option<&KeyProtection<'_>>,
        random: &dyn SecureRandom,
    ) -> Result<Record> {
        self.check_name(new)?;
        let key = PrivateKey::generate(Curve::P256, random)?;
        let pem = key.pem(protection, random)?;
        let place = if protection.is_some() { KeyPlace::Encrypted } else { KeyPlace::Plain };
        self.certify(by, new, &NewKey { public: &key, pem: Some(pem.as_bytes()), place }, random)
    }

    /// Issues a certificate for the key of a request. The request's name has to be the identity; nothing else of it is
    /// taken over.
    pub fn sign(
        &mut self,
        by: &SigningAuthority,
        new: &NewCertificate,
        request: &Request,
        random: &dyn SecureRandom,
    ) -> Result<Record> {
        request.check(&new.identity)?;
        self.check_name(new)?;
        self.check_key_is_new(&sha256(&request.public_key), Some(&new.name))?;
        let public = SubjectPublicKeyInfo::from_der(&request.public_key)?;
        self.certify(by, new, &NewKey { public: &public, pem: None, place: KeyPlace::Elsewhere }, random)
    }

    /// Issues another certificate for the identity of a name, so that the old one can be replaced before it expires. Makes
    /// a new key unless `same_key` is set or the key is elsewhere.
    pub fn renew(
        &mut self,
        by: &SigningAuthority,
        name: &Name,
        days: u32,
        same_key: bool,
        protection: Option<&KeyProtection<'_>>,
        random: &dyn SecureRandom,
    ) -> Result<Record> {
        let old = self.latest(name).ok_or_else(|| Error::Unknown(name.to_string()))?.clone();
        if old.revoked.is_some() {
            return Err(Error::Revoked(name.to_string()));
        }
        let (kind, identity, name) = (old.kind, old.identity.clone(), name.clone());
        let new = NewCertificate { kind, identity, name, days, force: true };
        if !same_key && old.key != KeyPlace::Elsewhere {
            if old.key == KeyPlace::Encrypted && protection.is_none() {
                return Err(Error::NoPassphrase(self.folder.at(&old.file("key"))));
            }
            return self.issue(by, &new, protection, random);
        }
        let certificate = ReadBack::new(self.certificate_pem(&old)?.as_bytes())
            .ok_or_else(|| Error::Crypto("the certificate cannot be read again".to_owned()))?;
        let public = SubjectPublicKeyInfo::from_der(&certificate.public_key)?;
        self.check_key_is_new(&old.key_sha256, Some(&new.name))?;
        let pem = self.key_pem(&old)?;
        let pem = pem.as_ref().map(|pem| &pem[..]);
        self.certify(by, &new, &NewKey { public: &public, pem, place: old.key }, random)
    }

    /// Issues another certificate for the issuing authority's key. Everything that it has signed stays valid.
    pub fn renew_issuing(
        &mut self,
        by: &SigningAuthority,
        days: u32,
        random: &dyn SecureRandom,
    ) -> Result<()> {
        let old = self.authority(Role::Issuing)?.clone();
        if old.revoked.is_some() {
            return Err(Error::Revoked(Role::Issuing.to_string()));
        }
        let (serial, period) = (Serial::random(random)?, Period::certificate(self.now, days)?);
        check_period(self.authority(by.role)?, period.until, self.now)?;
        let unreadable = || Error::Crypto("the certificate cannot be read again".to_owned());
        let read = ReadBack::new(old.certificate.as_bytes()).ok_or_else(unreadable)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&read.der).map_err(|_| unreadable())?;
        let subject = DistinguishedName::read(parsed.subject()).ok_or_else(unreadable)?.subject()?;
        let params = certificate::authority(subject, 0, period, serial);
        let pem = SubjectPublicKeyInfo::from_der(&read.public_key)?.sign(&params, by)?;
        ReadBack::verified(&pem, &by.public_key)?;
        for authority in self.index.authorities.iter_mut().filter(|one| one.role == Role::Issuing) {
            authority.former.push(Former { serial: authority.serial, until: authority.until });
            (authority.serial, authority.from, authority.until) = (serial, period.from, period.until);
            authority.certificate.clone_from(&pem);
        }
        self.commit()
    }

    /// Signs a certificate, writes key and certificate, and then the index.
    fn certify(
        &mut self,
        by: &SigningAuthority,
        new: &NewCertificate,
        key: &NewKey<'_>,
        random: &dyn SecureRandom,
    ) -> Result<Record> {
        let period = Period::certificate(self.now, new.days)?;
        check_period(self.authority(by.role)?, period.until, self.now)?;
        let serial = Serial::random(random)?;
        let params = certificate::end_entity(&new.identity, period, serial)?;
        let pem = key.public.sign(&params, by)?;
        let read = ReadBack::verified(&pem, &by.public_key)?;
        let record = Record {
            name: new.name.clone(),
            kind: new.kind,
            identity: new.identity.clone(),
            serial,
            from: period.from,
            until: period.until,
            sha256: sha256(&read.der),
            key_sha256: sha256(&key.public.spki()),
            key: key.place,
            issuer: by.role,
            revoked: None,
        };
        let written = self.write(&record, key.pem, &pem);
        if written.is_err() {
            self.discard(&record);
        }
        written.map(|()| record)
    }

    /// Writes key and certificate, and then the index.
    fn write(&mut self, record: &Record, key: Option<&[u8]>, certificate: &str) -> Result<()> {
        self.folder.make_folder("issued")?;
        self.folder.make_folder(&format!("issued/{}", record.name))?;
        if let Some(pem) = key {
            self.folder.create(&record.file("key"), pem)?;
        }
        self.folder.create(&record.file("crt"), certificate.as_bytes())?;
        self.index.certificates.push(record.clone());
        self.commit()
    }

    /// Removes the files of a certificate that could not be issued, unless the index on disk names it.
    fn discard(&mut self, record: &Record) {
        let Ok(index) = Index::read(&self.folder) else { return };
        if index.certificates.iter().all(|other| other.serial != record.serial) {
            // The first error is the one to tell.
            let _ = self.folder.remove(&record.file("key"));
            let _ = self.folder.remove(&record.file("crt"));
        }
        self.index = index;
    }

    /// Fails if the name is another's, or if the name or identity has a certificate that can be used.
    fn check_name(&self, new: &NewCertificate) -> Result<()> {
        if Role::ALL.iter().any(|role| role.name() == new.name.as_str()) {
            return Err(Error::Name(new.name.to_string()));
        }
        for record in &self.index.certificates {
            let same_name = record.name == new.name;
            let same_identity = record.identity == new.identity;
            // So that a revocation by name has all certificates of an identity.
            if same_identity && !same_name {
                let (identity, name) = (record.identity.to_string(), record.name.to_string());
                return Err(Error::IdentityTaken { identity, name });
            }
            if same_name && (!same_identity || record.kind != new.kind) {
                return Err(Error::NameTaken {
                    name: record.name.to_string(),
                    kind: record.kind.name(),
                    identity: record.identity.to_string(),
                });
            }
            let usable = matches!(record.state(self.now), State::Valid | State::NotYet);
            if usable && !new.force && same_name {
                let (_, until) = record.period();
                return Err(Error::Certified { name: record.name.to_string(), until: utc(until) });
            }
        }
        // A name that looks like another identity would be taken for it.
        match new.name.as_str().parse::<Identity>() {
            Ok(other) if new.name.as_str().contains('.') && other != new.identity => {
                Err(Error::Name(new.name.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the key is another's, an authority's, or was revoked for a reason that may be the key. A name may have its
    /// own key certified again.
    fn check_key_is_new(&self, key_sha256: &str, name: Option<&Name>) -> Result<()> {
        let reused = |name: String, serial: Serial, why| {
            Err(Error::KeyReused { name, serial: serial.to_string(), why })
        };
        for authority in &self.index.authorities {
            if authority.key_sha256 == key_sha256 {
                return reused(authority.role.to_string(), authority.serial, "");
            }
        }
        for record in self.index.certificates.iter().filter(|record| record.key_sha256 == key_sha256) {
            if record.revoked.is_some_and(|revoked| !revoked.reason.spares_key()) {
                return reused(record.name.to_string(), record.serial, " and is revoked");
            }
            if Some(&record.name) != name {
                return reused(record.name.to_string(), record.serial, "");
            }
        }
        Ok(())
    }
}
