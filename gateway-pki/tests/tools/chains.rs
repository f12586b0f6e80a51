//! Chains of certificates, CRLs, and the identities in certificates.
use std::{fs, path::Path};

use gateway_pki::Record;

use crate::{World, text};

/// One of each kind.
const IDENTITIES: [&str; 5] =
    ["berlin.acme.example", "vpn@acme.example", "203.0.113.9", "2001:db8::9", "C=DE, O=Acme, CN=berlin"];

pub fn openssl() {
    for issuing in [false, true] {
        let mut world = World::new(issuing);
        let records = IDENTITIES.map(|identity| world.issue(identity));
        world.revoke(&records[0]);
        let (bundle, crls) = (world.bundle(), world.crls());
        let check = [
            "verify",
            "-x509_strict",
            "-crl_check_all",
            "-purpose",
            "any",
            "-CAfile",
            &bundle,
            "-CRLfile",
            &crls,
        ];
        for record in &records[1..] {
            let certificate = world.certificate(record);
            world.succeed("openssl", &[&check[..], &[certificate.as_str()]].concat());
        }
        let certificate = world.certificate(&records[0]);
        let revoked = world.run("openssl", &[&check[..], &[certificate.as_str()]].concat());
        assert!(
            !revoked.status.success() && text(&revoked).contains("certificate revoked"),
            "{}",
            text(&revoked)
        );
        for role in world.pki.authorities().iter().map(|authority| authority.role) {
            let (crl, ca) = (world.own(&format!("{role}.crl")), world.own(&format!("{role}.crt")));
            let shown = world.succeed("openssl", &["crl", "-in", &crl, "-noout", "-text", "-CAfile", &ca]);
            assert!(shown.contains("verify OK"), "{shown}");
        }
        let shown = world.succeed("openssl", &["x509", "-in", &certificate, "-noout", "-text"]);
        for expected in [
            "DNS:berlin.acme.example",
            "Digital Signature",
            "ipsec Internet Key Exchange",
            "CA:FALSE",
            "NIST CURVE: P-256",
            "ecdsa-with-SHA384",
        ] {
            assert!(shown.contains(expected), "{expected} in {shown}");
        }
        let shown = world.succeed("openssl", &["x509", "-in", &world.own("root.crt"), "-noout", "-text"]);
        assert!(
            shown.contains("NIST CURVE: P-384") && shown.contains("Certificate Sign, CRL Sign"),
            "{shown}"
        );
    }
}

pub fn strongswan() {
    for issuing in [false, true] {
        let mut world = World::new(issuing);
        let records = IDENTITIES.map(|identity| world.issue(identity));
        world.revoke(&records[0]);
        let mut check = vec!["--verify".to_owned()];
        for role in world.pki.authorities().iter().map(|authority| authority.role) {
            check.extend(["--cacert".to_owned(), world.own(&format!("{role}.crt"))]);
            check.extend(["--crl".to_owned(), world.own(&format!("{role}.crl"))]);
        }
        check.push("--in".to_owned());
        let check: Vec<&str> = check.iter().map(String::as_str).collect();
        for record in &records[1..] {
            let shown = world.succeed("pki", &[&check[..], &[&world.certificate(record)]].concat());
            assert!(
                shown.contains("certificate trusted") && shown.contains("certificate status is good"),
                "{shown}"
            );
        }
        let revoked = world.run("pki", &[&check[..], &[&world.certificate(&records[0])]].concat());
        let shown = text(&revoked);
        assert!(
            !revoked.status.success() && shown.contains("revoked") && shown.contains("key compromise"),
            "{shown}"
        );
        let other = World::new(issuing);
        let stranger = world.run(
            "pki",
            &["--verify", "--cacert", &other.own("root.crt"), "--in", &world.certificate(&records[1])],
        );
        assert!(!stranger.status.success(), "{}", text(&stranger));
    }
}

pub fn gnutls() {
    for issuing in [false, true] {
        let mut world = World::new(issuing);
        let records = IDENTITIES.map(|identity| world.issue(identity));
        world.revoke(&records[0]);
        let crls = world.crls();
        let verify = |record: &Record| {
            let chain = world.path("chain.pem");
            let above = world.pki.authorities().iter().rev().map(|authority| authority.certificate.clone());
            let own = fs::read_to_string(world.certificate(record)).unwrap();
            fs::write(&chain, std::iter::once(own).chain(above).collect::<String>()).unwrap();
            let (root, chain) = (world.own("root.crt"), chain.display().to_string());
            world.run(
                "certtool",
                &["--verify", "--load-ca-certificate", &root, "--load-crl", &crls, "--infile", &chain],
            )
        };
        for record in &records[1..] {
            let output = verify(record);
            let shown = text(&output);
            assert!(output.status.success() && shown.contains("The certificate is trusted"), "{shown}");
        }
        let shown = text(&verify(&records[0]));
        assert!(shown.contains("revoked"), "{shown}");
        for role in world.pki.authorities().iter().map(|authority| authority.role) {
            let (crl, ca) = (world.own(&format!("{role}.crl")), world.own(&format!("{role}.crt")));
            let shown =
                world.succeed("certtool", &["--verify-crl", "--load-ca-certificate", &ca, "--infile", &crl]);
            assert!(shown.contains("Verified"), "{shown}");
        }
        let shown = world.succeed("certtool", &["-i", "--infile", &world.certificate(&records[1])]);
        assert!(shown.contains("Ipsec IKE") || shown.contains("1.3.6.1.5.5.7.3.17"), "{shown}");
    }
}

pub fn identities() {
    let mut world = World::new(false);
    for (identity, subject, names) in [
        ("berlin.acme.example", "\"CN=berlin.acme.example\"", "altNames:  berlin.acme.example"),
        ("vpn@acme.example", "\"CN=vpn@acme.example\"", "altNames:  vpn@acme.example"),
        ("203.0.113.9", "\"CN=203.0.113.9\"", "altNames:  203.0.113.9"),
        ("2001:db8::9", "\"CN=2001:db8::9\"", "altNames:  2001:db8::9"),
        ("C=DE, O=Acme, CN=berlin", "\"C=DE, O=Acme, CN=berlin\"", "subject:"),
    ] {
        let record = world.issue(identity);
        let shown = world.succeed("pki", &["--print", "--in", &world.certificate(&record)]);
        assert!(shown.contains(&format!("subject:  {subject}")) && shown.contains(names), "{shown}");
        assert!(shown.contains("ikeIntermediate") || shown.contains("flags:"), "{shown}");
    }
    assert!(Path::new(&world.own("issued/2001:db8::9")).is_dir());
}
