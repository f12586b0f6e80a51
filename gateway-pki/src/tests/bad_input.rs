//! Each thing that can be wrong is refused with one sentence, and nothing changes.
use std::os::unix::fs::{PermissionsExt, symlink};
use std::{fs, io};

use super::*;
use crate::index::INDEX;
use crate::{Error, Reason, Role, Selection};

#[test]
fn wrong_passphrase_is_told() {
    let place = Place::new(true);
    let pki = place.open();
    for role in [Role::Root, Role::Issuing] {
        says(pki.unlock(role, Some(&passphrase("correct horse batterY"))), "wrong passphrase for ");
        says(pki.unlock(role, None), "is encrypted: its passphrase is needed");
        assert!(pki.is_encrypted(role).unwrap());
    }
    // One of 256 decrypts to proper padding.
    for number in 0..300 {
        says(pki.unlock(Role::Root, Some(&passphrase(&format!("wrong{number}")))), "wrong passphrase for ");
    }
}

#[test]
fn key_in_the_clear_needs_no_passphrase() {
    let place = Place::empty();
    let wishes = NewAuthority { root_key: None, ..place.wishes(false) };
    init(&place.path(), &wishes, START, &random()).unwrap();
    let pki = place.open();
    assert!(!pki.is_encrypted(Role::Root).unwrap());
    pki.unlock(Role::Root, None).unwrap();
}

#[test]
fn key_of_another_certificate_is_refused() {
    let (place, other) = (Place::new(false), Place::new(false));
    fs::copy(other.path().join("root.key"), place.path().join("root.key")).unwrap();
    says(place.open().unlock(Role::Root, Some(&place.passphrase)), "root.key is not the key of ");
    let (a, b) = (other.issue("a.example").unwrap(), other.issue("b.example").unwrap());
    let mut pki = other.open();
    fs::copy(pki.files(&b).key.unwrap(), pki.files(&a).key.unwrap()).unwrap();
    says(pki.key_pem(&a), "is not the key of ");
    let signer = other.signer(&pki);
    says(pki.renew(&signer, &a.name, 365, true, None, &random()), "is not the key of ");
    fs::copy(pki.files(&b).certificate, pki.files(&a).certificate).unwrap();
    says(pki.certificate_pem(&a), "is not the certificate that the index names");
    fs::remove_file(pki.files(&a).certificate).unwrap();
    says(pki.certificate_pem(&a), "is missing");
}

#[test]
fn damaged_key_is_told_from_a_missing_one() {
    let place = Place::new(false);
    let path = place.path().join("root.key");
    let pem = fs::read_to_string(&path).unwrap();
    for (content, words) in [
        (String::new(), "is not a private key that can be used here"),
        ("x".to_owned(), "is not a private key that can be used here"),
        (pem[..pem.len() / 2].to_owned(), "is not a private key that can be used here"),
        (pem.replace("ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY"), "it is not a PKCS #8 key"),
        (pem.replace("ENCRYPTED PRIVATE KEY", "PRIVATE KEY"), "it is not a key of ECDSA P-256 or P-384"),
    ] {
        fs::write(&path, content).unwrap();
        says(place.open().unlock(Role::Root, Some(&place.passphrase)), words);
    }
    fs::remove_file(&path).unwrap();
    says(place.open().unlock(Role::Root, Some(&place.passphrase)), "the file is missing");
}

#[test]
fn damage_anywhere_in_the_index_is_found() {
    let place = Place::new(true);
    place.issue("a.example").unwrap();
    let path = place.path().join(INDEX);
    let good = fs::read(&path).unwrap();
    let mut found = 0;
    for position in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[position] ^= 1;
        fs::write(&path, &bad).unwrap();
        match place.open_at(START) {
            Err(Error::Index { .. }) => found += 1,
            Err(error) => panic!("{error}"),
            // Between the values a space may become another blank, and nothing else.
            Ok(_) => panic!("byte {position} of {}", String::from_utf8_lossy(&bad)),
        }
    }
    assert!(found > 100);
    for bad in [&b""[..], b"{}", b"null", &good[..good.len() / 2]] {
        fs::write(&path, bad).unwrap();
        says(place.open_at(START), "is damaged (");
    }
    fs::remove_file(&path).unwrap();
    says(place.open_at(START), "holds no authority");
}

#[test]
fn index_older_than_the_crl_is_refused() {
    let place = Place::new(false);
    let old = place.issue("a.example").unwrap();
    let path = place.path().join(INDEX);
    let backup = fs::read(&path).unwrap();
    let mut pki = place.open();
    let signer = place.signer(&pki);
    pki.revoke(&signer, &Selection::All(old.name), Reason::KeyCompromise, 30).unwrap();
    drop(pki);
    fs::write(&path, backup).unwrap();
    says(place.open_at(START), "root.crl has number 2 and the index knows only 1");
    says(Pki::read(&place.path(), START), "root.crl has number 2 and the index knows only 1");
}

