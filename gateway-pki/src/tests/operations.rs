//! Ordinary work.
use std::os::unix::fs::PermissionsExt;

use x509_parser::prelude::*;

use super::*;
use crate::crl::Crl;
use crate::{Error, KeyPlace, Published, Reason, Role, Selection, State};

/// Returns the DER of a certificate.
fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

#[test]
fn files_are_0600_and_folders_0700() {
    let place = Place::new(true);
    place.issue("berlin.acme.example").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&place.path()), 0o700);
    for folder in ["issued", "issued/berlin.acme.example"] {
        assert_eq!(mode(&place.path().join(folder)), 0o700, "{folder}");
    }
    let names = files(&place.path());
    assert_eq!(names.len(), 9, "{names:?}");
    for name in names {
        assert_eq!(mode(&place.path().join(&name)), 0o600, "{name}");
    }
}

#[test]
fn certificate_has_identity_usage_and_period() {
    for issuing in [false, true] {
        let place = Place::new(issuing);
        let record = place.issue("berlin.acme.example").unwrap();
        let pki = place.open();
        let der = der(&pki.certificate_pem(&record).unwrap());
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names[..], [GeneralName::DNSName("berlin.acme.example")]);
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.flags == 1, "digitalSignature alone: {usage:?}");
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        let other: Vec<String> = extended.other.iter().map(ToString::to_string).collect();
        assert_eq!(other, ["1.3.6.1.5.5.7.3.17"]);
        assert!(!extended.server_auth && !extended.any && !certificate.is_ca());
        let (from, until) = record.period();
        assert_eq!((from, until), (START - Duration::hours(1), day(365)));
        assert_eq!(certificate.validity().not_after.to_datetime(), until);
        assert_eq!(certificate.raw_serial(), record.serial.bytes());
        assert_eq!(record.issuer, if issuing { Role::Issuing } else { Role::Root });
    }
}

#[test]
fn root_is_p384_for_10_years_and_limits_the_chain() {
    for issuing in [false, true] {
        let place = Place::new(issuing);
        let pki = place.open();
        assert_eq!(pki.authorities().len(), 1 + usize::from(issuing));
        for (authority, (days, path_length)) in
            pki.authorities().iter().zip([(3652, u32::from(issuing)), (1826, 0)])
        {
            let der = der(&authority.certificate);
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            let constraints = certificate.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && constraints.value.ca);
            assert_eq!(constraints.value.path_len_constraint, Some(path_length));
            assert_eq!(certificate.validity().not_after.to_datetime(), day(days));
            assert_eq!(
                certificate.public_key().subject_public_key.data.len(),
                97,
                "an uncompressed point of P-384"
            );
            assert_eq!(
                certificate.subject().to_string(),
                format!("O=Acme VPN, CN=Acme VPN {} 2026", authority.role)
            );
        }
    }
}

#[test]
fn every_kind_of_identity_is_certified() {
    let place = Place::new(false);
    for (identity, subject, expected) in [
        ("a.example", "CN=a.example", "DNSName(a.example)"),
        ("vpn@acme.example", "CN=vpn@acme.example", "RFC822Name(vpn@acme.example)"),
        ("203.0.113.9", "CN=203.0.113.9", "IPAddress(cb:00:71:09)"),
        ("2001:db8::9", "CN=2001:db8::9", "IPAddress(20:01:0d:b8:00:00:00:00:00:00:00:00:00:00:00:09)"),
        ("C=DE, O=Acme, CN=berlin", "C=DE, O=Acme, CN=berlin", ""),
    ] {
        let record = place.issue(identity).unwrap();
        let der = der(&place.open().certificate_pem(&record).unwrap());
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), subject);
        let names = certificate.subject_alternative_name().unwrap();
        let names: Vec<String> =
            names.into_iter().flat_map(|e| &e.value.general_names).map(ToString::to_string).collect();
        assert_eq!(names.join(" "), expected, "{identity}");
    }
}

#[test]
fn long_name_is_whole_in_the_alternative_name() {
    let identity = format!("{}.{}.acme.example", "a".repeat(60), "b".repeat(60));
    let place = Place::new(false);
    let record = place.issue(&identity).unwrap();
    let der = der(&place.open().certificate_pem(&record).unwrap());
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names[..], [GeneralName::DNSName(&identity)]);
    let cn = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap();
    assert_eq!(cn.len(), 64);
}

