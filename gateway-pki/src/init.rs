//! A new authority.
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, Issuer, PublicKeyData};
use ring::rand::SecureRandom;
use time::OffsetDateTime;

use crate::authority::check_period;
use crate::certificate::{self, ReadBack};
use crate::clock::Period;
use crate::crl;
use crate::distinguished::DistinguishedName;
use crate::error::{Error, Result};
use crate::folder::{Folder, Steps, make_folder, parent_of, rename_folder, without_slash};
use crate::index::{AuthorityRecord, INDEX, Index, Role, sha256};
use crate::key::{Curve, PrivateKey};
use crate::passphrase::KeyProtection;
use crate::serial::Serial;

const MAX_NAME: usize = 40;

/// The wishes for a new authority.
pub struct NewAuthority<'p> {
    /// Its name, in the subjects: `NAME root 2026`.
    pub name: &'p str,
    /// Period of the root in days.
    pub root_days: u32,
    /// Period of an issuing authority below it in days; `None` for no such authority.
    pub issuing_days: Option<u32>,
    /// Period in days of the first CRL of the authority that signs for gateways and sites.
    pub crl_days: u32,
    /// Period in days of the root's first CRL if there is an issuing authority: its key is rarely at hand.
    pub root_crl_days: u32,
    /// The passphrase of the root's key; `None` leaves it in the clear.
    pub root_key: Option<KeyProtection<'p>>,
    /// The passphrase of the issuing authority's key; `None` leaves it in the clear.
    pub issuing_key: Option<KeyProtection<'p>>,
    /// True to move an authority that is there out of the way; its folder is renamed, not removed.
    pub force: bool,
}

/// Makes a folder with a new authority, all or nothing: it is written beside its place and then renamed. Returns the new
/// name of a folder that was there before.
pub fn init(
    path: &Path,
    new: &NewAuthority<'_>,
    now: OffsetDateTime,
    random: &dyn SecureRandom,
) -> Result<Option<PathBuf>> {
    let made = init_with(path, new, now, random, Steps::default());
    if made.is_err() && !matches!(made, Err(Error::Locked(_))) {
        // The first error is the one to tell; the next init removes what stays.
        let _ = beside(path, ".", ".unfinished").and_then(|unfinished| remove_unfinished(&unfinished));
    }
    made
}

/// Does the same as [`init`], but removes nothing if it fails.
pub(crate) fn init_with(
    path: &Path,
    new: &NewAuthority<'_>,
    now: OffsetDateTime,
    random: &dyn SecureRandom,
    steps: Steps,
) -> Result<Option<PathBuf>> {
    let path = &without_slash(path);
    check_place(path, new.force)?;
    let unfinished = beside(path, ".", ".unfinished")?;
    remove_unfinished(&unfinished)?;
    make_folder(&unfinished)?;
    let folder = Folder::open(&unfinished)?.with_steps(steps);
    folder.lock()?;
    write(&folder, new, now, random)?;
    folder.step("move away")?;
    let replaced = if new.force { move_away(path, now)? } else { None };
    folder.step("rename")?;
    if let Err(error) = rename_folder(&unfinished, path) {
        if let Some(old) = &replaced {
            // The first error is the one to tell; if this one fails too, the old folder has its new name.
            let _ = rename_folder(old, path);
        }
        return Err(error);
    }
    Ok(replaced)
}

/// Writes the authority into a new folder.
fn write(
    folder: &Folder,
    new: &NewAuthority<'_>,
    now: OffsetDateTime,
    random: &dyn SecureRandom,
) -> Result<()> {
    let mut authorities = Vec::new();
    let below = u8::from(new.issuing_days.is_some());
    let (root, key) = draft(new, Role::Root, new.root_days, below, now, random)?;
    folder.create("root.key", key.pem(new.root_key.as_ref(), random)?.as_bytes())?;
    let pem = root.params.self_signed(&key)?.pem();
    let root_key = key.subject_public_key_info();
    ReadBack::verified(&pem, &root_key)?;
    let root_issuer = Issuer::new(root.params.clone(), key);
    let root_crl_days = if new.issuing_days.is_some() { new.root_crl_days } else { new.crl_days };
    authorities.push(root.record(pem, &root_issuer, root_crl_days, now)?);
    if let Some(days) = new.issuing_days {
        let (issuing, key) = draft(new, Role::Issuing, days, 0, now, random)?;
        check_period(&authorities[0], issuing.period.until, now)?;
        folder.create("issuing.key", key.pem(new.issuing_key.as_ref(), random)?.as_bytes())?;
        let pem = issuing.params.signed_by(&key, &root_issuer)?.pem();
        ReadBack::verified(&pem, &root_key)?;
        let issuer = Issuer::new(issuing.params.clone(), key);
        authorities.push(issuing.record(pem, &issuer, new.crl_days, now)?);
    }
    for AuthorityRecord { role, certificate, crl, .. } in &authorities {
        folder.create(&format!("{role}.crt"), certificate.as_bytes())?;
        folder.create(&format!("{role}.crl"), crl.as_bytes())?;
    }
    folder.make_folder("issued")?;
    Index::new(authorities, now).write(folder)
}

