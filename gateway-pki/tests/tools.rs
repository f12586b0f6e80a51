//! Certificates, CRLs, requests and keys as tools judge them that are not ours: OpenSSL, strongSwan and GnuTLS.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

use gateway_pki::{
    Clock, Identity, KeyProtection, Kind, Name, NewAuthority, NewCertificate, Passphrase, Pki, ROUNDS, Reason, Record,
    Request, Role, Selection, SigningAuthority, init,
};
use libtest_mimic::{Arguments, Trial};
use ring::rand::SystemRandom;
use tempfile::TempDir;
use time::OffsetDateTime;
use zeroize::Zeroizing;

const PASSPHRASE: &str = "correct horse battery";
const IDENTITIES: [&str; 5] =
    ["berlin.acme.example", "vpn@acme.example", "203.0.113.9", "2001:db8::9", "C=DE, O=Acme, CN=berlin"];

fn main() -> ExitCode {
    let tests: [(&str, &[&str], fn()); 8] = [
        ("openssl_verifies_chains_and_crls", &["openssl"], openssl_chains),
        ("strongswan_verifies_chains_and_crls", &["pki"], strongswan_chains),
        ("gnutls_verifies_chains_and_crls", &["certtool"], gnutls_chains),
        ("encrypted_keys_open_in_all_tools", &["openssl", "pki", "certtool", "script"], encrypted_keys),
        ("keys_encrypted_by_openssl_and_gnutls_open_here", &["openssl", "certtool"], foreign_keys),
        ("requests_of_all_tools_are_signed", &["openssl", "pki", "certtool"], requests),
        ("weak_and_unknown_keys_in_requests_are_refused", &["openssl"], weak_requests),
        ("strongswan_finds_each_identity_in_its_certificate", &["pki"], identities),
    ];
    let trial = |(name, tools, test): (&str, &[&str], fn())| {
        let missing = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
        if let Some(missing) = missing {
            eprintln!("SKIPPED {name}: {missing} is missing (Debian: openssl, strongswan-pki, gnutls-bin)");
        }
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(missing.is_some())
    };
    libtest_mimic::run(&Arguments::from_args(), tests.map(trial).into()).exit_code()
}

/// An authority in a folder of its own, and a place for the tools' files.
struct World {
    directory: TempDir,
    pki: Pki,
    signer: SigningAuthority,
    passphrase: Passphrase,
}

impl World {
    fn new(issuing: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let passphrase = Passphrase::from_line(Zeroizing::new(PASSPHRASE.into())).unwrap();
        let protection = KeyProtection { passphrase: &passphrase, rounds: ROUNDS };
        let new = NewAuthority {
            name: "Acme VPN",
            root_days: 3652,
            issuing_days: issuing.then_some(1826),
            crl_days: 30,
            root_crl_days: 365,
            root_key: Some(protection),
            issuing_key: Some(protection),
            force: false,
        };
        let now = OffsetDateTime::now_utc();
        init(&directory.path().join("pki"), &new, now, &SystemRandom::new()).unwrap();
        let pki = Pki::change(&directory.path().join("pki"), Clock { now, trusted: false }).unwrap();
        let signer = pki.unlock(pki.signer(), Some(&passphrase)).unwrap();
        Self { directory, pki, signer, passphrase }
    }

    fn issue(&mut self, identity: &str) -> Record {
        self.pki.issue(&self.signer, &site(identity), None, &SystemRandom::new()).unwrap()
    }

    /// Returns the path of a file of the tools.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the path of a file of the authority.
    fn own(&self, name: &str) -> String {
        self.path("pki").join(name).display().to_string()
    }

    fn certificate(&self, record: &Record) -> String {
        self.pki.files(record).certificate.display().to_string()
    }

    /// Writes the chain of authorities, the root first, and returns its path.
    fn bundle(&self) -> String {
        let path = self.path("bundle.crt");
        let pem: String = self.pki.authorities().iter().map(|authority| authority.certificate.as_str()).collect();
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    }

    fn crls(&self) -> String {
        let path = self.path("all.crl");
        fs::write(&path, self.pki.crls()).unwrap();
        path.display().to_string()
    }