#[test]
fn clock_that_jumped_back_is_refused_unless_trusted() {
    let place = Place::new(false);
    drop(place.open_at(day(10)).unwrap());
    let mut pki = place.open_at(day(10)).unwrap();
    let signer = place.signer(&pki);
    pki.issue(&signer, &site("a.example"), None, &random()).unwrap();
    drop(pki);
    let says_so =
        "the clock shows 2026-12-08 10:00:00 UTC, but the last change here was at 2026-12-09 10:00:00 UTC";
    says(place.open_at(day(9)), says_so);
    Pki::change(&place.path(), Clock { now: day(9), trusted: true }).unwrap();
}

#[test]
fn authority_signs_only_within_its_period() {
    let place = Place::new(false);
    for (now, trusted) in [(day(-1), true), (day(3653), false)] {
        let mut pki = Pki::change(&place.path(), Clock { now, trusted }).unwrap();
        let signer = place.signer(&pki);
        says(pki.issue(&signer, &site("a.example"), None, &random()), "the authority is valid from ");
        let nothing = Selection::Nothing;
        says(pki.revoke(&signer, &nothing, Reason::Unspecified, 30), "the authority is valid from ");
    }
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let days = |days| NewCertificate { days, ..site("a.example") };
    says(pki.issue(&signer, &days(3653), None, &random()), "after its authority");
    says(pki.issue(&signer, &days(0), None, &random()), "0 days are no period");
    says(pki.issue(&signer, &days(u32::MAX), None, &random()), "days are no period");
    assert!(pki.certificates().is_empty());
    assert_eq!(files(&place.path()).len(), 4);
}

#[test]
fn second_process_is_locked_out() {
    let place = Place::new(false);
    let pki = place.open();
    says(place.open_at(START), "another `gatewayctl pki` is working in ");
    Pki::read(&place.path(), START).unwrap();
    drop(pki);
    place.open();
}

#[test]
fn link_elsewhere_is_refused() {
    let place = Place::new(false);
    let record = place.issue("a.example").unwrap();
    let elsewhere = place.directory.path().join("elsewhere");
    symlink(place.path(), &elsewhere).unwrap();
    says(Pki::change(&elsewhere, Clock { now: START, trusted: false }), "is a symbolic link");
    says(init(&elsewhere, &place.wishes(false), START, &random()), "is a symbolic link");
    let slash = place.directory.path().join("elsewhere/");
    says(Pki::read(&slash, START), "is a symbolic link");
    says(init(&slash, &place.wishes(false), START, &random()), "is a symbolic link");
    let victim = place.directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["root.key", "root.crl", INDEX] {
        let path = place.path().join(name);
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&victim, &path).unwrap();
        let opened = place.open_at(START).and_then(|pki| pki.unlock(Role::Root, Some(&place.passphrase)));
        says(opened, "is a symbolic link");
        fs::remove_file(&path).unwrap();
        fs::write(&path, good).unwrap();
    }
    // A folder inside, and the file that is being written.
    let outside = TempDir::new().unwrap();
    symlink(&victim, place.path().join(".new")).unwrap();
    symlink(outside.path(), place.path().join("issued/b.example")).unwrap();
    says(place.issue("b.example"), "is a symbolic link");
    assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let pki = place.open();
    let link = place.directory.path().join("published.crl");
    symlink(&victim, &link).unwrap();
    says(pki.publish(&link, true), "is a symbolic link");
    says(crate::export(&link, b"x", true), "is a symbolic link");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    drop(pki);
    place.open().certificate_pem(&record).unwrap();
}

#[test]
fn folder_that_others_may_enter_is_refused() {
    let place = Place::new(false);
    for mode in [0o750, 0o701, 0o777] {
        fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
        says(place.open_at(START), &format!("is open to others (mode {mode:04o})"));
    }
}

