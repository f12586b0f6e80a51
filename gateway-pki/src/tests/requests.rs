//! Requests that are refused.
use super::*;
use crate::{Reason, Selection};

#[test]
fn request_with_a_forged_signature_is_refused() {
    let block = x509_parser::pem::parse_x509_pem(request(|_| {}).as_bytes()).unwrap().1;
    Request::read(&block.contents).unwrap();
    let last = block.contents.len() - 1;
    // The public key of another request.
    let other = x509_parser::pem::parse_x509_pem(request(|_| {}).as_bytes()).unwrap().1;
    let key_end = block.contents.windows(2).position(|bytes| bytes == [0xa0, 0x00]).unwrap_or(80);
    let mut forged = vec![block.contents.clone(), block.contents.clone()];
    forged[0][last] ^= 1;
    forged[1][key_end - 32..key_end].copy_from_slice(&other.contents[key_end - 32..key_end]);
    for forged in forged {
        says(Request::read(&forged), "the request has a forged signature");
    }
}

#[test]
fn request_with_any_bit_changed_is_refused() {
    let pem = request(|params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "a.example");
        params.subject_alt_names = vec![rcgen::SanType::DnsName("a.example".try_into().unwrap())];
    });
    let good = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
    let read = Request::read(&good).unwrap();
    for bit in 0..8 * good.len() {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Bits outside of what is signed, such as a length in another form, may change without an effect.
        assert!(!Request::read(&bad).is_ok_and(|other| other != read), "bit {bit}");
    }
}

#[test]
fn request_that_is_none_or_too_weak_is_refused() {
    let pem = request(|_| {});
    for (bytes, words) in [
        ("", "0 PEM blocks"),
        ("text", "0 PEM blocks"),
        (&pem.repeat(2), "2 PEM blocks"),
        (&pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "is a CERTIFICATE"),
        ("0not der", "cannot be parsed"),
    ] {
        says(Request::read(bytes.as_bytes()), words);
    }
}

#[test]
fn request_for_another_site_is_refused() {
    let dns = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());
    let cn = |name: &str| {
        let name = name.to_owned();
        read_request(move |params| params.distinguished_name.push(rcgen::DnType::CommonName, name))
    };
    let berlin: crate::Identity = "berlin.acme.example".parse().unwrap();
    let alternative = read_request(|params| params.subject_alt_names = vec![dns("rome.globex.example")]);
    says(alternative.check(&berlin), "is for rome.globex.example");
    says(cn("rome.globex.example").check(&berlin), "not for berlin.acme.example");
    cn("BERLIN.acme.example").check(&berlin).unwrap();
    read_request(|_| {}).check(&berlin).unwrap();
    // Neither a common name nor an alternative one, but somebody.
    let organisation =
        read_request(|params| params.distinguished_name.push(rcgen::DnType::OrganizationName, "Globex"));
    says(organisation.check(&berlin), "not for berlin.acme.example");
    let dn: crate::Identity = "O=Acme, CN=berlin".parse().unwrap();
    says(
        cn("berlin").check(&dn),
        "is for CN=berlin, , not for O=Acme, CN=berlin".replace(", ,", ",").as_str(),
    );
    let whole = read_request(|params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Acme");
        params.distinguished_name.push(rcgen::DnType::CommonName, "berlin");
    });
    whole.check(&dn).unwrap();
    // Harmless on a terminal.
    let error = cn("\u{1b}[2Jx").check(&berlin).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}'), "{error}");
}

#[test]
fn key_is_certified_for_one_name_only_and_never_again_when_revoked() {
    let place = Place::new(false);
    let request = read_request(|_| {});
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let record = pki.sign(&signer, &site("a.example"), &request, &random()).unwrap();
    says(pki.sign(&signer, &site("b.example"), &request, &random()), "certified before, for a.example");
    let name = record.name;
    pki.revoke(&signer, &Selection::All(name.clone()), Reason::Superseded, 30).unwrap();
    let again = pki.sign(&signer, &site("a.example"), &request, &random()).unwrap();
    let last = pki.renew(&signer, &name, 365, true, None, &random()).unwrap();
    for reason in [Reason::Unspecified, Reason::KeyCompromise] {
        let one = Selection::Serial(if reason == Reason::KeyCompromise { again.serial } else { last.serial });
        pki.revoke(&signer, &one, reason, 30).unwrap();
        let forced = NewCertificate { force: true, ..site("a.example") };
        says(pki.sign(&signer, &forced, &request, &random()), "and is revoked");
    }
}

#[test]
fn renewal_does_not_bring_a_revoked_key_back() {
    let place = Place::new(false);
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let first = pki.sign(&signer, &site("a.example"), &read_request(|_| {}), &random()).unwrap();
    pki.renew(&signer, &first.name, 365, false, None, &random()).unwrap();
    pki.revoke(&signer, &Selection::Serial(first.serial), Reason::KeyCompromise, 30).unwrap();
    says(pki.renew(&signer, &first.name, 365, false, None, &random()), "is revoked");
}

#[test]
fn compromised_key_is_revoked_with_all_its_certificates_and_though_one_was_only_superseded() {
    let place = Place::new(false);
    let mut pki = place.open();
    let signer = place.signer(&pki);
    let first = pki.sign(&signer, &site("a.example"), &read_request(|_| {}), &random()).unwrap();
    let second = pki.renew(&signer, &first.name, 365, false, None, &random()).unwrap();
    let one = Selection::Serial(first.serial);
    assert_eq!(pki.revoke(&signer, &one, Reason::Superseded, 30).unwrap(), [first.serial]);
    let both = [first.serial, second.serial];
    assert_eq!(pki.revoke(&signer, &one, Reason::KeyCompromise, 30).unwrap(), both);
    says(pki.revoke(&signer, &one, Reason::KeyCompromise, 30), &first.serial.to_string());
    says(pki.renew(&signer, &first.name, 365, false, None, &random()), "is revoked");
}
