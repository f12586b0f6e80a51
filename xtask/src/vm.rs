//! `cargo xtask vm`: runs a command in a virtual machine with Debian's kernel, whose IPsec is complete. The
//! guest sees this machine's files at the same paths and writes to its own memory only.
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write},
    os::unix::net::UnixStream,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{
    guest::Guest,
    kernel::{self, Kernel},
    machine::Machine,
    project,
    signals::Signals,
    stream,
    terminal::{self, Raw},
};

/// An emulated guest on a busy machine boots in 3 to 10 s.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How often a guest that dies while booting is started.
const BOOT_TRIES: u32 = 4;
/// KVM boots in 1 s or not at all.
const PROBE_LIMIT: Duration = Duration::from_secs(15);
/// How long a command may take to stop after a signal.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Interval between two polls for signals.
const TICK: Duration = Duration::from_millis(50);

/// The destination of the command's output.
pub enum Console<'a> {
    /// Receives stdout and stderr of the command, which has no input.
    Output(&'a mut (dyn Write + Send)),
    /// Gives the command a terminal in the guest, connected to our stdin and stdout.
    Terminal,
}

/// Runs a command in our working directory and returns its exit status.
///
/// # Errors
/// If set-up has not installed the virtual machine, we are not root, or the guest dies.
pub fn run(machine: &Machine, command: &[String], mut console: Console<'_>) -> Result<i32> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the virtual machine needs root to show this machine's files to the guest: run this with sudo"
    );
    let kernel =
        kernel::installed().context("the guest's kernel is not installed: run `cargo xtask setup --vm`")?;
    let mut machine = machine.resolved();
    if machine.accelerator.is_empty() {
        machine.accelerator = accelerator(&machine, &kernel)?;
    }
    eprintln!(
        "Virtual machine: Linux {}, {} processor{}, {} MiB, {}.",
        kernel.version,
        machine.cpus,
        if machine.cpus == 1 { "" } else { "s" },
        machine.memory_mib,
        match machine.accelerator.starts_with("kvm") {
            true => "KVM",
            false if machine.icount => "emulated, counting instructions",
            false => "emulated (KVM cannot be used here)",
        },
    );
    let mut tries_left = BOOT_TRIES;
    loop {
        tries_left -= 1;
        match supervise(&machine, &kernel, command, &mut console, BOOT_LIMIT) {
            Err(error) if error.is::<NotBooted>() && tries_left > 0 => {
                eprintln!("{error}\nThe command had not started; booting again.");
            }
            result => return result,
        }
    }
}

/// The guest ended before it started the command. Under QEMU 7.2 with several emulated processors, a kernel that
/// patches its own code sometimes dies ("Oops: int3").
#[derive(Debug)]
struct NotBooted(String);

impl std::fmt::Display for NotBooted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the virtual machine did not boot; the last lines of its logs:\n{}", self.0)
    }
}

impl std::error::Error for NotBooted {}

enum Event {
    Started,
    /// The output has ended; holds the exit status if the command has ended too.
    Ended(io::Result<Option<i32>>),
}

fn supervise(
    machine: &Machine,
    kernel: &Kernel,
    command: &[String],
    console: &mut Console<'_>,
    boot_limit: Duration,
) -> Result<i32> {
    let mut signals = Signals::take()?;
    let terminal = matches!(console, Console::Terminal);
    let mut guest = Guest::start(machine, kernel, command, terminal)?;
    let (events, inbox) = mpsc::channel();
    let _raw = if terminal { Raw::set() } else { None };

    thread::scope(|scope| {
        let control = guest.control.try_clone()?;
        let started = events.clone();
        scope.spawn(move || {
            let mut lines = BufReader::new(control).lines().map_while(Result::ok);
            if lines.any(|line| line.trim() == "started") {
                let _ = started.send(Event::Started);
            }
        });
        let (output, end) = (guest.output.try_clone()?, guest.end.clone());
        scope.spawn(move || {
            let ended = match console {
                Console::Output(to) => stream::copy(output, *to, &end),
                Console::Terminal => stream::copy(output, &mut io::stdout(), &end),
            };
            let _ = events.send(Event::Ended(ended));
        });
        let result = watch(&mut guest, &inbox, &mut signals, terminal, boot_limit);
        // Both threads end when their sockets do.
        let _ = guest.control.shutdown(std::net::Shutdown::Both);
        let _ = guest.output.shutdown(std::net::Shutdown::Both);
        result
    })
}

