//! Certificates and keys that must not be used.
use std::fs;
use std::os::unix::fs::PermissionsExt;

use gateway_tests_kit::pki::{Authority, Issued, Validity};
use time::{Duration, OffsetDateTime};

use super::Dir;
use crate::policy::{CredentialCheck, Faults, Gateway, check_certificates, read_credentials};

/// The identity in the template of `gateway.toml`.
const IDENTITY: &str = "gateway.example";

/// A policy whose credentials are in the policy directory.
struct Pki {
    dir: Dir,
    gateway: Gateway,
    authority: Authority,
    issued: Issued,
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

/// Returns the period between two numbers of days from now.
fn days(from: i64, until: i64) -> Validity {
    Validity { from: now() + Duration::days(from), until: now() + Duration::days(until) }
}

impl Pki {
    /// Creates credentials without a fault.
    fn new() -> Self {
        let dir = Dir::new();
        let mut gateway = dir.load().unwrap().gateway;
        gateway.ipsec.certificate = dir.path("gateway.crt");
        gateway.ipsec.private_key = dir.path("gateway.key");
        gateway.ipsec.authority = dir.path("ca.crt");
        let authority = Authority::new("test root", days(-10, 10)).unwrap();
        let issued = authority.issue(IDENTITY, days(-10, 10)).unwrap();
        let pki = Self { dir, gateway, authority, issued };
        pki.dir.write("ca.crt", pki.authority.certificate_pem());
        pki.dir.write("gateway.crt", &pki.issued.certificate_pem);
        pki.key(&pki.issued.key_pem);
        pki
    }

    fn key(&self, text: impl AsRef<[u8]>) -> &Self {
        self.dir.write("gateway.key", text);
        self.mode(0o600)
    }

