//! `gatewayctl pki` as a process: the guide, passphrases, failures.
use std::{
    env, fs,
    io::{Read, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    pty::openpty,
    sys::termios::{LocalFlags, tcgetattr},
};
use tempfile::TempDir;

const GATEWAYCTL: &str = env!("CARGO_BIN_EXE_gatewayctl");
const PASSPHRASE: &str = "correct horse battery";
const GUIDE: &str = include_str!("../../docs/pki.md");
/// Needs a mount namespace: a full disk is a small tmpfs.
const FULL_DISK: &str = "
mount -t tmpfs -o size=200k,mode=0700 tmpfs disk
cd disk
\"$CTL\" pki init Acme --unencrypted >../out
dd if=/dev/zero of=fill bs=4k 2>../dd || true
\"$CTL\" pki issue site a.example >../out 2>../error && exit 1
[ ! -e pki/.new ] && [ -z \"$(ls pki/issued)\" ] && [ \"$(\"$CTL\" pki list --json | grep -c '\"kind\": \"site\"')\" = 0 ]
\"$CTL\" pki revoke 2>>../error && exit 1
\"$CTL\" pki revoke --publish published.crl 2>>../error && exit 1
[ ! -e published.crl ]
rm fill
\"$CTL\" pki issue site a.example >../out
\"$CTL\" pki show a.example >../out
";

/// A test: its name, the programs that it runs, its function.
type Test = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    let tests: [Test; 8] = [
        ("guide_runs_as_it_is_written", &["openssl"], guide),
        ("passphrase_is_asked_for_without_echo", &["setsid"], terminal),
        ("interrupted_question_leaves_the_echo_on", &["setsid"], interrupted),
        ("passphrase_comes_by_file_or_descriptor_and_never_as_an_argument", &[], passphrases),
        ("failures_are_one_line_and_status_1", &["openssl"], failures),
        ("identity_has_to_be_in_the_policies", &[], policies),
        ("copies_are_not_overwritten_without_force", &[], copies),
        ("full_disk_changes_nothing", &["unshare"], full_disk),
    ];
    let trial = |(name, tools, test): Test| {
        let absent = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
        let mut why = absent.map(|tool| format!("{tool} is missing"));
        if name == "full_disk_changes_nothing" && why.is_none() {
            let mount = ["--mount", "--map-root-user", "sh", "-c", "mount -t tmpfs none /mnt"];
            let can =
                Command::new("unshare").args(mount).output().is_ok_and(|output| output.status.success());
            why = (!can).then(|| "mounting in a namespace is not allowed here".to_owned());
        }
        if let Some(why) = &why {
            eprintln!("SKIPPED {name}: {why}");
        }
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(why.is_some())
    };
    libtest_mimic::run(&Arguments::from_args(), tests.map(trial).into()).exit_code()
}

/// A folder to work in, with a file `passphrase`.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        place.write("passphrase", PASSPHRASE);
        place
    }

    /// Makes an authority whose key is in the clear.
    fn with_authority() -> Self {
        let place = Self::new();
        place.succeed(&["init", "Acme", "--unencrypted"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(GATEWAYCTL);
        // Without a terminal, wherever the tests run.
        command.arg("pki").args(arguments).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the only line of a failure.
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.lines().count() == 1, "{arguments:?}: {error}");
        error.trim_end().to_owned()
    }
}

