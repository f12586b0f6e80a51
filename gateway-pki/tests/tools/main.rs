//! Certificates, CRLs, requests and keys as tools judge them that are not ours: OpenSSL, strongSwan and GnuTLS.
mod chains;
mod keys;
mod requests;

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Output},
};

use gateway_pki::{
    Clock, Identity, KeyProtection, Kind, Name, NewAuthority, NewCertificate, Passphrase, Pki, ROUNDS,
    Reason, Record, Selection, SigningAuthority, init,
};
use libtest_mimic::{Arguments, Trial};
use ring::rand::SystemRandom;
use tempfile::TempDir;
use time::OffsetDateTime;
use zeroize::Zeroizing;

const PASSPHRASE: &str = "correct horse battery";

/// A test: its name, the programs that it runs, its function.
type Test = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    let tests: [Test; 8] = [
        ("openssl_verifies_chains_and_crls", &["openssl"], chains::openssl),
        ("strongswan_verifies_chains_and_crls", &["pki"], chains::strongswan),
        ("gnutls_verifies_chains_and_crls", &["certtool"], chains::gnutls),
        ("encrypted_keys_open_in_all_tools", &["openssl", "pki", "certtool", "script"], keys::encrypted),
        ("keys_encrypted_by_openssl_and_gnutls_open_here", &["openssl", "certtool"], keys::foreign),
        ("requests_of_all_tools_are_signed", &["openssl", "pki", "certtool"], requests::from_tools),
        ("weak_and_unknown_keys_in_requests_are_refused", &["openssl"], requests::weak),
        ("strongswan_finds_each_identity_in_its_certificate", &["pki"], chains::identities),
    ];
    let trial = |(name, tools, test): Test| {
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
        let pem: String =
            self.pki.authorities().iter().map(|authority| authority.certificate.as_str()).collect();
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
