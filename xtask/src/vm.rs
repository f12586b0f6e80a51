//! `cargo xtask vm`: runs a command in a virtual machine with Debian's kernel, whose IPsec is complete. The
//! guest sees this machine's files, at the same paths; what it writes it keeps to itself.
use std::{
    fs,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write},
    os::unix::net::UnixStream,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{
    signal::Signal,
    termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
};

use crate::{
    guest::Guest,
    kernel::{self, Kernel},
    project,
    signals::Signals,
    stream,
};

/// Emulation on a busy machine boots in 3 to 10 s.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How often to start a guest that dies while booting.
const BOOT_TRIES: u32 = 4;
/// KVM boots in 1 s or not at all.
const PROBE_LIMIT: Duration = Duration::from_secs(15);
/// For a command that was told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often signals are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What the guest gets.
#[derive(Clone, Debug, clap::Args)]
pub struct Machine {
    /// The guest's memory in MiB; files it writes live there too
    #[arg(long = "memory", value_name = "MIB", default_value_t = 3072, value_parser = clap::value_parser!(u32).range(512..))]
    pub memory_mib: u32,
    /// The guest's processors
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// QEMU's -accel, e.g. "tcg,thread=multi"; found out by a trial once a boot
    #[arg(long = "accel", value_name = "ACCELERATOR", default_value = "", hide_default_value = true)]
    pub accelerator: String,
    /// Count instructions: one emulated processor, on which an instruction takes 1 ns of the guest's clocks,
    /// and nothing is at a random address
    #[arg(long, conflicts_with_all = ["cpus", "accelerator"])]
    pub icount: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self { memory_mib: 3072, cpus: 2, accelerator: String::new(), icount: false }
    }
}

impl Machine {
    /// With what follows from counting instructions.
    fn resolved(&self) -> Self {
        match self.icount {
            false => self.clone(),
            true => Self { cpus: 1, accelerator: "tcg,thread=single".to_owned(), ..self.clone() },
        }
    }
}

/// Where the command's output goes.
pub enum Console<'a> {
    /// Both outputs of the command, as they come; it has no input.
    Output(&'a mut (dyn Write + Send)),
    /// The command gets a terminal in the guest, joined to our stdin and stdout.
    Terminal,
}

/// Runs a command in our working directory and returns its exit status. Set-up must have been done.
pub fn run(machine: &Machine, command: &[String], mut console: Console<'_>) -> Result<i32> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the virtual machine needs root, since it shows this machine's files to the guest: run this with sudo"
    );
    let kernel =
        kernel::installed().context("the guest's kernel is not there: run `cargo xtask setup --vm`")?;
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
                eprintln!("{error}\nThe command had not begun: trying again.");
            }
            result => return result,
        }
    }
}

/// The guest ended before it began the command. QEMU 7.2, emulating several processors, lets a kernel that
/// patches its own code die now and then ("Oops: int3").
#[derive(Debug)]
struct NotBooted(String);

impl std::fmt::Display for NotBooted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the virtual machine did not boot; its last words:\n{}", self.0)
    }
}

impl std::error::Error for NotBooted {}

/// Columns and rows of our terminal, or the usual ones.
pub fn terminal_size() -> (u16, u16) {
    terminal_size::terminal_size().map_or((80, 24), |(width, height)| (width.0, height.0))
}

enum Event {
    Started,
    /// The output has ended, with the status if the command did.
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
        // Ends both threads.
        let _ = guest.control.shutdown(std::net::Shutdown::Both);
        let _ = guest.output.shutdown(std::net::Shutdown::Both);
        result
    })
}

/// Until the command ends, the guest dies, or we are told to stop for the second time.
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
                None => bail!("the virtual machine died; its last words:\n{}", guest.last_words()),
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        while let Some(received) = signals.next() {
            match received.signal {
                Signal::SIGWINCH if terminal && started => {
                    let (columns, rows) = terminal_size();
                    writeln!(guest.control, "size {rows} {columns}")?;
                }
                Signal::SIGWINCH => {}
                signal if !started || asked_to_stop.is_some() => return Ok(128 + signal as i32),
                signal => {
                    asked_to_stop = Some((signal, Instant::now()));
                    writeln!(guest.control, "{}", signal.as_str().trim_start_matches("SIG"))?;
                    eprintln!("Told the command to stop; once more ends the virtual machine at once.");
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

/// Passes our stdin to the guest's terminal; the end of a pipe becomes Ctrl-D, again and again, since a
/// shell that is just starting loses one. The thread is not waited for: it hangs in `read` until the
/// process ends.
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

/// Our terminal in raw mode until dropped, so that every key goes to the guest.
struct Raw(Termios);

impl Raw {
    fn set() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let saved = tcgetattr(io::stdin()).ok()?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(saved))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// KVM if it really runs a guest: `/dev/kvm` may exist and still not (nested virtualisation). The answer is
/// kept until this machine boots again.
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
    eprintln!("Trying whether KVM runs a virtual machine here (at most {} s, once) …", PROBE_LIMIT.as_secs());
    let trial = Machine { accelerator: "kvm".to_owned(), ..machine.clone() };
    let works =
        supervise(&trial, kernel, &["true".to_owned()], &mut Console::Output(&mut io::sink()), PROBE_LIMIT);
    ensure!(!matches!(works, Ok(129..)), "interrupted");
    let accelerator = if matches!(works, Ok(0)) { "kvm" } else { EMULATION };
    fs::write(&cache, format!("{accelerator} {boot}"))?;
    Ok(accelerator.to_owned())
}