#[test]
fn request_gives_its_key_and_nothing_else() {
    let place = Place::new(false);
    let request = read_request(|params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Evil");
        params.distinguished_name.push(rcgen::DnType::CommonName, "anything");
        params.subject_alt_names = vec![
            rcgen::SanType::DnsName("berlin.acme.example".try_into().unwrap()),
            rcgen::SanType::DnsName("rome.globex.example".try_into().unwrap()),
        ];
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let new = site("berlin.acme.example");
    let record = pki.sign(&signer, &new, &request, &random()).unwrap();
    assert_eq!(record.key, KeyPlace::Elsewhere);
    assert!(pki.files(&record).key.is_none() && pki.key_pem(&record).unwrap().is_none());
    let der = der(&pki.certificate_pem(&record).unwrap());
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(certificate.public_key().raw, request.public_key);
    assert_eq!(certificate.subject().to_string(), "CN=berlin.acme.example");
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names[..], [GeneralName::DNSName("berlin.acme.example")]);
    assert!(!certificate.is_ca() && certificate.key_usage().unwrap().unwrap().value.flags == 1);
    assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
    let left = request.not_taken_over(&new.identity);
    assert_eq!(
        left,
        ["the name rome.globex.example", "key usage", "extended key usage", "to be an authority"],
    );
}

#[test]
fn renewal_makes_a_second_certificate_and_the_first_stays_valid() {
    let place = Place::new(true);
    let old = place.issue("berlin.acme.example").unwrap();
    let mut pki = place.open_at(day(300)).unwrap();
    let signer = place.signer(&pki);
    let new = pki.renew(&signer, &old.name, 365, false, None, &random()).unwrap();
    let same = pki.renew(&signer, &old.name, 365, true, None, &random()).unwrap();
    assert_eq!(new.period().1, day(665));
    assert_ne!(new.key_sha256, old.key_sha256);
    assert_eq!(same.key_sha256, new.key_sha256);
    assert_eq!(pki.key_pem(&same).unwrap(), pki.key_pem(&new).unwrap());
    assert_eq!(pki.latest(&old.name).unwrap().serial, same.serial);
    assert!(pki.certificates().iter().all(|record| record.state(day(300)) == State::Valid));
    assert_eq!(old.state(day(366)), State::Expired);
    assert_eq!(old.state(day(-1)), State::NotYet);
}

#[test]
fn renewal_for_a_request_keeps_its_key() {
    let place = Place::new(false);
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let old = pki.sign(&signer, &site("a.example"), &read_request(|_| {}), &random()).unwrap();
    let new = pki.renew(&signer, &old.name, 365, false, None, &random()).unwrap();
    assert_eq!((new.key, &new.key_sha256), (KeyPlace::Elsewhere, &old.key_sha256));
}

#[test]
fn encrypted_key_stays_encrypted_when_renewed() {
    let place = Place::new(false);
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let protection = place.protection();
    let old = pki.issue(&signer, &site("a.example"), Some(&protection), &random()).unwrap();
    assert_eq!(old.key, KeyPlace::Encrypted);
    let refused = pki.renew(&signer, &old.name, 365, false, None, &random());
    assert!(matches!(refused, Err(Error::NoPassphrase(_))), "{refused:?}");
    let new = pki.renew(&signer, &old.name, 365, false, Some(&protection), &random()).unwrap();
    let same = pki.renew(&signer, &old.name, 365, true, None, &random()).unwrap();
    for record in [new, same] {
        let pem = String::from_utf8(pki.key_pem(&record).unwrap().unwrap().to_vec()).unwrap();
        assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{pem}");
    }
}