/// An authority that is not signed yet.
struct Draft {
    role: Role,
    params: CertificateParams,
    serial: Serial,
    period: Period,
}

fn draft(
    new: &NewAuthority<'_>,
    role: Role,
    days: u32,
    below: u8,
    now: OffsetDateTime,
    random: &dyn SecureRandom,
) -> Result<(Draft, PrivateKey)> {
    let (serial, period) = (Serial::random(random)?, Period::certificate(now, days)?);
    // The year tells the new root from the old one while both are trusted.
    let subject = subject(new.name, role, now.year())?.subject()?;
    let params = certificate::authority(subject, below, period, serial);
    Ok((Draft { role, params, serial, period }, PrivateKey::generate(Curve::P384, random)?))
}

impl Draft {
    /// Returns the record of the authority with this certificate, and with a first CRL, which is empty.
    fn record(
        self,
        certificate: String,
        issuer: &Issuer<'_, PrivateKey>,
        crl_days: u32,
        now: OffsetDateTime,
    ) -> Result<AuthorityRecord> {
        let public_key = issuer.key().subject_public_key_info();
        let crl = Period::crl(now, crl_days)?;
        Ok(AuthorityRecord {
            role: self.role,
            serial: self.serial,
            from: self.period.from,
            until: self.period.until,
            key_sha256: sha256(&public_key),
            certificate,
            crl_number: 1,
            crl_from: crl.from,
            crl_until: crl.until,
            crl: crl::sign(issuer, &public_key, 1, crl, std::iter::empty())?,
            revoked: None,
            former: Vec::new(),
        })
    }
}

fn subject(name: &str, role: Role, year: i32) -> Result<DistinguishedName> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " .-".contains(c);
    if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(allowed) || name.trim() != name {
        return Err(Error::AuthorityName(name.to_owned()));
    }
    format!("O={name}, CN={name} {role} {year}").parse()
}

/// Fails unless nothing or an empty folder is at the path, or a folder that may be moved away.
fn check_place(path: &Path, force: bool) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if metadata.is_symlink() {
        return Err(Error::Link(path.to_owned()));
    }
    if !metadata.is_dir() {
        return Err(Error::FileType { path: path.to_owned(), expected: "a folder" });
    }
    let entries = path.read_dir().map_err(|cause| Error::Io { what: "read", path: path.to_owned(), cause });
    if entries?.next().is_none() {
        return Ok(());
    }
    match path.join(INDEX).symlink_metadata() {
        Ok(_) if force => Ok(()),
        Err(_) if force => {
            Err(Error::FileType { path: path.to_owned(), expected: "an authority's folder, nor empty" })
        }
        _ => Err(Error::Exists(path.to_owned())),
    }
}

/// Moves an authority that nobody is working with out of the way.
fn move_away(path: &Path, now: OffsetDateTime) -> Result<Option<PathBuf>> {
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let folder = Folder::open(path)?;
    folder.lock()?;
    let replaced = beside(path, "", &format!(".replaced-{}", now.unix_timestamp()))?;
    if replaced.symlink_metadata().is_ok() {
        return Err(Error::Exists(replaced));
    }
    rename_folder(path, &replaced)?;
    Ok(Some(replaced))
}

/// Removes what an init that died has left. It never holds anything that was in use.
fn remove_unfinished(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let folder = Folder::open(path)?;
    folder.lock()?;
    std::fs::remove_dir_all(path).map_err(|cause| Error::Io { what: "remove", path: path.to_owned(), cause })
}

fn beside(path: &Path, before: &str, after: &str) -> Result<PathBuf> {
    let not_a_name = || Error::FileType { path: path.to_owned(), expected: "a path of a new folder" };
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(not_a_name)?;
    Ok(parent_of(path).join(format!("{before}{name}{after}")))
}
