//! The units in packaging/systemd, as systemd itself judges them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;

/// Relative to the package, in which cargo runs its tests.
const UNITS: &str = "../packaging/systemd";
const SERVICE: &str = "gatewayd.service";
const MOUNT: &str = "run-gateway-bpf.mount";
const DETACH: &str = "gateway-detach.service";
/// Highest exposure, in tenths, that `systemd-analyze security` may find: below 3.0.
const THRESHOLD: &str = "29";

fn main() -> std::process::ExitCode {
    let tests: [(&str, fn()); 4] = [
        ("units_have_no_key_that_systemd_does_not_know", verify),
        ("service_is_exposed_less_than_3", security),
        ("systemd_analyze_notices_a_worse_unit", worse),
        ("service_is_started_again_whatever_ended_it_but_status_2", restarts),
    ];
    let missing = Command::new("systemd-analyze").arg("--version").output().is_err();
    if missing {
        eprintln!("SKIPPED: systemd-analyze is missing (Debian: systemd)");
    }
    let trials = tests.map(|(name, test)| {
        let test = move || -> Result<(), Failed> {
            test();
            Ok(())
        };
        Trial::test(name, test).with_ignored_flag(missing)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// Copies the units with our binaries in the place of installed ones.
fn installed(change: impl Fn(String) -> String) -> TempDir {
    let folder = TempDir::new().unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_gatewayd")).parent().unwrap().display();
    for name in [SERVICE, MOUNT, DETACH] {
        let unit = fs::read_to_string(PathBuf::from(UNITS).join(name)).unwrap();
        let unit = change(unit.replace("/usr/sbin/gateway", &format!("{binaries}/gateway")));
        fs::write(folder.path().join(name), unit).unwrap();
    }
    folder
}

/// Returns if systemd-analyze found nothing, and what it printed.
fn analyze(folder: &TempDir, arguments: &[&str], units: &[&str]) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).args(units.iter().map(|unit| folder.path().join(unit)));
    // The colon at the end adds systemd's own folders.
    let path = format!("{}:", folder.path().display());
    let output = command.env("SYSTEMD_UNIT_PATH", path).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), printed + &String::from_utf8_lossy(&output.stderr))
}

fn verify() {
    let (good, printed) = analyze(&installed(|unit| unit), &["verify"], &[SERVICE, MOUNT, DETACH]);
    assert!(good && printed.is_empty(), "{printed}");
}

fn security() {
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold", THRESHOLD];
    let (good, printed) = analyze(&installed(|unit| unit), &arguments, &[SERVICE]);
    assert!(good, "{printed}");
}

/// Status 2 is left for what another attempt cannot overcome (tests/start.rs).
fn restarts() {
    let unit = fs::read_to_string(PathBuf::from(UNITS).join(SERVICE)).unwrap();
    let lines: Vec<&str> = unit.lines().filter(|line| line.starts_with("Restart")).collect();
    assert_eq!(lines, ["Restart=always", "RestartPreventExitStatus=2", "RestartSec=5s"]);
}

fn worse() {
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold", THRESHOLD];
    let open = installed(|unit| unit.replace("SystemCallFilter=", "#").replace("ProtectSystem=strict", ""));
    assert!(!analyze(&open, &arguments, &[SERVICE]).0);
    let misspelt = installed(|unit| unit.replace("WatchdogSec=", "WatchdogSecs="));
    let (_, printed) = analyze(&misspelt, &["verify"], &[SERVICE]);
    assert!(printed.contains("Unknown key"), "{printed}");
}
