//! `gatewayd --check`, which needs no root.
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use gateway_tests_kit::pki::{Authority, Validity, write_private, write_public};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

/// Writes a policy with one customer and its credentials.
fn policy() -> TempDir {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir_all(path("policies/customers")).unwrap();
    let pki = directory.path().display();
    let gateway = format!(
        "[interfaces]\ninternet = \"a\"\nlan = \"b\"\ncloud_lan = \"10.200.0.0/24\"\n[ipsec]\n\
         identity = \"gateway.example\"\ncertificate = \"{pki}/gateway.crt\"\nprivate_key = \"{pki}/gateway.key\"\n\
         authority = \"{pki}/ca.crt\"\n"
    );
    fs::write(path("policies/gateway.toml"), gateway).unwrap();
    let acme = "server = \"10.200.0.11\"\n[[site]]\nname = \"berlin\"\nidentity = \"berlin.acme.example\"\n\
                lan = [\"192.168.0.0/16\"]\n";
    fs::write(path("policies/customers/acme.toml"), acme).unwrap();
    let now = OffsetDateTime::now_utc();
    let validity = Validity { from: now - Duration::days(1), until: now + Duration::days(1) };
    let authority = Authority::new("test root", validity).unwrap();
    let issued = authority.issue("gateway.example", validity).unwrap();
    write_public(&path("ca.crt"), authority.certificate_pem()).unwrap();
    write_public(&path("gateway.crt"), &issued.certificate_pem).unwrap();
    write_private(&path("gateway.key"), &issued.key_pem).unwrap();
    directory
}

fn gatewayd(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewayd"));
    command.arg("--policy").arg(directory.join("policies")).args(arguments).output().unwrap()
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn check_reads_policies_and_credentials() {
    let directory = policy();
    let output = gatewayd(directory.path(), &["--check"]);
    assert_eq!(status(&output), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.lines();
    let first = lines.next().unwrap();
    assert!(first.ends_with("policies: no faults; 1 customers with 1 sites"), "{printed}");
    // `gatewayctl status` shows the same hash once the policies are in force.
    let hash = lines.next().and_then(|line| line.strip_prefix("SHA-256 ")).unwrap();
    assert!(hash.len() == 64 && lines.next().is_none(), "{printed}");
}

#[test]
fn check_reports_faults_of_customers_and_credentials_together() {
    let directory = policy();
    fs::remove_file(directory.path().join("gateway.key")).unwrap();
    fs::write(directory.path().join("policies/customers/a.TOML"), "").unwrap();
    let output = gatewayd(directory.path(), &["--check"]);
    let printed = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(status(&output), Some(2), "{printed}");
    assert!(printed.contains("/gateway.key: error: cannot read the gateway's private key"), "{printed}");
    assert!(printed.contains("/customers/a.TOML: error: `a.TOML` is not a policy"), "{printed}");
    assert!(printed.ends_with("2 faults in 2 files\n"), "{printed}");
}

#[test]
fn check_without_secrets_names_what_it_did_not_check() {
    let directory = policy();
    for file in ["gateway.key", "ca.crt"] {
        fs::remove_file(directory.path().join(file)).unwrap();
    }
    assert_eq!(status(&gatewayd(directory.path(), &["--check"])), Some(2));
    let output = gatewayd(directory.path(), &["--check", "--no-secrets"]);
    assert_eq!(status(&output), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    let unchecked = printed.lines().filter(|line| line.starts_with("not checked: "));
    assert_eq!(unchecked.count(), 2, "{printed}");
    assert!(printed.contains("/gateway.key\n") && printed.contains("/ca.crt\n"), "{printed}");
}

#[test]
fn start_without_secrets_is_refused() {
    let directory = policy();
    assert_eq!(status(&gatewayd(directory.path(), &["--no-secrets"])), Some(2));
}
