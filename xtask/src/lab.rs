//! `cargo xtask run`: the lab, natively if this machine's kernel has ESP, else in the virtual machine.
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    build,
    command::{cannot_start, command, find},
    machine::Machine,
    project, setup,
    setup::Needs,
    signals::Signals,
    stream,
    vm::{self, Console},
};

/// The choice of the kernel to run on.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Choice {
    /// Run in the virtual machine, even if this machine's kernel has ESP
    #[arg(long, conflicts_with = "native")]
    vm: bool,
    /// Run on this machine's kernel; fail if it lacks ESP
    #[arg(long)]
    native: bool,
}

/// The kernel that the lab runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This machine's; the lab is in namespaces.
    Native,
    /// The virtual machine's.
    Vm,
}

/// The use of the lab once it is up.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Then {
    /// Open a shell on the gateway while the lab is up
    #[arg(long, conflicts_with = "stay")]
    shell: bool,
    /// Keep the lab up until Ctrl-C
    #[arg(long)]
    stay: bool,
}

/// Sets up, builds, runs the lab and returns its exit status.
pub fn run(choice: Choice, then: Then, machine: &Machine) -> Result<i32> {
    let place = prepare(choice)?;
    let directory = build::lab()?;
    let mut lab = words(&directory, "run");
    lab.extend(then.shell.then(|| "--shell".to_owned()));
    lab.extend(then.stay.then(|| "--stay".to_owned()));
    match place {
        Place::Vm if then.shell => vm::run(machine, &lab, Console::Terminal),
        Place::Vm => vm::run(machine, &lab, Console::Output(&mut std::io::stdout())),
        Place::Native => native(&lab, None),
    }
}

/// Runs `lab test FILTER` in the given place and writes its output to `to`.
pub fn test(
    place: Place,
    filter: Option<&str>,
    machine: &Machine,
    to: &mut (dyn Write + Send),
) -> Result<i32> {
    let directory = build::lab()?;
    let mut lab = words(&directory, "test");
    lab.extend(filter.map(str::to_owned));
    match place {
        Place::Vm => vm::run(machine, &lab, Console::Output(to)),
        Place::Native => native(&lab, Some(to)),
    }
}

/// Sets up for the lab, decides where it runs, and tells the user.
pub fn prepare(choice: Choice) -> Result<Place> {
    let lab = Needs { lab: true, ..Needs::default() };
    // Probe the kernel before set-up if possible, so that set-up announces all missing items at once.
    let vm = choice.vm || (!choice.native && find("ip").is_some() && native_fault().is_some());
    setup::ensure(Needs { vm, ..lab })?;
    let (place, why) = match native_fault() {
        _ if choice.vm => (Place::Vm, "as you asked".to_owned()),
        Some(fault) if choice.native => bail!("the lab cannot run natively: {fault}"),
        None if choice.native => (Place::Native, "as you asked".to_owned()),
        Some(fault) => (Place::Vm, fault),
        None => (Place::Native, "we are root and this kernel has ESP".to_owned()),
    };
    match place {
        Place::Vm => eprintln!("The lab runs in a virtual machine: {why}."),
        Place::Native => eprintln!("The lab runs natively: {why}."),
    }
    setup::ensure(Needs { vm: place == Place::Vm, ..lab })?;
    Ok(place)
}

/// Returns the reason why the lab cannot run on this kernel, if there is one.
pub fn native_fault() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("we are not root".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if kernel_version(&release) < (6, 6) {
        return Some(format!("this kernel, Linux {}, is older than 6.6, which brought TCX", release.trim()));
    }
    // The probe runs in a network namespace that ends with it.
    let add = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel \
               aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128";
    let mut probe = command("unshare");
    probe.args(["--net", "sh", "-c", add]).stdin(Stdio::null());
    match probe.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let reason = stderr.trim().lines().last().unwrap_or("no reason given");
            Some(format!("this kernel has no ESP ({reason})"))
        }
        Err(error) => Some(format!("this kernel could not be probed for ESP ({error})")),
    }
}

/// Returns major and minor version, or (0, 0) if there is none.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.trim().parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Returns the lab's command line.
fn words(directory: &Path, verb: &str) -> Vec<String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let policies = path(&project::root().join("policies"));
    [
        path(&directory.join(project::LAB.program)).as_str(),
        verb,
        "--bin-dir",
        &path(directory),
        "--policy",
        &policies,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Runs the lab in mount and PID namespaces of its own, so that none of its processes and mounts outlives it, even
/// if it or xtask is killed.
fn native(lab: &[String], output: Option<&mut (dyn Write + Send)>) -> Result<i32> {
    let mut unshare = command("setpriv");
    unshare
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(lab);
    let mut signals = Signals::take()?;
    let Some(to) = output else {
        let mut child = unshare.spawn().with_context(|| cannot_start(&unshare))?;
        return watch(&mut child, &mut signals);
    };
    // The shell merges both outputs into one pipe.
    let mut joined = command("sh");
    joined.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(unshare.get_program()).args(unshare.get_args());
    joined.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = joined.spawn().with_context(|| cannot_start(&joined))?;
    let pipe = child.stdout.take().context("no pipe")?;
    thread::scope(|scope| {
        // The stream has no end mark and is copied to its end.
        let copying = scope.spawn(move || stream::copy(pipe, to, "no mark"));
        let status = watch(&mut child, &mut signals);
        copying.join().expect("copying does not panic").context("cannot pass on the output")?;
        status
    })
}

/// Waits for the lab and returns its exit status. Ctrl-C reaches the lab directly; signals sent to xtask alone are
/// passed on.
fn watch(child: &mut Child, signals: &mut Signals) -> Result<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        while let Some(received) = signals.next() {
            if !received.from_terminal && received.signal != Signal::SIGWINCH {
                let _ = kill(lab_of(child), received.signal);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the process below unshare, which itself ignores signals.
fn lab_of(unshare: &Child) -> Pid {
    let id = unshare.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let lab = children.split_whitespace().next().and_then(|child| child.parse().ok());
    Pid::from_raw(lab.unwrap_or(id as i32))
}

#[cfg(test)]
mod tests {
    use super::kernel_version;

    #[test]
    fn kernel_versions_compare_by_number() {
        assert_eq!(kernel_version("6.12.117+deb12-amd64\n"), (6, 12));
        assert_eq!(kernel_version("6.6-rc1"), (6, 6));
        assert!(kernel_version("5.15.0") < (6, 6));
        assert_eq!(kernel_version(""), (0, 0));
    }
}