    fn mode(&self, mode: u32) -> &Self {
        fs::set_permissions(self.dir.path("gateway.key"), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn certificate(&self, text: impl AsRef<[u8]>) -> &Self {
        self.dir.write("gateway.crt", text);
        self
    }

    fn authority(&self, text: impl AsRef<[u8]>) -> &Self {
        self.dir.write("ca.crt", text);
        self
    }

    fn check(&self) -> CredentialCheck {
        read_credentials(&self.gateway, now())
    }

    /// Returns the faults, which must keep the credentials from being used.
    fn faults(&self) -> Vec<String> {
        let CredentialCheck { credentials, faults } = self.check();
        assert!(credentials.is_none());
        self.dir.short(&faults)
    }
}

#[test]
fn good_credentials_have_no_fault() {
    let pki = Pki::new();
    let CredentialCheck { credentials, faults } = pki.check();
    assert_eq!(pki.dir.short(&faults), [] as [&str; 0]);
    let credentials = credentials.unwrap();
    assert_eq!(credentials.certificate, pki.issued.certificate_pem.as_bytes());
    assert_eq!(credentials.private_key, pki.issued.key_pem.as_bytes());
    assert_eq!(credentials.authority, pki.authority.certificate_pem().as_bytes());
    // Text before a block, such as `openssl x509 -text` writes, does no harm.
    let text = format!("Certificate:\n    Data:\n{}", pki.issued.certificate_pem);
    assert!(pki.certificate(text.replace('\n', "\r\n")).check().faults.is_empty());
}

#[test]
fn secrets_must_exist_and_the_key_must_be_private() {
    let pki = Pki::new();
    pki.mode(0o644).dir.remove("ca.crt");
    let expected = [
        "ca.crt: cannot read the certificate authority's certificate: No such file or directory (os error 2)",
        "gateway.key: the gateway's private key is accessible to other users: its mode is 0644",
    ];
    assert_eq!(pki.faults(), expected);
}

#[test]
fn broken_pem_is_a_fault() {
    let pki = Pki::new();
    let pem = &pki.issued.certificate_pem;
    let end = pem.find("-----END").unwrap();
    let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
    let mut cut = pem.clone();
    cut.replace_range(end - 5..end - 1, "");
    for (text, message) in [
        (b"".to_vec(), "is an empty file"),
        (b"certificate\n".to_vec(), "has no PEM block"),
        (der, "is in DER, not in PEM"),
        (pem[..end].into(), "is broken: a PEM block has no end"),
        (pem.replacen("MI", "M!", 1).into(), "is broken: a PEM block is not base64"),
        (cut.into(), "cannot be parsed"),
        (pki.issued.key_pem.clone().into(), "is a `PRIVATE KEY`"),
    ] {
        let faults = pki.certificate(text).faults();
        assert_eq!(faults, [format!("gateway.crt: the gateway's certificate {message}")]);
    }
}

#[test]
fn key_of_another_certificate_is_a_fault() {
    let pki = Pki::new();
    let other = pki.authority.issue(IDENTITY, days(-10, 10)).unwrap();
    let fault = "gateway.key: the gateway's private key is not the key of the gateway's certificate";
    assert_eq!(pki.key(&other.key_pem).faults(), [fault]);
    // P-384, while the certificate's is P-256.
    assert_eq!(pki.key(pki.authority.key_pem()).faults(), [fault]);
}

#[test]
fn unusable_key_files_are_faults() {
    let pki = Pki::new();
    let key = pki.issued.key_pem.clone();
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    for (text, message) in [
        (
            format!("{parameters}{key}"),
            "has 2 PEM blocks (`EC PARAMETERS`, `PRIVATE KEY`), and charon reads only the first one",
        ),
        (key.replace("PRIVATE", "ENCRYPTED PRIVATE"), "is encrypted"),
        (key.replace("-----\nM", "-----\nProc-Type: 4,ENCRYPTED\n\nM"), "is encrypted"),
        (key.replace("PRIVATE", "PUBLIC"), "is a `PUBLIC KEY`"),
        (key.replace("PRIVATE", "RSA PRIVATE"), "cannot be used: InvalidEncoding"),
        (key.replace("PRIVATE", "EC PRIVATE"), "cannot be parsed"),
    ] {
        assert_eq!(pki.key(text).faults(), [format!("gateway.key: the gateway's private key {message}")]);
    }
}

#[test]
fn certificate_outside_its_period_is_a_fault_and_still_usable() {
    let pki = Pki::new();
    for (validity, message) in [
        (days(-3, -1), "gateway.crt: the gateway's certificate expired on 2027-01-14 08:00:00 UTC"),
        (days(1, 3), "gateway.crt: the gateway's certificate is not valid before 2027-01-16 08:00:00 UTC"),
    ] {
        let issued = pki.authority.issue(IDENTITY, validity).unwrap();
        let CredentialCheck { credentials, faults } =
            pki.certificate(&issued.certificate_pem).key(&issued.key_pem).check();
        assert_eq!(pki.dir.short(&faults), [message]);
        assert!(credentials.is_some(), "charon may use it for tunnels that are up");
    }
    let pki = Pki::new();
    let authority = Authority::new("test root", days(-3, -1)).unwrap();
    let faults = pki.authority(authority.certificate_pem()).check().faults;
    let expected = "ca.crt: the certificate authority's certificate expired on 2027-01-14 08:00:00 UTC";
    assert_eq!(pki.dir.short(&faults), [expected]);
}

#[test]
fn first_and_last_second_of_a_certificate_are_valid() {
    let pki = Pki::new();
    for (validity, faults) in [(days(0, 1), 0), (days(-1, 0), 0)] {
        let issued = pki.authority.issue(IDENTITY, validity).unwrap();
        assert_eq!(
            pki.certificate(&issued.certificate_pem).key(&issued.key_pem).check().faults.len(),
            faults
        );
    }
}

#[test]
fn certificate_without_the_identity_is_a_fault() {
    let pki = Pki::new();
    let issued = pki.authority.issue("berlin.acme.example", days(-10, 10)).unwrap();
    let faults = pki.certificate(&issued.certificate_pem).key(&issued.key_pem).check().faults;
    let expected =
        "gateway.crt: the gateway's certificate is not the identity's: its DNS names are berlin.acme.example";
    assert_eq!(pki.dir.short(&faults), [expected]);
    assert_eq!(faults.iter().next().unwrap().expected, "a subject alternative name `DNS:gateway.example`");
    // An authority has no subject alternative name.
    let faults = pki.certificate(pki.authority.certificate_pem()).key(pki.authority.key_pem()).faults();
    assert_eq!(
        faults,
        ["gateway.crt: the gateway's certificate is not the identity's: its DNS names are none"]
    );
}

#[test]
fn bundle_of_two_certificates_is_a_fault() {
    let pki = Pki::new();
    let (own, root) = (&pki.issued.certificate_pem, pki.authority.certificate_pem());
    let message = "has 2 PEM blocks, and charon reads only the first one";
    let faults = pki.certificate(format!("{own}{root}")).authority(format!("{root}{root}")).faults();
    let expected = [
        format!("ca.crt: the certificate authority's certificate {message}"),
        format!("gateway.crt: the gateway's certificate {message}"),
    ];
    assert_eq!(faults, expected);
}

#[test]
fn authority_without_its_flag_is_a_fault() {
    let pki = Pki::new();
    let faults = pki.authority(&pki.issued.certificate_pem).faults();
    let expected =
        "ca.crt: the certificate authority's certificate is no authority's: its CA flag is not set";
    assert_eq!(faults, [expected]);
}

#[test]
fn fifo_directory_and_large_file_as_credentials_do_not_hang() {
    let pki = Pki::new();
    pki.dir.remove("gateway.crt").remove("ca.crt");
    nix::unistd::mkfifo(&pki.dir.path("gateway.crt"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(pki.dir.path("ca.crt")).unwrap();
    let expected = [
        "ca.crt: the certificate authority's certificate is not a regular file",
        "gateway.crt: the gateway's certificate is not a regular file",
        "gateway.key: the gateway's private key is larger than 65535 bytes",
    ];
    assert_eq!(pki.key(vec![b'x'; 65_536]).faults(), expected);
}

#[test]
fn device_as_certificate_does_not_hang() {
    let mut pki = Pki::new();
    pki.gateway.ipsec.certificate = "/dev/zero".into();
    assert_eq!(pki.faults(), ["/dev/zero: the gateway's certificate is not a regular file"]);
}

#[test]
fn check_without_secrets_never_opens_the_key() {
    let pki = Pki::new();
    let short = |(faults, unchecked): (Faults, Vec<_>)| (pki.dir.short(&faults), unchecked);
    let (key, certificate) = (pki.dir.path("gateway.key"), pki.dir.path("gateway.crt"));
    pki.dir.remove("gateway.key");
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(short(check_certificates(&pki.gateway, now())), (vec![], vec![key.clone()]));
    pki.authority(&pki.issued.certificate_pem);
    assert_eq!(check_certificates(&pki.gateway, now()).0.len(), 1);
    pki.authority(pki.authority.certificate_pem()).dir.remove("gateway.crt");
    assert_eq!(short(check_certificates(&pki.gateway, now())), (vec![], vec![key, certificate]));
}