    fn revoke(&mut self, record: &Record) {
        let one = Selection::Serial(record.serial);
        self.pki.revoke(&self.signer, &one, Reason::KeyCompromise, 30).unwrap();
    }

    /// Runs a tool in the folder of its files.
    fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        Command::new(tool).args(arguments).current_dir(self.directory.path()).output().unwrap()
    }

    /// Runs a tool that has to succeed, and returns its output.
    fn succeed(&self, tool: &str, arguments: &[&str]) -> String {
        let output = self.run(tool, arguments);
        assert!(output.status.success(), "{tool} {arguments:?}: {}", text(&output));
        text(&output)
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn site(identity: &str) -> NewCertificate {
    let identity: Identity = identity.parse().unwrap();
    let name = Name::of(&identity).unwrap_or_else(|_| "dn".parse().unwrap());
    NewCertificate { kind: Kind::Site, identity, name, days: 365, force: false }
}

fn openssl_chains() {
    for issuing in [false, true] {
        let mut world = World::new(issuing);
        let records = IDENTITIES.map(|identity| world.issue(identity));
        world.revoke(&records[0]);
        let (bundle, crls) = (world.bundle(), world.crls());
        let check = ["verify", "-x509_strict", "-crl_check_all", "-purpose", "any", "-CAfile", &bundle, "-CRLfile", &crls];
        for record in &records[1..] {
            let certificate = world.certificate(record);
            world.succeed("openssl", &[&check[..], &[certificate.as_str()]].concat());
        }
        let certificate = world.certificate(&records[0]);
        let revoked = world.run("openssl", &[&check[..], &[certificate.as_str()]].concat());
        assert!(!revoked.status.success() && text(&revoked).contains("certificate revoked"), "{}", text(&revoked));
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
        assert!(shown.contains("NIST CURVE: P-384") && shown.contains("Certificate Sign, CRL Sign"), "{shown}");
    }
}

fn strongswan_chains() {
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
            assert!(shown.contains("certificate trusted") && shown.contains("certificate status is good"), "{shown}");
        }
        let revoked = world.run("pki", &[&check[..], &[&world.certificate(&records[0])]].concat());
        let shown = text(&revoked);
        assert!(!revoked.status.success() && shown.contains("revoked") && shown.contains("key compromise"), "{shown}");
        let other = World::new(issuing);
        let stranger = world.run("pki", &[
            "--verify",
            "--cacert",
            &other.own("root.crt"),
            "--in",
            &world.certificate(&records[1]),
        ]);
        assert!(!stranger.status.success(), "{}", text(&stranger));
    }
}

