//! A place for a gatewayd: a network namespace with the policy's two interfaces, a folder with policies and credentials, and
//! a service manager's socket. The tests share a mount namespace that is not process 1's.
use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use gateway::kernel::pins::Pins;
use gateway_tests_kit::{
    pki::{Authority, Validity, write_private, write_public},
    process::{Process, ip, tail},
    test_run,
};
use libtest_mimic::{Arguments, Trial};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use time::OffsetDateTime;

/// Time limit of a wait, far above what gatewayd needs.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const GATEWAYD: &str = env!("CARGO_BIN_EXE_gatewayd");
const GATEWAYCTL: &str = env!("CARGO_BIN_EXE_gatewayctl");
/// The one customer's file of a new place.
pub const ACME: &str = "server = \"10.200.0.11\"\n[[site]]\nname = \"berlin\"\nidentity = \"berlin.acme.example\"\n\
                    lan = [\"192.168.0.0/16\"]\n";

pub type Test = fn(&Place) -> Result<()>;

/// Runs tests, each in a place of its own, but skips these.
pub fn run<const N: usize>(tests: [(&str, Test); N], skipped: &[&str]) -> ExitCode {
    let missing = test_run::prepare().and_then(|()| test_run::supported()).err();
    if let Some(missing) = &missing {
        eprintln!("SKIPPED: {missing:#}");
    }
    let trials = tests.map(|(name, test)| {
        let test = move || in_place(test).map_err(|error| format!("{error:#}").into());
        Trial::test(name, test).with_ignored_flag(missing.is_some() || skipped.contains(&name))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// A folder with policies and keys, and the service manager's socket.
pub struct Place {
    folder: TempDir,
    socket: UnixDatagram,
}

/// Runs a test in a thread with its own network namespace, which has the policy's two interfaces.
fn in_place(test: Test) -> Result<()> {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
        for (name, address) in [("internet", "203.0.113.1/24"), ("lan", "10.200.0.1/24")] {
            ip(&format!("link add {name} type veth peer name {name}_peer"))?;
            ip(&format!("addr add {address} dev {name}"))?;
            ip(&format!("link set {name} up"))?;
        }
        test(&Place::new()?)
    });
    thread.join().map_err(|_| anyhow!("the test panicked"))?
}

impl Place {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("policies/customers"))?;
        let pki = folder.path().display();
        let gateway = format!(
            "[interfaces]\ninternet = \"internet\"\nlan = \"lan\"\ncloud_lan = \"10.200.0.0/24\"\n[ipsec]\n\
             identity = \"gateway.example\"\ncertificate = \"{pki}/gateway.crt\"\n\
             private_key = \"{pki}/gateway.key\"\nauthority = \"{pki}/ca.crt\"\n\
             [limits]\ntunnels = 16\ncustomers = 16\nflows = 4096\n"
        );
        fs::write(path("policies/gateway.toml"), gateway)?;
        fs::write(path("policies/customers/acme.toml"), ACME)?;
        let now = OffsetDateTime::now_utc();
        let validity = Validity { from: now - time::Duration::days(1), until: now + time::Duration::days(1) };
        let authority = Authority::new("test root", validity)?;
        let issued = authority.issue("gateway.example", validity)?;
        write_public(&path("ca.crt"), authority.certificate_pem())?;
        write_public(&path("gateway.crt"), &issued.certificate_pem)?;
        write_private(&path("gateway.key"), &issued.key_pem)?;
        let socket = UnixDatagram::bind(path("notify"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { folder, socket })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pins(&self) -> Pins {
        Pins::new(self.path("bpf"))
    }

    /// Returns gatewayd's command with this state folder.
    pub fn gatewayd(&self, state: &str) -> Command {
        let mut command = Command::new(GATEWAYD);
        self.arguments(&mut command, state);
        command
    }

    /// Adds the arguments of a gatewayd with this state folder.
    pub fn arguments(&self, command: &mut Command, state: &str) {
        self.arguments_with(command, state, "bpf", Path::new("/nonexistent"));
    }

    /// Adds the arguments of a gatewayd with these folders and charon's socket.
    pub fn arguments_with(&self, command: &mut Command, state: &str, pins: &str, vici: &Path) {
        command
            .arg("--policy")
            .arg(self.path("policies"))
            .arg("--state")
            .arg(self.path(state))
            .arg("--pin")
            .arg(self.path(pins))
            .arg("--vici")
            .arg(vici)
            .env("NOTIFY_SOCKET", self.path("notify"));
    }

    /// Starts gatewayd on a bpffs that is mounted already, and waits until it is ready.
    pub fn start(&self) -> Result<Process> {
        self.start_command(self.gatewayd("state"))
    }

    /// Starts this gatewayd as [`start`](Self::start) does.
    pub fn start_command(&self, command: Command) -> Result<Process> {
        self.pins().prepare()?;
        self.forget_messages()?;
        let daemon = Process::start(command, &self.path("log"))?;
        self.wait_for("READY=1")?;
        Ok(daemon)
    }

    /// Takes the messages so far off the socket: gatewayd waits while it is full.
    pub fn forget_messages(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        Ok(self.socket.set_nonblocking(false)?)
    }

    /// Runs gatewayctl with these arguments, separated by spaces.
    pub fn gatewayctl(&self, arguments: &str) -> Result<Output> {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        Ok(self.gatewayctl_command(&arguments).output()?)
    }

    /// Returns gatewayctl's command with these arguments.
    pub fn gatewayctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(GATEWAYCTL);
        command.args(arguments).arg("--state").arg(self.path("state")).arg("--pin").arg(self.path("bpf"));
        command
    }

    /// Returns the next message.
    pub fn message(&self) -> Result<String> {
        let mut buffer = [0; 4096];
        let log = || format!("no message of gatewayd, whose log ends:\n{}", tail(&self.path("log")));
        let length = self.socket.recv(&mut buffer).with_context(log)?;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    }

    /// Returns the first message that has this line.
    pub fn wait_for(&self, line: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let message = self.message()?;
            if message.lines().any(|other| other == line) {
                return Ok(message);
            }
        }
        bail!("no message has the line {line}")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The mount namespace ends with this process.
        let _ = self.pins().remove();
    }
}