/// Runs every command of docs/pki.md in order.
fn guide() {
    let blocks: Vec<&str> =
        GUIDE.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() > 5, "{blocks:?}");
    let place = Place::new();
    let directory = Path::new(GATEWAYCTL).parent().unwrap().display();
    let path = format!("{directory}:{}", env::var("PATH").unwrap());
    let script = place.path("guide.sh");
    fs::write(&script, blocks.concat()).unwrap();
    let run =
        Command::new("sh").args(["-eux"]).arg(&script).env("PATH", path).current_dir(place.0.path()).output();
    let output = run.unwrap();
    let (shown, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    for expected in ["expires", "revoked", "-----BEGIN CERTIFICATE-----", "CRL number 4"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    for file in ["for-berlin/berlin.acme.example.key", "for-the-gateway/root.crt", "revoked.crl"] {
        let mode = place.path(file).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{file}");
    }
    // The passphrase of the issuing key is another one now.
    place.succeed(&["revoke", "--passphrase-file", "new-passphrase"]);
}

/// Runs a command on a terminal and answers its questions. Returns all that the terminal showed, and whether it echoes
/// afterwards.
fn on_terminal(place: &Place, arguments: &[&str], answers: &[&str]) -> (Option<i32>, String, bool) {
    let terminal = openpty(None, None).unwrap();
    let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", GATEWAYCTL, "pki"]).args(arguments).current_dir(place.0.path());
    let mut child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    // With no other end open here, reading fails once the command has ended, instead of waiting for ever.
    drop((command, terminal.slave));
    let mut master = fs::File::from(terminal.master);
    let mut shown = String::new();
    let mut read_until = |master: &mut fs::File, end: &str| {
        let mut bytes = [0; 4096];
        let mut seen = String::new();
        while !seen.ends_with(end) {
            let count = master.read(&mut bytes).unwrap();
            assert!(count > 0, "{seen}");
            seen += &String::from_utf8_lossy(&bytes[..count]);
        }
        shown += &seen;
    };
    for answer in answers {
        read_until(&mut master, ": ");
        master.write_all(answer.as_bytes()).unwrap();
    }
    let status = child.wait().unwrap();
    // All that it wrote is there, as the terminal has room for it, and then comes an error.
    let mut rest = Vec::new();
    let _ = master.read_to_end(&mut rest);
    shown += &String::from_utf8_lossy(&rest);
    let echoes = tcgetattr(master.as_fd()).unwrap().local_flags.contains(LocalFlags::ECHO | LocalFlags::ISIG);
    (status.code(), shown, echoes)
}

fn terminal() {
    let place = Place::new();
    // A correction: the erased letter and the erased line are no part of it.
    let typed = format!("nonsense\u{15}{PASSPHRASE}x\u{7f}\r");
    let twice = [typed.as_str(), typed.as_str()];
    let (status, shown, echoes) = on_terminal(&place, &["init", "Acme"], &twice);
    assert_eq!(status, Some(0), "{shown}");
    assert!(shown.contains("New passphrase for the key of root") && echoes, "{shown}");
    assert!(!shown.contains("correct") && !shown.contains("nonsense"), "{shown}");
    let (status, shown, echoes) = on_terminal(&place, &["revoke"], &[&format!("{PASSPHRASE}\n")]);
    assert_eq!(status, Some(0), "{shown}");
    assert!(
        shown.contains("Passphrase of pki/root.key: ") && !shown.contains("correct") && echoes,
        "{shown}"
    );
    let (status, shown, _) = on_terminal(&place, &["revoke"], &["wrong\r"]);
    assert!(status == Some(1) && shown.contains("wrong passphrase for pki/root.key"), "{shown}");
    let (status, shown, _) = on_terminal(&Place::new(), &["init", "Acme"], &[&typed, "something else\r"]);
    assert!(status == Some(1) && shown.contains("the two passphrases differ"), "{shown}");
    let (status, shown, _) = on_terminal(&Place::new(), &["init", "Acme"], &["short\r"]);
    assert!(status == Some(1) && shown.contains("too short"), "{shown}");
    place.succeed(&["revoke", "--passphrase-file", "passphrase"]);
}

fn interrupted() {
    let place = Place::new();
    let (status, shown, echoes) = on_terminal(&place, &["init", "Acme"], &["half a pass\u{3}"]);
    assert!(status == Some(1) && shown.contains("error: interrupted") && echoes, "{shown}");
    assert!(!place.path("pki").exists() && !shown.contains("half"), "{shown}");
}

fn passphrases() {
    let place = Place::new();
    place.succeed(&["init", "Acme", "--passphrase-file", "passphrase"]);
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("CTL", GATEWAYCTL).current_dir(place.0.path()).output().unwrap()
    };
    for script in [
        "\"$CTL\" pki revoke --passphrase-fd 0 <passphrase",
        "\"$CTL\" pki revoke --passphrase-fd 7 7<passphrase",
        "cat passphrase | \"$CTL\" pki revoke --passphrase-fd 0",
    ] {
        let output = shell(script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for (script, error) in [
        ("\"$CTL\" pki revoke --passphrase-fd 8", "descriptor 8: Bad file descriptor"),
        ("head -c 5000 /dev/zero | \"$CTL\" pki revoke --passphrase-fd 0", "4096 bytes or more"),
        ("\"$CTL\" pki revoke --passphrase-fd 0 </dev/null", "the passphrase is empty"),
    ] {
        let output = shell(script);
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && shown.contains(error), "{script}: {shown}");
    }
    for arguments in [
        ["revoke", "--passphrase", PASSPHRASE],
        ["init", "x", "--passphrase=x"],
        ["revoke", "--passphrase-fd", "-1"],
    ] {
        assert_eq!(place.run(&arguments).status.code(), Some(2), "{arguments:?}");
    }
    place.write("loose", PASSPHRASE);
    for mode in [0o644, 0o660, 0o602] {
        fs::set_permissions(place.path("loose"), fs::Permissions::from_mode(mode)).unwrap();
        let error = place.fail(&["revoke", "--passphrase-file", "loose"]);
        assert!(error.contains("others can read or change the passphrase in loose"), "{error}");
    }
    place.write("short", "short");
    let error = place.fail(&["init", "x", "--folder", "other", "--passphrase-file", "short"]);
    assert!(error.contains("too short for a new key") && !place.path("other").exists(), "{error}");
    let encrypted =
        ["issue", "site", "a.example", "--passphrase-file", "passphrase", "--key-passphrase-file", "key"];
    place.write("key", "the key's own passphrase");
    place.succeed(&encrypted);
    let error = place.fail(&[
        "renew",
        "a.example",
        "--passphrase-file",
        "passphrase",
        "--key-passphrase-file",
        "short",
    ]);
    assert!(error.contains("too short for a new key"), "{error}");
    place.succeed(&["renew", "a.example", "--passphrase-file", "passphrase", "--key-passphrase-file", "key"]);
    let shown = place.succeed(&["show", "a.example"]);
    assert!(shown.contains("key             encrypted"), "{shown}");
}

fn failures() {
    let place = Place::with_authority();
    place.write("not-a-request", "x");
    place.write("file", "x");
    std::os::unix::fs::symlink("pki", place.path("link")).unwrap();
    fs::create_dir(place.path("empty")).unwrap();
    fs::set_permissions(place.path("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    for (arguments, expected) in [
        (&["list", "--folder", "nowhere"][..], "open nowhere: No such file or directory"),
        (&["list", "--folder", "link"], "link is a symbolic link"),
        (&["list", "--folder", "file"], "file is not a folder"),
        (&["list", "--folder", "empty"], "empty/ holds no authority"),
        (&["init", "Acme", "--unencrypted"], "nothing is overwritten without --force"),
        (&["issue", "site", "O=Acme, CN=x"], "give a name with --name"),
        (&["sign", "site", "a.example", "not-a-request"], "not-a-request: the request has 0 PEM blocks"),
        (&["sign", "site", "a.example", "nothing"], "nothing does not exist"),
        (&["sign", "site", "a.example", "/dev/full"], "/dev/full is not a regular file"),
        (&["renew", "nobody"], "no certificate here is called \"nobody\""),
        (&["revoke", "nobody"], "no certificate here is called \"nobody\""),
        (&["revoke", "issuing"], "no certificate here is called \"issuing\""),
        (&["show", "nobody"], "no certificate here is called \"nobody\""),
        (&["revoke", "--publish", "file"], "file is not a CRL: it stays without --force"),
        (&["revoke", "--publish", "link/x/y"], "open link/x: No such file or directory"),
        (&["revoke", "--publish", "/dev/full"], "/dev/full is not a regular file"),
    ] {
        let error = place.fail(arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let usage = place.run(&["issue", "site", "*"]);
    assert_eq!(usage.status.code(), Some(2));
    fs::set_permissions(place.path("pki"), fs::Permissions::from_mode(0o755)).unwrap();
    let error = place.fail(&["list"]);
    assert!(error.contains("pki is open to others (mode 0755)"), "{error}");
}

fn policies() {
    let place = Place::with_authority();
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").display().to_string();
    place.succeed(&["issue", "gateway", "gateway.example", "--policy", &policies]);
    place.succeed(&["issue", "site", "london.wonka.example", "--policy", &policies]);
    for (kind, identity) in
        [("gateway", "london.wonka.example"), ("site", "gateway.example"), ("site", "x.example")]
    {
        let error = place.fail(&["issue", kind, identity, "--name", "x", "--policy", &policies]);
        assert!(error.contains(&format!("no {kind} in {policies} has the identity {identity}")), "{error}");
    }
    let error = place.fail(&["issue", "site", "x.example", "--policy", "."]);
    assert!(error.contains("run `gatewayd --check`"), "{error}");
}

fn copies() {
    let place = Place::with_authority();
    place.succeed(&["issue", "site", "a.example", "--out", "out"]);
    let first = fs::read(place.path("out/a.example.key")).unwrap();
    let error = place.fail(&["renew", "a.example", "--out", "out"]);
    assert!(error.contains("out/a.example.crt exists: nothing is overwritten without --force"), "{error}");
    assert_eq!(place.succeed(&["list", "--json"]).matches("\"name\": \"a.example\"").count(), 1);
    place.succeed(&["renew", "a.example", "--out", "out", "--force"]);
    assert_ne!(fs::read(place.path("out/a.example.key")).unwrap(), first);
    // The root's certificate is there already, and it is the same.
    place.succeed(&["issue", "site", "b.example", "--out", "out"]);
    fs::write(place.path("out/root.crt"), "another").unwrap();
    let error = place.fail(&["issue", "site", "c.example", "--out", "out"]);
    assert!(error.contains("out/root.crt exists and is another one"), "{error}");
    assert_eq!(fs::read_to_string(place.path("out/root.crt")).unwrap(), "another");
}

fn full_disk() {
    let place = Place::new();
    fs::create_dir(place.path("disk")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-eux", "-c", FULL_DISK]).env("CTL", GATEWAYCTL);
    let output = command.current_dir(place.0.path()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let errors = fs::read_to_string(place.path("error")).unwrap_or_default();
    assert!(output.status.success(), "{log}{errors}");
    assert_eq!(errors.lines().count(), 3, "{errors}");
    assert!(errors.lines().all(|line| line.contains("No space left on device")), "{errors}");
}