fn gnutls_chains() {
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
            world.run("certtool", &["--verify", "--load-ca-certificate", &root, "--load-crl", &crls, "--infile", &chain])
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

fn encrypted_keys() {
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
        // charon and swanctl use the same plugin, pkcs8.
        assert_eq!(strongswan_public(&world, &key), strongswan_public_of_certificate(&world, &certificate));
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

fn foreign_keys() {
    let world = World::new(false);
    let (key, pass) = (world.own("root.key"), format!("pass:{PASSPHRASE}"));
    let original = fs::read(&key).unwrap();
    let new = "another passphrase";
    for how in [&["-v2", "aes-256-cbc"][..], &["-scrypt"], &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"]] {
        fs::write(&key, &original).unwrap();
        let changed = world.path("changed.key").display().to_string();
        let first = ["pkey", "-in", &key, "-passin", &pass, "-out", "clear.key"];
        world.succeed("openssl", &first);
        let out = ["pkcs8", "-topk8", "-in", "clear.key", "-passout", "pass:another passphrase", "-out", &changed];
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

/// Signs the request in a file and checks with OpenSSL that the certificate has its key.
fn sign(world: &mut World, identity: &str, name: &str) {
    let request = Request::read(&fs::read(world.path(name)).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let new = NewCertificate { force: true, ..site(identity) };
    let record = world.pki.sign(&world.signer, &new, &request, &SystemRandom::new()).unwrap();
    let form = if name.ends_with(".der") { "DER" } else { "PEM" };
    let wanted = world.succeed("openssl", &["req", "-in", name, "-inform", form, "-noout", "-pubkey"]);
    let certificate = world.certificate(&record);
    assert_eq!(world.succeed("openssl", &["x509", "-in", &certificate, "-noout", "-pubkey"]), wanted, "{name}");
    let bundle = world.bundle();
    world.succeed("openssl", &["verify", "-x509_strict", "-purpose", "any", "-CAfile", &bundle, &certificate]);
}

fn requests() {
    let mut world = World::new(true);
    let san = "subjectAltName=DNS:berlin.acme.example,DNS:rome.globex.example";
    for (index, kind) in
        ["EC -pkeyopt ec_paramgen_curve:P-256", "EC -pkeyopt ec_paramgen_curve:P-384", "ED25519", "RSA -pkeyopt rsa_keygen_bits:2048"]
            .into_iter()
            .enumerate()
    {
        let (key, out) = (format!("{index}.pem"), format!("{index}.csr"));
        let generate: Vec<&str> = "genpkey -algorithm".split(' ').chain(kind.split(' ')).chain(["-out", &key]).collect();
        world.succeed("openssl", &generate);
        let ca = "basicConstraints=critical,CA:TRUE";
        let request = ["req", "-new", "-key", &key, "-subj", "/CN=x", "-addext", san, "-addext", ca, "-out", &out];
        world.succeed("openssl", &request);
        sign(&mut world, "berlin.acme.example", &out);
    }
    world.succeed("openssl", &["req", "-in", "0.csr", "-outform", "DER", "-out", "0.der"]);
    sign(&mut world, "berlin.acme.example", "0.der");
    let pki = [
        "--req", "--type", "priv", "--in", "1.pem", "--dn", "C=DE, O=Acme, CN=berlin", "--san", "berlin.acme.example",
        "--outform", "pem",
    ];
    fs::write(world.path("pki.csr"), world.succeed("pki", &pki)).unwrap();
    sign(&mut world, "berlin.acme.example", "pki.csr");
    // The distinguished name of strongSwan's request is the same as that of ours, whatever the encoding.
    let generate: Vec<&str> = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out dn.pem".split(' ').collect();
    world.succeed("openssl", &generate);
    let pki = ["--req", "--type", "priv", "--in", "dn.pem", "--dn", "C=DE, O=Acme, CN=berlin", "--outform", "pem"];
    fs::write(world.path("dn.csr"), world.succeed("pki", &pki)).unwrap();
    sign(&mut world, "C=DE, O=Acme, CN=berlin", "dn.csr");
    fs::write(world.path("template"), "cn = berlin.acme.example\ndns_name = berlin.acme.example\n").unwrap();
    let certtool =
        ["--generate-request", "--load-privkey", "2.pem", "--template", "template", "--outfile", "gnutls.csr"];
    world.succeed("certtool", &certtool);
    sign(&mut world, "berlin.acme.example", "gnutls.csr");
}

fn weak_requests() {
    let world = World::new(false);
    for (kind, digest, fault) in [
        ("RSA -pkeyopt rsa_keygen_bits:1024", "-sha256", "has a key of another kind"),
        ("RSA -pkeyopt rsa_keygen_bits:8192", "-sha256", "has a key of another kind"),
        ("RSA -pkeyopt rsa_keygen_bits:2048", "-sha1", "is signed in a way that is too old"),
        ("EC -pkeyopt ec_paramgen_curve:P-256", "-sha1", "is signed in a way that is too old"),
        ("EC -pkeyopt ec_paramgen_curve:secp256k1", "-sha256", "has a key of another kind"),
        ("EC -pkeyopt ec_paramgen_curve:P-521", "-sha384", "has a key of another kind"),
        ("ED448", "-sha256", "is signed in a way that is too old or not known"),
    ] {
        // A modulus of 8192 bits takes OpenSSL a minute.
        if kind.contains("8192") {
            continue;
        }
        let generate: Vec<&str> = "genpkey -algorithm".split(' ').chain(kind.split(' ')).chain(["-out", "weak.pem"]).collect();
        world.succeed("openssl", &generate);
        world.succeed("openssl", &["req", "-new", "-key", "weak.pem", "-subj", "/CN=a.example", digest, "-out", "weak.csr"]);
        let error = Request::read(&fs::read(world.path("weak.csr")).unwrap()).unwrap_err().to_string();
        assert!(error.contains(fault), "{kind} {digest}: {error}");
    }
}

fn identities() {
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
