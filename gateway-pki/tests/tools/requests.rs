//! Requests made by other tools.
use std::fs;

use gateway_pki::{NewCertificate, Request};
use ring::rand::SystemRandom;

use crate::{World, site};

/// Signs the request in a file and checks with OpenSSL that the certificate has its key.
fn sign(world: &mut World, identity: &str, name: &str) {
    let request =
        Request::read(&fs::read(world.path(name)).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let new = NewCertificate { force: true, ..site(identity) };
    let record = world.pki.sign(&world.signer, &new, &request, &SystemRandom::new()).unwrap();
    let form = if name.ends_with(".der") { "DER" } else { "PEM" };
    let wanted = world.succeed("openssl", &["req", "-in", name, "-inform", form, "-noout", "-pubkey"]);
    let certificate = world.certificate(&record);
    assert_eq!(
        world.succeed("openssl", &["x509", "-in", &certificate, "-noout", "-pubkey"]),
        wanted,
        "{name}"
    );
    let bundle = world.bundle();
    world
        .succeed("openssl", &["verify", "-x509_strict", "-purpose", "any", "-CAfile", &bundle, &certificate]);
}

pub fn from_tools() {
    let mut world = World::new(true);
    let san = "subjectAltName=DNS:berlin.acme.example,DNS:rome.globex.example";
    for (index, kind) in [
        "EC -pkeyopt ec_paramgen_curve:P-256",
        "EC -pkeyopt ec_paramgen_curve:P-384",
        "ED25519",
        "RSA -pkeyopt rsa_keygen_bits:2048",
    ]
    .into_iter()
    .enumerate()
    {
        let (key, out) = (format!("{index}.pem"), format!("{index}.csr"));
        let generate: Vec<&str> =
            "genpkey -algorithm".split(' ').chain(kind.split(' ')).chain(["-out", &key]).collect();
        world.succeed("openssl", &generate);
        let ca = "basicConstraints=critical,CA:TRUE";
        let request =
            ["req", "-new", "-key", &key, "-subj", "/CN=x", "-addext", san, "-addext", ca, "-out", &out];
        world.succeed("openssl", &request);
        sign(&mut world, "berlin.acme.example", &out);
    }
    world.succeed("openssl", &["req", "-in", "0.csr", "-outform", "DER", "-out", "0.der"]);
    sign(&mut world, "berlin.acme.example", "0.der");
    let pki = [
        "--req",
        "--type",
        "priv",
        "--in",
        "1.pem",
        "--dn",
        "C=DE, O=Acme, CN=berlin",
        "--san",
        "berlin.acme.example",
        "--outform",
        "pem",
    ];
    fs::write(world.path("pki.csr"), world.succeed("pki", &pki)).unwrap();
    sign(&mut world, "berlin.acme.example", "pki.csr");
    // The distinguished name of strongSwan's request is the same as that of ours, whatever the encoding.
    let generate: Vec<&str> =
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out dn.pem".split(' ').collect();
    world.succeed("openssl", &generate);
    let pki =
        ["--req", "--type", "priv", "--in", "dn.pem", "--dn", "C=DE, O=Acme, CN=berlin", "--outform", "pem"];
    fs::write(world.path("dn.csr"), world.succeed("pki", &pki)).unwrap();
    sign(&mut world, "C=DE, O=Acme, CN=berlin", "dn.csr");
    fs::write(world.path("template"), "cn = berlin.acme.example\ndns_name = berlin.acme.example\n").unwrap();
    let certtool = [
        "--generate-request",
        "--load-privkey",
        "2.pem",
        "--template",
        "template",
        "--outfile",
        "gnutls.csr",
    ];
    world.succeed("certtool", &certtool);
    sign(&mut world, "berlin.acme.example", "gnutls.csr");
}

pub fn weak() {
    let world = World::new(false);
    for (kind, digest, fault) in [
        ("RSA -pkeyopt rsa_keygen_bits:1024", "-sha256", "has a key of another kind"),
        ("RSA -pkeyopt rsa_keygen_bits:4608", "-sha256", "has a key of another kind"),
        ("RSA -pkeyopt rsa_keygen_bits:2048", "-sha1", "is signed in a way that is too old"),
        ("EC -pkeyopt ec_paramgen_curve:P-256", "-sha1", "is signed in a way that is too old"),
        ("EC -pkeyopt ec_paramgen_curve:secp256k1", "-sha256", "has a key of another kind"),
        ("EC -pkeyopt ec_paramgen_curve:P-521", "-sha384", "has a key of another kind"),
        ("ED448", "-sha256", "is signed in a way that is too old or not known"),
    ] {
        let generate: Vec<&str> =
            "genpkey -algorithm".split(' ').chain(kind.split(' ')).chain(["-out", "weak.pem"]).collect();
        world.succeed("openssl", &generate);
        world.succeed(
            "openssl",
            &["req", "-new", "-key", "weak.pem", "-subj", "/CN=a.example", digest, "-out", "weak.csr"],
        );
        let error = Request::read(&fs::read(world.path("weak.csr")).unwrap()).unwrap_err().to_string();
        assert!(error.contains(fault), "{kind} {digest}: {error}");
    }
}
