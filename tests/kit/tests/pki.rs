//! Checks the kit's certificates and CRLs with strongSwan's own verifier.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};
use gateway_tests_kit::pki::{Authority, Revoked, Validity, serial_of, write_private, write_public};
use libtest_mimic::{Arguments, Trial};
use time::OffsetDateTime;

const SITE: &str = "berlin.acme.example";

fn main() -> std::process::ExitCode {
    let missing = !Path::new("/usr/bin/pki").exists();
    if missing {
        eprintln!("SKIPPED: /usr/bin/pki is absent (Debian: strongswan-pki)");
    }
    let test = || certificates_are_verified().map_err(|error| format!("{error:#}").into());
    let name = "certificates_are_accepted_and_revoked_by_strongswans_verifier";
    let trial = Trial::test(name, test).with_ignored_flag(missing);
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn certificates_are_verified() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("pki-test-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let outcome = verify_in(&directory);
    fs::remove_dir_all(&directory)?;
    outcome
}

fn verify_in(directory: &Path) -> Result<()> {
    let path = |name: &str| directory.join(name);
    let authority = Authority::new("test root", days(-10, 30))?;
    let other = Authority::new("test root", days(-10, 30))?;
    // Read back from its PEM files.
    let authority = Authority::from_pem(authority.certificate_pem(), &authority.key_pem())?;
    ensure!(Authority::from_pem(authority.certificate_pem(), &other.key_pem()).is_err());
    let good = authority.issue(SITE, days(-1, 1))?;
    let expired = authority.issue(SITE, days(-3, -2))?;
    let foreign = other.issue(SITE, days(-1, 1))?;
    ensure!(serial_of(&good.certificate_pem)? == good.serial);
    ensure!(Authority::from_pem(&good.certificate_pem, &good.key_pem).is_err());
    write_public(&path("ca"), authority.certificate_pem())?;
    write_private(&path("key"), &good.key_pem)?;
    ensure!(write_private(&path("key"), &good.key_pem).is_err(), "a key was overwritten");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(path("key"))?);
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let entry = Revoked { serial: good.serial.clone(), at: days(-1, 0).from };
    fs::write(path("empty-crl"), authority.revoke(&[], 1, days(-1, 1))?)?;
    fs::write(path("crl"), authority.revoke(&[entry], 2, days(-1, 1))?)?;
    let verify = |certificate: &str, crl: &str| -> Result<bool> {
        let (ca, file, crl) = (path("ca"), path("certificate"), path(crl));
        fs::write(&file, certificate)?;
        let mut pki = Command::new("pki");
        pki.arg("--verify").arg("--in").arg(file).arg("--cacert").arg(ca).arg("--crl").arg(crl);
        Ok(pki.output()?.status.success())
    };
    ensure!(verify(&good.certificate_pem, "empty-crl")?, "a good certificate is refused");
    ensure!(!verify(&good.certificate_pem, "crl")?, "a revoked certificate is accepted");
    ensure!(!verify(&expired.certificate_pem, "empty-crl")?, "an expired one is accepted");
    ensure!(!verify(&foreign.certificate_pem, "empty-crl")?, "another CA's is accepted");
    let san = Command::new("pki").arg("--print").arg("--in").arg(path("certificate")).output()?;
    let printed = String::from_utf8_lossy(&san.stdout).into_owned();
    ensure!(printed.contains(SITE), "{printed}");
    Ok(())
}

/// Returns the period between two numbers of days from now.
fn days(from: i64, until: i64) -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity { from: now + time::Duration::days(from), until: now + time::Duration::days(until) }
}
