//! The commands that change the folder.
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use gateway::policy;
use gateway_pki::{
    Clock, Files, Identity, KeyPlace, KeyProtection, Kind, Name, NewAuthority, NewCertificate, Passphrase,
    Pki, Published, ROUNDS, Record, Request, Role, Selection, SigningAuthority, utc,
};
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::arguments::{Init, Issue, OutArguments, Owner, Renew, Revoke, Sign};
use super::delivery;
use super::passphrase::Source;
use crate::report::{Part, Report};

/// Largest request in bytes.
const MAX_REQUEST: u64 = 0xffff;
const DAYS: u32 = 365;
const ISSUING_DAYS: u32 = 1826;
const CRL_DAYS: u32 = 30;
const ROOT_CRL_DAYS: u32 = 365;

/// Makes a new authority.
pub fn init(folder: &Path, init: &Init, now: OffsetDateTime) -> Result<Report> {
    let signer = if init.intermediate { Role::Issuing } else { Role::Root };
    let source = init.passphrase.source();
    let (root, issuing) = match (init.unencrypted, init.root_source(), &source) {
        (true, ..) => (None, None),
        (_, Some(root), _) => (Some(root.new_key("root")?), Some(source.new_key(signer.name())?)),
        // On a terminal each key gets a passphrase of its own.
        (_, None, Source::Terminal) if init.intermediate => {
            (Some(source.new_key("root")?), Some(source.new_key(signer.name())?))
        }
        (_, None, source) => {
            let passphrase = source.new_key(signer.name())?;
            (Some(passphrase.clone()), Some(passphrase))
        }
    };
    let new = NewAuthority {
        name: &init.name,
        root_days: init.days,
        issuing_days: init.intermediate.then_some(init.issuing_days),
        crl_days: init.crl_days,
        root_crl_days: init.root_crl_days,
        root_key: root.as_ref().map(protection),
        issuing_key: issuing.as_ref().map(protection),
        force: init.force,
    };
    let replaced = gateway_pki::init(folder, &new, now, &SystemRandom::new())?;
    let pki = Pki::read(folder, now)?;
    let mut lines = vec![format!("made {} in {}", init.name, folder.display())];
    for authority in pki.authorities() {
        let key = pki.key_path(authority.role);
        let clear = if init.unencrypted { ", not encrypted" } else { "" };
        lines.push(format!(
            "{} until {}, key {}{clear}",
            authority.role,
            utc(authority.period().1),
            key.display()
        ));
    }
    if init.intermediate {
        lines.push(
            "move root.key to a safe: only `renew issuing`, `revoke issuing` and `revoke --root` need it"
                .to_owned(),
        );
    }
    let replaced = replaced.map(|path| path.display().to_string());
    lines.extend(replaced.iter().map(|path| format!("the authority that was there is now in {path}")));
    let json = json!({ "folder": folder, "replaced": replaced, "messages": lines });
    Ok(Report { json, parts: lines.into_iter().map(Part::Line).collect() })
}

/// Issues a certificate with a new key.
pub fn issue(folder: &Path, issue: &Issue, clock: &Clock) -> Result<Report> {
    let Issue { owner, passphrase, key, out } = issue;
    let mut pki = Pki::change(folder, *clock)?;
    let new = wishes(&pki, owner, out)?;
    let signer = unlock(&pki, pki.signer(), &passphrase.source())?;
    let own = key.source().map(|source| source.new_key(new.name.as_str())).transpose()?;
    let own = own.as_ref().map(protection);
    let record = pki.issue(&signer, &new, own.as_ref(), &SystemRandom::new())?;
    issued(&pki, &record, out, &[])
}

/// Issues a certificate for a request.
pub fn sign(folder: &Path, sign: &Sign, clock: &Clock) -> Result<Report> {
    let Sign { owner, request: path, passphrase, out } = sign;
    let bytes = gateway_pki::read_file(path, MAX_REQUEST)?;
    let bytes = bytes.with_context(|| format!("{} does not exist", path.display()))?;
    let request = Request::read(&bytes).with_context(|| path.display().to_string())?;
    let mut pki = Pki::change(folder, *clock)?;
    let new = wishes(&pki, owner, out)?;
    let signer = unlock(&pki, pki.signer(), &passphrase.source())?;
    let record = pki.sign(&signer, &new, &request, &SystemRandom::new())?;
    issued(&pki, &record, out, &request.not_taken_over(&new.identity))
}

/// Issues another certificate for a name.
pub fn renew(folder: &Path, renew: &Renew, clock: &Clock) -> Result<Report> {
    let Renew { name, days, same_key, passphrase, key, out } = renew;
    let mut pki = Pki::change(folder, *clock)?;
    if name.as_str() == Role::Issuing.name() {
        let root = unlock(&pki, Role::Root, &passphrase.source())?;
        pki.renew_issuing(&root, days.unwrap_or(ISSUING_DAYS), &SystemRandom::new())?;
        return Ok(Report::line(
            "renewed the issuing authority: give issuing.crt to the gateway and the sites",
        ));
    }
    if let Some(folder) = &out.out {
        delivery::check(&pki, folder, name, out.force)?;
    }
    let signer = unlock(&pki, pki.signer(), &passphrase.source())?;
    let stays_encrypted = pki.latest(name).is_some_and(|old| old.key == KeyPlace::Encrypted) && !same_key;
    let source = key.source().or_else(|| stays_encrypted.then(|| key.needed_source()));
    let own = source.map(|source| source.new_key(name.as_str())).transpose()?;
    let own = own.as_ref().map(protection);
    let days = days.unwrap_or(DAYS);
    let record = pki.renew(&signer, name, days, *same_key, own.as_ref(), &SystemRandom::new())?;
    issued(&pki, &record, out, &[])
}

