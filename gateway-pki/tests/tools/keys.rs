//! Encrypted keys: ours in other tools, and theirs here.
use std::fs;

use gateway_pki::{KeyProtection, Passphrase, ROUNDS, Role};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use crate::{PASSPHRASE, World, site, text};

pub fn encrypted() {
    let mut world = World::new(true);
    let protection = KeyProtection { passphrase: &world.passphrase, rounds: ROUNDS };
    let encrypted = site("a.example");
    let record = world.pki.issue(&world.signer, &encrypted, Some(&protection), &SystemRandom::new()).unwrap();
    let of_site = world.pki.files(&record).key.unwrap().display().to_string();
    for key in [world.own("root.key"), world.own("issuing.key"), of_site] {
        let certificate = match &key {
            key if key.ends_with("root.key") => world.own("root.crt"),
            key if key.ends_with("issuing.key") => world.own("issuing.crt"),
            _ => world.certificate(&record),
        };
        let public = world.succeed("openssl", &["x509", "-in", &certificate, "-noout", "-pubkey"]);
        let pass = format!("pass:{PASSPHRASE}");
        let own = world.succeed("openssl", &["pkey", "-in", &key, "-passin", &pass, "-pubout"]);
        assert_eq!(own, public);
        let plain = world.succeed("openssl", &["pkcs8", "-in", &key, "-passin", &pass]);
        assert!(plain.contains("BEGIN PRIVATE KEY"), "{plain}");
        let wrong = world.run("openssl", &["pkey", "-in", &key, "-passin", "pass:wrong", "-noout"]);
        assert!(!wrong.status.success());
        let parameters = world.succeed("openssl", &["asn1parse", "-in", &key]);
        for expected in ["PBES2", "PBKDF2", "hmacWithSHA256", "aes-256-cbc"] {
            assert!(parameters.contains(expected), "{parameters}");
        }
        let shown = world.succeed("certtool", &["-k", "--infile", &key, "--password", PASSPHRASE]);
        assert!(shown.contains("EC/ECDSA"), "{shown}");
        // charon and swanctl use the same plugin, pkcs8. It takes seconds for the rounds: one key of each curve will do.
        if !key.ends_with("issuing.key") {
            assert_eq!(
                strongswan_public(&world, &key),
                strongswan_public_of_certificate(&world, &certificate)
            );
        }
    }
}

/// Returns the public key that strongSwan finds behind an encrypted key. `pki` asks for the passphrase on a terminal.
fn strongswan_public(world: &World, key: &str) -> String {
    // It discards what was typed before the question: type until it has ended.
    let script = format!(
        "(for i in $(seq 100); do sleep 0.3; echo '{PASSPHRASE}'; done) | \
         script -qec \"pki --pub --type priv --outform pem --in '{key}'\" /dev/null"
    );
    public_key(&text(&world.run("sh", &["-c", &script])))
}

fn strongswan_public_of_certificate(world: &World, certificate: &str) -> String {
    public_key(&world.succeed("pki", &["--pub", "--type", "x509", "--outform", "pem", "--in", certificate]))
}

/// Returns the public key among a tool's output.
fn public_key(shown: &str) -> String {
    let shown = shown.replace('\r', "");
    let from = shown.find("-----BEGIN PUBLIC KEY-----").unwrap_or_else(|| panic!("{shown}"));
    let key = shown[from..].split_inclusive("-----END PUBLIC KEY-----").next();
    key.unwrap().to_owned()
}

pub fn foreign() {
    let world = World::new(false);
    let (key, pass) = (world.own("root.key"), format!("pass:{PASSPHRASE}"));
    let original = fs::read(&key).unwrap();
    let new = "another passphrase";
    for how in
        [&["-v2", "aes-256-cbc"][..], &["-scrypt"], &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"]]
    {
        fs::write(&key, &original).unwrap();
        let changed = world.path("changed.key").display().to_string();
        let first = ["pkey", "-in", &key, "-passin", &pass, "-out", "clear.key"];
        world.succeed("openssl", &first);
        let out =
            ["pkcs8", "-topk8", "-in", "clear.key", "-passout", "pass:another passphrase", "-out", &changed];
        world.succeed("openssl", &[&out[..], how].concat());
        fs::copy(&changed, &key).unwrap();
        let passphrase = Passphrase::from_line(Zeroizing::new(new.into())).unwrap();
        world.pki.unlock(Role::Root, Some(&passphrase)).unwrap();
        assert!(world.pki.unlock(Role::Root, Some(&world.passphrase)).is_err());
    }
    let to_p8 = ["--to-p8", "--load-privkey", "clear.key", "--password", new, "--pkcs-cipher", "aes-256"];
    world.succeed("certtool", &[&to_p8[..], &["--outfile", &key]].concat());
    let passphrase = Passphrase::from_line(Zeroizing::new(new.into())).unwrap();
    world.pki.unlock(Role::Root, Some(&passphrase)).unwrap();
}