#[test]
fn crl_names_what_is_revoked_and_its_number_grows() {
    let place = Place::new(true);
    let (berlin, rome) = (place.issue("berlin.example").unwrap(), place.issue("rome.example").unwrap());
    let mut pki = place.open_at(day(1)).unwrap();
    let signer = place.signer(&pki);
    let crl = |pki: &Pki, role: Role| {
        let file = std::fs::read(place.path().join(format!("{role}.crl"))).unwrap();
        assert_eq!(file, pki.authority(role).unwrap().crl.as_bytes());
        Crl::read_all(&file).unwrap().remove(0)
    };
    assert_eq!((crl(&pki, Role::Issuing).number, crl(&pki, Role::Issuing).revoked.len()), (1, 0));
    let all = Selection::All(berlin.name.clone());
    assert_eq!(pki.revoke(&signer, &all, Reason::KeyCompromise, 30).unwrap(), [berlin.serial]);
    let read = crl(&pki, Role::Issuing);
    assert_eq!((read.number, read.from, read.until), (2, day(1), Some(day(31))));
    assert_eq!(read.revoked, [berlin.serial.bytes()]);
    assert_eq!(pki.by_serial(berlin.serial).unwrap().state(day(1)), State::Revoked);
    assert_eq!(pki.by_serial(rome.serial).unwrap().state(day(1)), State::Valid);
    assert_eq!(pki.revoke(&signer, &Selection::Nothing, Reason::Unspecified, 30).unwrap(), []);
    assert_eq!(crl(&pki, Role::Issuing).number, 3);
    assert_eq!((crl(&pki, Role::Root).number, crl(&pki, Role::Root).until), (1, Some(day(365))));
    let root = pki.unlock(Role::Root, Some(&place.passphrase)).unwrap();
    assert_eq!(pki.revoke(&root, &Selection::NothingOfRoot, Reason::Unspecified, 90).unwrap(), []);
    assert_eq!((crl(&pki, Role::Root).number, crl(&pki, Role::Root).until), (2, Some(day(91))));
    assert!(matches!(pki.revoke(&signer, &all, Reason::Unspecified, 30), Err(Error::NothingToRevoke(_))));
    assert_eq!(crl(&pki, Role::Issuing).number, 3, "a refused revocation makes no CRL");
}

#[test]
fn only_older_certificates_or_one_are_revoked() {
    let place = Place::new(false);
    let first = place.issue("a.example").unwrap();
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let second = pki.renew(&signer, &first.name, 365, false, None, &random()).unwrap();
    let third = pki.renew(&signer, &first.name, 365, false, None, &random()).unwrap();
    let one = Selection::Serial(second.serial);
    assert_eq!(pki.revoke(&signer, &one, Reason::Superseded, 30).unwrap(), [second.serial]);
    let older = Selection::Older(first.name);
    assert_eq!(pki.revoke(&signer, &older, Reason::Superseded, 30).unwrap(), [first.serial]);
    assert_eq!(pki.by_serial(third.serial).unwrap().state(START), State::Valid);
}

#[test]
fn crl_forgets_what_expired_long_ago() {
    let place = Place::new(false);
    let old = place.issue("a.example").unwrap();
    let serials = |days, selection: &Selection| {
        let mut pki = place.open_at(day(days)).unwrap();
        let signer = place.signer(&pki);
        pki.revoke(&signer, selection, Reason::Unspecified, 30).unwrap();
        Crl::read_all(pki.crls().as_bytes()).unwrap().remove(0).revoked
    };
    assert_eq!(serials(1, &Selection::All(old.name)), [old.serial.bytes()]);
    assert_eq!(serials(365 + 90, &Selection::Nothing), [old.serial.bytes()]);
    assert_eq!(serials(365 + 91, &Selection::Nothing), [b""; 0]);
}

#[test]
fn root_revokes_the_issuing_authority_which_then_signs_nothing() {
    let place = Place::new(true);
    let mut pki = place.open();
    let (root, issuing) = (pki.unlock(Role::Root, Some(&place.passphrase)).unwrap(), place.signer(&pki));
    assert_eq!(pki.revoker(&Selection::Issuing), Role::Root);
    let revoked = pki.revoke(&root, &Selection::Issuing, Reason::KeyCompromise, 365).unwrap();
    let crls = Crl::read_all(pki.crls().as_bytes()).unwrap();
    assert_eq!(
        crls.iter().map(|crl| crl.number).collect::<Vec<_>>(),
        [1, 2],
        "the signer's, then the root's"
    );
    assert_eq!(crls[1].revoked, [revoked[0].bytes()]);
    let refused = pki.issue(&issuing, &site("a.example"), None, &random());
    assert!(matches!(refused, Err(Error::Revoked(_))), "{refused:?}");
    assert!(matches!(pki.renew_issuing(&root, 1826, &random()), Err(Error::Revoked(_))));
}