/// Revokes certificates, and makes the CRL anew.
pub fn revoke(folder: &Path, revoke: &Revoke, clock: &Clock) -> Result<Report> {
    let mut pki = Pki::change(folder, *clock)?;
    let selection = match (&revoke.name, revoke.serial) {
        (_, Some(serial)) => Selection::Serial(serial),
        (None, None) if revoke.root => Selection::NothingOfRoot,
        (None, None) => Selection::Nothing,
        (Some(name), None) if name.as_str() == Role::Issuing.name() => {
            ensure!(
                !revoke.older,
                "the issuing authority keeps its key when it is renewed: --older is for gateways and sites"
            );
            Selection::Issuing
        }
        (Some(name), None) if revoke.older => Selection::Older(name.clone()),
        (Some(name), None) => Selection::All(name.clone()),
    };
    let role = pki.revoker(&selection);
    let crl_days = revoke.crl_days.unwrap_or(if role == pki.signer() { CRL_DAYS } else { ROOT_CRL_DAYS });
    let signer = unlock(&pki, role, &revoke.passphrase.source())?;
    let revoked = pki.revoke(&signer, &selection, revoke.reason, crl_days)?;
    let mut lines: Vec<String> = revoked.iter().map(|serial| format!("revoked {serial}")).collect();
    let authority = pki.authorities().iter().find(|authority| authority.role == role);
    let number = authority.map(|authority| authority.crl_number);
    if let Some(authority) = authority {
        let (until, crl) = (utc(authority.crl_period().1), folder.join(format!("{role}.crl")));
        lines.push(format!("CRL number {} until {until}: {}", authority.crl_number, crl.display()));
    }
    let published = match &revoke.publish {
        None => None,
        Some(path) => {
            let published = pki.publish(path, revoke.force).context("the CRL is made, but not published")?;
            let how = if published == Published::Written { "published in" } else { "unchanged in" };
            lines.push(format!("{how} {}", path.display()));
            Some(path)
        }
    };
    let serials: Vec<String> = revoked.iter().map(ToString::to_string).collect();
    let json = json!({ "revoked": serials, "crl_number": number, "published": published });
    Ok(Report { json, parts: lines.into_iter().map(Part::Line).collect() })
}

fn protection(passphrase: &Passphrase) -> KeyProtection<'_> {
    KeyProtection { passphrase, rounds: ROUNDS }
}

fn unlock(pki: &Pki, role: Role, source: &Source) -> Result<SigningAuthority> {
    let passphrase = if pki.is_encrypted(role)? { Some(source.existing(&pki.key_path(role))?) } else { None };
    Ok(pki.unlock(role, passphrase.as_ref())?)
}

/// Checks all that can be checked before anyone has to type a passphrase.
fn wishes(pki: &Pki, owner: &Owner, out: &OutArguments) -> Result<NewCertificate> {
    let Owner { kind, identity, name, days, policy } = owner;
    let name = match name {
        Some(name) => name.clone(),
        None => Name::of(identity).context("give a name with --name")?,
    };
    let kind = Kind::from(*kind);
    if let Some(policy) = policy {
        check_policy(policy, kind, identity)?;
    }
    if let Some(folder) = &out.out {
        delivery::check(pki, folder, &name, out.force)?;
    }
    Ok(NewCertificate { kind, identity: identity.clone(), name, days: *days, force: out.force })
}

/// Fails unless the policies know a gateway or site of this identity.
fn check_policy(folder: &Path, kind: Kind, identity: &Identity) -> Result<()> {
    let wanted = identity.to_string();
    let policy = match policy::load(folder) {
        Ok(policy) => policy,
        Err(faults) => bail!("{} has {}: run `gatewayd --check`", folder.display(), counted(faults.len())),
    };
    let mut sites = policy.customers.values().flat_map(|customer| &customer.sites);
    let known = match kind {
        Kind::Gateway => policy.gateway.ipsec.identity.to_string() == wanted,
        Kind::Site => sites.any(|site| site.identity.to_string() == wanted),
    };
    ensure!(known, "no {kind} in {} has the identity {wanted}", folder.display());
    Ok(())
}

fn counted(faults: usize) -> String {
    if faults == 1 { "1 fault".to_owned() } else { format!("{faults} faults") }
}

/// Reports a new certificate, and writes the copies that were asked for.
fn issued(pki: &Pki, record: &Record, out: &OutArguments, not_taken_over: &[String]) -> Result<Report> {
    let Files { certificate, key } = pki.files(record);
    let until = utc(record.period().1);
    let mut lines = vec![
        format!("{} {} until {until}, serial {}", record.kind, record.identity, record.serial),
        format!("certificate {}", certificate.display()),
    ];
    if let Some(key) = &key {
        let clear = if record.key == KeyPlace::Plain { " (not encrypted)" } else { "" };
        lines.push(format!("key {}{clear}", key.display()));
    }
    lines.extend(not_taken_over.iter().map(|what| format!("not taken over from the request: {what}")));
    let mut copies = Vec::new();
    if let Some(folder) = &out.out {
        copies = delivery::write(pki, folder, record, out.force)
            .with_context(|| format!("the certificate is issued, but not copied to {}", folder.display()))?;
        lines.extend(copies.iter().map(|path| format!("copied to {}", path.display())));
    }
    let json: Value = json!({
        "name": record.name.as_str(), "kind": record.kind.name(), "identity": record.identity.to_string(),
        "serial": record.serial.to_string(), "until": super::list::rfc3339(record.period().1),
        "certificate": certificate, "key": key, "not_taken_over": not_taken_over, "copies": copies,
    });
    Ok(Report { json, parts: lines.into_iter().map(Part::Line).collect() })
}