/// Waits until the command ends, the guest dies, or a second signal asks us to stop.
fn watch(
    guest: &mut Guest,
    inbox: &mpsc::Receiver<Event>,
    signals: &mut Signals,
    terminal: bool,
    boot_limit: Duration,
) -> Result<i32> {
    let begun = Instant::now();
    let mut started = false;
    let mut asked_to_stop: Option<(Signal, Instant)> = None;
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(Event::Started) => {
                started = true;
                if terminal {
                    feed(guest.output.try_clone()?);
                }
            }
            Ok(Event::Ended(status)) => match status.context("cannot pass on the output")? {
                Some(status) => return Ok(status),
                None if !started => return Err(NotBooted(guest.last_words()).into()),
                None => {
                    bail!("the virtual machine died; the last lines of its logs:\n{}", guest.last_words())
                }
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        while let Some(received) = signals.next() {
            match received.signal {
                Signal::SIGWINCH if terminal && started => {
                    let (columns, rows) = terminal::size();
                    writeln!(guest.control, "size {rows} {columns}")?;
                }
                Signal::SIGWINCH => {}
                signal if !started || asked_to_stop.is_some() => return Ok(128 + signal as i32),
                signal => {
                    asked_to_stop = Some((signal, Instant::now()));
                    writeln!(guest.control, "{}", signal.as_str().trim_start_matches("SIG"))?;
                    eprintln!(
                        "Asked the command to stop; interrupt again to end the virtual machine at once."
                    );
                }
            }
        }
        if let Some((signal, _)) = asked_to_stop.filter(|(_, when)| when.elapsed() > STOP_LIMIT) {
            return Ok(128 + signal as i32);
        }
        if !started && (begun.elapsed() > boot_limit || guest.is_dead()) {
            return Err(NotBooted(guest.last_words()).into());
        }
    }
}

/// Passes our stdin to the guest's terminal. At the end of a pipe it sends Ctrl-D repeatedly, since a shell that
/// is just starting loses one. Nobody joins the thread: it blocks in `read` until the process ends.
fn feed(mut to: UnixStream) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        while to.write_all(b"\x04").is_ok() {
            thread::sleep(Duration::from_millis(500));
        }
    });
}

/// Returns KVM if a trial guest runs on it: `/dev/kvm` may exist without working (nested virtualisation). The
/// answer is cached until this machine boots again.
fn accelerator(machine: &Machine, kernel: &Kernel) -> Result<String> {
    const EMULATION: &str = "tcg,thread=multi";
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(EMULATION.to_owned());
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let cache = project::tools().join("accelerator");
    if let Some((accelerator, of_boot)) = fs::read_to_string(&cache).unwrap_or_default().split_once(' ') {
        if of_boot == boot {
            return Ok(accelerator.to_owned());
        }
    }
    eprintln!("Testing whether KVM works here (once, at most {} s) …", PROBE_LIMIT.as_secs());
    let trial = Machine { accelerator: "kvm".to_owned(), ..machine.clone() };
    let works =
        supervise(&trial, kernel, &["true".to_owned()], &mut Console::Output(&mut io::sink()), PROBE_LIMIT);
    ensure!(!matches!(works, Ok(129..)), "interrupted");
    let accelerator = if matches!(works, Ok(0)) { "kvm" } else { EMULATION };
    fs::write(&cache, format!("{accelerator} {boot}"))?;
    Ok(accelerator.to_owned())
}