#[test]
fn all_certificates_of_the_issuing_authority_are_revoked_with_it() {
    let place = Place::new(true);
    let mut pki = place.open();
    let root = pki.unlock(Role::Root, Some(&place.passphrase)).unwrap();
    let first = pki.authority(Role::Issuing).unwrap().serial;
    pki.renew_issuing(&root, 1826, &random()).unwrap();
    let second = pki.authority(Role::Issuing).unwrap().serial;
    let revoked = pki.revoke(&root, &Selection::Issuing, Reason::KeyCompromise, 365).unwrap();
    assert_eq!(revoked, [first, second], "the thief of the key has both certificates");
    let mut listed = Crl::read_all(pki.crls().as_bytes()).unwrap().remove(1).revoked;
    listed.sort();
    let mut expected = [first.bytes(), second.bytes()];
    expected.sort();
    assert_eq!(listed, expected);
}

#[test]
fn renewed_issuing_authority_has_its_key_and_signs_on() {
    let place = Place::new(true);
    place.issue("a.example").unwrap();
    let mut pki = place.open_at(day(1800)).unwrap();
    let issuing = place.signer(&pki);
    let refused = pki.issue(&issuing, &site("b.example"), None, &random());
    assert!(matches!(refused, Err(Error::Outlives { .. })), "{refused:?}");
    let root = pki.unlock(Role::Root, Some(&place.passphrase)).unwrap();
    let before = pki.authority(Role::Issuing).unwrap().clone();
    pki.renew_issuing(&root, 1826, &random()).unwrap();
    let after = pki.authority(Role::Issuing).unwrap();
    assert_eq!((&after.key_sha256, after.period().1), (&before.key_sha256, day(3626)));
    let issuing = place.signer(&pki);
    pki.issue(&issuing, &site("b.example"), None, &random()).unwrap();
}

#[test]
fn published_crls_replace_older_ones_of_the_same_authority_only() {
    let place = Place::new(true);
    let target = place.directory.path().join("revoked.crl");
    let mut pki = place.open();
    assert_eq!(pki.publish(&target, false).unwrap(), Published::Written);
    assert_eq!(pki.publish(&target, false).unwrap(), Published::Unchanged);
    let signer = place.signer(&pki);
    pki.revoke(&signer, &Selection::Nothing, Reason::Unspecified, 30).unwrap();
    assert_eq!(pki.publish(&target, false).unwrap(), Published::Written);
    assert_eq!(Crl::read_all(&std::fs::read(&target).unwrap()).unwrap().len(), 2);
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let other = Place::new(true).open();
    for (present, fault) in [
        (other.crls(), "the CRL of another authority"),
        ("text".to_owned(), "not a CRL"),
        (String::new(), "not a CRL"),
    ] {
        std::fs::write(&target, &present).unwrap();
        let error = pki.publish(&target, false).unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), present);
    }
    assert_eq!(pki.publish(&target, true).unwrap(), Published::Written);
}

/// The folder's backup is older than a CRL that was published: another CRL of the same number would forget a revocation.
#[test]
fn restored_backup_publishes_nothing_that_forgets_a_revocation() {
    let place = Place::new(false);
    let berlin = place.issue("berlin.acme.example").unwrap();
    let backup = std::fs::read(place.path().join("index.json")).unwrap();
    let crl = std::fs::read(place.path().join("root.crl")).unwrap();
    let target = place.directory.path().join("published.crl");
    {
        let mut pki = place.open();
        let signer = place.signer(&pki);
        pki.revoke(&signer, &Selection::All(berlin.name), Reason::KeyCompromise, 30).unwrap();
        pki.publish(&target, false).unwrap();
    }
    std::fs::write(place.path().join("index.json"), backup).unwrap();
    std::fs::write(place.path().join("root.crl"), crl).unwrap();
    let mut pki = place.open();
    let signer = place.signer(&pki);
    pki.revoke(&signer, &Selection::Nothing, Reason::Unspecified, 30).unwrap();
    let error = pki.publish(&target, false).unwrap_err().to_string();
    assert!(error.contains("this index is an old copy"), "{error}");
}
