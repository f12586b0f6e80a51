//! Revoking, and the CRLs.
use std::collections::BTreeSet;
use std::path::Path;

use time::Duration;

use crate::authority::{SigningAuthority, check_period};
use crate::certificate::ReadBack;
use crate::clock::{Period, at};
use crate::crl::{self, Crl};
use crate::error::{Error, Result};
use crate::folder::{export, read_file};
use crate::index::{Reason, Revocation, Role, State};
use crate::name::Name;
use crate::pki::{MAX_CRL, Pki};
use crate::serial::Serial;

/// A CRL names a certificate until this long after it has expired (RFC 5280, 3.3: at least one CRL beyond).
const KEPT: Duration = Duration::days(90);

/// The certificates to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// None: the CRL is only made anew.
    Nothing,
    /// None: the root's CRL is only made anew.
    NothingOfRoot,
    /// All of a name that have not expired.
    All(Name),
    /// All of a name that have not expired, but the newest.
    Older(Name),
    /// One.
    Serial(Serial),
    /// The issuing authority. The root has to sign.
    Issuing,
}

/// The result of [`Pki::publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The file was written.
    Written,
    /// The file had this content already.
    Unchanged,
}

impl Pki {
    /// Returns the place in the chain of the authority that has to sign.
    #[must_use]
    pub fn revoker(&self, selection: &Selection) -> Role {
        match selection {
            Selection::Issuing | Selection::NothingOfRoot => Role::Root,
            _ => self.signer(),
        }
    }

    /// Revokes certificates and makes the CRL of the authority anew, valid for this many days. Returns the serial numbers.
    pub fn revoke(
        &mut self,
        by: &SigningAuthority,
        selection: &Selection,
        reason: Reason,
        crl_days: u32,
    ) -> Result<Vec<Serial>> {
        let revocation = Revocation { at: self.now.unix_timestamp(), reason };
        let before = self.index.clone();
        let revoked = self.mark(selection, revocation).and_then(|revoked| {
            self.sign_crl(by, crl_days)?;
            Ok(revoked)
        });
        if revoked.is_err() {
            self.index = before;
        }
        let revoked = revoked?;
        self.commit()?;
        Ok(revoked)
    }

    /// Marks what is selected in the index. Fails if nothing is.
    fn mark(&mut self, selection: &Selection, revocation: Revocation) -> Result<Vec<Serial>> {
        let newest = match selection {
            Selection::Older(name) => self.latest(name).map(|record| record.serial),
            _ => None,
        };
        let now = self.now;
        let is_known = match selection {
            Selection::Nothing | Selection::NothingOfRoot => return Ok(Vec::new()),
            Selection::Issuing => return self.mark_issuing(revocation),
            Selection::All(name) | Selection::Older(name) => self.latest(name).is_some(),
            Selection::Serial(serial) => self.by_serial(*serial).is_some(),
        };
        let shown = match selection {
            Selection::All(name) | Selection::Older(name) => name.to_string(),
            Selection::Serial(serial) => serial.to_string(),
            _ => String::new(),
        };
        if !is_known {
            return Err(Error::Unknown(shown));
        }
        let mut revoked = Vec::new();
        // One certificate that was named may be revoked once more for a worse reason.
        let worse = |before: Revocation| {
            matches!(selection, Selection::Serial(_))
                && before.reason.spares_key()
                && !revocation.reason.spares_key()
        };
        for record in self.index.certificates.iter_mut().filter(|record| record.revoked.is_none_or(worse)) {
            let live = record.state(now) != State::Expired;
            let selected = match selection {
                Selection::All(name) => record.name == *name && live,
                Selection::Older(name) => record.name == *name && live && Some(record.serial) != newest,
                Selection::Serial(serial) => record.serial == *serial,
                _ => false,
            };
            if selected {
                record.revoked = Some(revocation);
                revoked.push(record.serial);
            }
        }
        if revocation.reason == Reason::KeyCompromise {
            revoked.extend(self.mark_same_keys(&revoked, revocation));
        }
        if revoked.is_empty() { Err(Error::NothingToRevoke(shown)) } else { Ok(revoked) }
    }

    /// Marks all other certificates of the keys that these have, and returns their serial numbers.
    fn mark_same_keys(&mut self, serials: &[Serial], revocation: Revocation) -> Vec<Serial> {
        let certificates = &mut self.index.certificates;
        let of_these = certificates.iter().filter(|record| serials.contains(&record.serial));
        let keys: BTreeSet<String> = of_these.map(|record| record.key_sha256.clone()).collect();
        let mut marked = Vec::new();
        for record in certificates.iter_mut().filter(|record| record.revoked.is_none()) {
            if keys.contains(&record.key_sha256) {
                record.revoked = Some(revocation);
                marked.push(record.serial);
            }
        }
        marked
    }