#[test]
fn nothing_is_overwritten_without_force() {
    let place = Place::new(false);
    place.issue("a.example").unwrap();
    let before = fs::read(place.path().join(INDEX)).unwrap();
    says(
        init(&place.path(), &place.wishes(false), START, &random()),
        "nothing is overwritten without --force",
    );
    assert_eq!(fs::read(place.path().join(INDEX)).unwrap(), before);
    says(place.issue("a.example"), "a.example has a certificate until 2027-11-29 10:00:00 UTC");
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let other_name = NewCertificate { name: "b".parse().unwrap(), ..site("a.example") };
    says(pki.issue(&signer, &other_name, None, &random()), "has certificates of the name a.example already");
    let forced = NewCertificate { force: true, ..other_name };
    says(pki.issue(&signer, &forced, None, &random()), "has certificates of the name a.example already");
    let misleading = NewCertificate { name: "c.example".parse().unwrap(), ..site("b.example") };
    says(pki.issue(&signer, &misleading, None, &random()), "cannot be a name here");
    let taken = NewCertificate { name: "a.example".parse().unwrap(), ..site("b.example") };
    says(pki.issue(&signer, &taken, None, &random()), "is already the name of the site a.example");
    pki.issue(&signer, &NewCertificate { force: true, ..site("a.example") }, None, &random()).unwrap();
    for reserved in ["root", "issuing"] {
        let new = NewCertificate { name: reserved.parse().unwrap(), ..site("b.example") };
        says(pki.issue(&signer, &new, None, &random()), "cannot be a name here");
    }
    drop(pki);
    let file = place.directory.path().join("out");
    crate::export(&file, b"first", false).unwrap();
    says(crate::export(&file, b"second", false), "nothing is overwritten without --force");
    assert_eq!(fs::read(&file).unwrap(), b"first");
    let wishes = NewAuthority { force: true, ..place.wishes(false) };
    let moved = init(&place.path(), &wishes, day(1), &random()).unwrap().unwrap();
    assert_eq!(
        Pki::read(&moved, day(1)).unwrap().certificates().len(),
        2,
        "the old one is moved, not removed"
    );
    assert!(place.open_at(day(1)).unwrap().certificates().is_empty());
}

#[test]
fn init_fills_an_empty_folder_and_no_file() {
    let place = Place::empty();
    fs::write(place.path(), "").unwrap();
    says(init(&place.path(), &place.wishes(false), START, &random()), "is not a folder");
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    init(&place.path(), &place.wishes(false), START, &random()).unwrap();
    place.open();
    let home = place.directory.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter"), "x").unwrap();
    let wishes = NewAuthority { force: true, ..place.wishes(false) };
    says(init(&home, &wishes, START, &random()), "home is not an authority's folder, nor empty");
    fs::remove_dir_all(&home).unwrap();
    for name in ["", " Acme", "Acme\n", "A,CN=x", &"a".repeat(41)] {
        let wishes = NewAuthority { name, ..place.wishes(false) };
        says(init(&place.directory.path().join("x"), &wishes, START, &random()), "authority's name");
    }
    assert_eq!(files(place.directory.path()).len(), 4, "nothing half written stays");
}

#[test]
fn certificate_that_could_not_be_issued_leaves_no_file() {
    let place = Place::new(false);
    let before = files(&place.path());
    let mut pki = place.open();
    let signer = place.signer(&pki);
    // Nothing can be written in the place of the certificate's folder.
    fs::write(place.path().join("issued/a.example"), "").unwrap();
    says(pki.issue(&signer, &site("a.example"), None, &random()), "is not a folder");
    fs::remove_file(place.path().join("issued/a.example")).unwrap();
    assert!(pki.certificates().is_empty());
    // Root may write anywhere, so let the last step fail: a folder has the name of the file that is being written.
    fs::create_dir(place.path().join(".new")).unwrap();
    assert!(pki.issue(&signer, &site("a.example"), None, &random()).is_err());
    fs::remove_dir(place.path().join(".new")).unwrap();
    assert_eq!(files(&place.path()), before);
    assert!(!place.path().join("issued/a.example").exists());
    pki.issue(&signer, &site("a.example"), None, &random()).unwrap();
}

#[test]
fn certificate_that_the_index_does_not_name_is_found() {
    let place = Place::new(false);
    let backup = fs::read(place.path().join(INDEX)).unwrap();
    let record = place.issue("a.example").unwrap();
    assert_eq!(place.open().strays(), [] as [PathBuf; 0]);
    fs::write(place.path().join(INDEX), backup).unwrap();
    assert_eq!(place.open().strays(), [place.path().join(record.file("crt"))]);
}

#[test]
fn revoked_certificate_is_not_renewed() {
    let place = Place::new(false);
    let record = place.issue("a.example").unwrap();
    let mut pki = place.open();
    let signer = place.signer(&pki);
    pki.revoke(&signer, &Selection::All(record.name.clone()), Reason::Unspecified, 30).unwrap();
    says(
        pki.renew(&signer, &record.name, 365, false, None, &random()),
        "the certificate of a.example is revoked",
    );
    let nobody = "nobody".parse().unwrap();
    says(
        pki.renew(&signer, &nobody, 365, false, None, &random()),
        "no certificate here is called \"nobody\"",
    );
    let selection = Selection::All(nobody);
    says(
        pki.revoke(&signer, &selection, Reason::Unspecified, 30),
        "no certificate here is called \"nobody\"",
    );
    pki.issue(&signer, &site("a.example"), None, &random()).unwrap();
}

#[test]
fn device_that_is_full_is_told() {
    let full = crate::read_file(Path::new("/dev/full"), 1);
    says(full, "is not a regular file");
    let error = Error::Io { what: "write", path: "x".into(), cause: io::Error::from_raw_os_error(28) };
    assert_eq!(error.to_string(), "write x: No space left on device (os error 28)");
}