    fn mark_issuing(&mut self, revocation: Revocation) -> Result<Vec<Serial>> {
        let issuing = self.index.authorities.iter_mut().find(|authority| authority.role == Role::Issuing);
        let issuing = issuing.ok_or_else(|| Error::Unknown(Role::Issuing.to_string()))?;
        if issuing.revoked.is_some() {
            return Err(Error::NothingToRevoke(Role::Issuing.to_string()));
        }
        issuing.revoked = Some(revocation);
        Ok(issuing.former.iter().map(|former| former.serial).chain([issuing.serial]).collect())
    }

    /// Makes the CRL of the authority that signs anew, in the index.
    fn sign_crl(&mut self, by: &SigningAuthority, days: u32) -> Result<()> {
        let period = Period::crl(self.now, days)?;
        let authority = self.authority(by.role)?;
        // A CRL may outlive its authority's certificate, but nobody could check it.
        check_period(authority, self.now.unix_timestamp(), self.now)?;
        let number = authority.crl_number + 1;
        let issued = self.index.certificates.iter().filter(|record| record.issuer == by.role);
        let issued = issued.map(|record| (record.serial, record.until, record.revoked));
        let below = self.index.authorities.iter().filter(|one| one.role != by.role && by.role == Role::Root);
        let below = below.flat_map(|authority| {
            let own = [(authority.serial, authority.until, authority.revoked)];
            let former =
                authority.former.iter().map(|former| (former.serial, former.until, authority.revoked));
            own.into_iter().chain(former)
        });
        let now = self.now;
        let revoked = issued.chain(below).filter_map(|(serial, until, revoked)| {
            revoked.filter(|_| now <= at(until) + KEPT).map(|revocation| (serial, revocation))
        });
        let pem = crl::sign(&by.issuer, &by.public_key, number, period, revoked)?;
        for authority in self.index.authorities.iter_mut().filter(|one| one.role == by.role) {
            (authority.crl_number, authority.crl_from, authority.crl_until) =
                (number, period.from, period.until);
            authority.crl.clone_from(&pem);
        }
        Ok(())
    }

    /// Returns the CRLs of all authorities in PEM, the signer's first.
    #[must_use]
    pub fn crls(&self) -> String {
        self.index.authorities.iter().rev().map(|authority| authority.crl.as_str()).collect()
    }

    /// Writes the CRLs to a file that a gateway reads, at once. Refuses to replace anything but older CRLs of these
    /// authorities, unless `force` is set.
    pub fn publish(&self, path: &Path, force: bool) -> Result<Published> {
        let content = self.crls();
        if let Some(present) = read_file(path, MAX_CRL)? {
            if present == content.as_bytes() {
                return Ok(Published::Unchanged);
            }
            if let Some(fault) = self.unlike(&present).filter(|_| !force) {
                return Err(Error::Publish { path: path.to_owned(), fault: fault.to_owned() });
            }
        }
        export(path, content.as_bytes(), true)?;
        Ok(Published::Written)
    }

    /// Returns true if the index has every revocation of a CRL. One of an old copy may have the same number.
    pub(crate) fn knows(&self, crl: &Crl) -> bool {
        let certificates = self.index.certificates.iter().filter(|record| record.revoked.is_some());
        let authorities = self.index.authorities.iter().filter(|authority| authority.revoked.is_some());
        let former = authorities.clone().flat_map(|authority| &authority.former);
        let known: BTreeSet<&[u8]> = certificates
            .map(|record| record.serial.bytes())
            .chain(authorities.map(|authority| authority.serial.bytes()))
            .chain(former.map(|former| former.serial.bytes()))
            .collect();
        crl.revoked.iter().all(|serial| known.contains(&serial[..]))
    }

    /// Returns the reason why a file must not be replaced with the CRLs.
    fn unlike(&self, present: &[u8]) -> Option<&'static str> {
        let Some(crls) = Crl::read_all(present) else { return Some("not a CRL") };
        for crl in crls {
            let signer = self.index.authorities.iter().find(|authority| {
                ReadBack::new(authority.certificate.as_bytes())
                    .is_some_and(|read| crl.is_signed_by(&read.public_key))
            });
            match signer {
                None => return Some("the CRL of another authority"),
                Some(authority) if crl.number > authority.crl_number => return Some("a newer CRL"),
                Some(_) if !self.knows(&crl) => {
                    return Some("a CRL that revokes more: this index is an old copy");
                }
                Some(_) => {}
            }
        }
        None
    }
}
