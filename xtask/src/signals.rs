//! Signals as values, while xtask looks after something that it must not leave behind.
use std::{
    io,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use nix::sys::{
    signal::{SigHandler, SigSet, Signal, signal},
    signalfd::{SfdFlags, SignalFd},
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Returns true once any signal that asks us to stop has been received.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Blocks SIGINT, SIGTERM, SIGHUP and SIGWINCH while it lives and queues them here.
///
/// Children inherit a signal mask (Rust's standard library no longer resets it), so each command must be
/// created by `command::command`, which applies [`reset_in_child`].
pub struct Signals {
    mask: SigSet,
    queue: SignalFd,
}

/// A received signal.
pub struct Received {
    /// Its number.
    pub signal: Signal,
    /// True if the terminal sent it; our children in the foreground then have received it too.
    pub from_terminal: bool,
}

impl Signals {
    /// Starts queueing. Must be called before other threads are started, since they inherit the mask.
    pub fn take() -> Result<Self> {
        let mask = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH]);
        mask.thread_block()?;
        let queue = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { mask, queue })
    }

    /// Returns the next queued signal, without waiting.
    pub fn next(&mut self) -> Option<Received> {
        /// The kernel itself sent it (`si_code` in sigaction(2)).
        const SI_KERNEL: i32 = 0x80;
        let information = self.queue.read_signal().ok()??;
        let signal = Signal::try_from(information.ssi_signo as i32).ok()?;
        INTERRUPTED.fetch_or(signal != Signal::SIGWINCH, Ordering::Relaxed);
        Some(Received { signal, from_terminal: information.ssi_code == SI_KERNEL })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        while self.next().is_some() {}
        let _ = self.mask.thread_unblock();
    }
}

/// Makes the command start with no signal blocked and with default dispositions.
pub fn reset_in_child(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe functions may be called; sigaction and
    // pthread_sigmask are (signal-safety(7)), and `reset` allocates nothing.
    unsafe { command.pre_exec(reset) };
}

/// SIGHUP keeps its disposition: `nohup cargo xtask bench` ignores it, and its children shall too.
fn reset() -> io::Result<()> {
    for number in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE, Signal::SIGCHLD] {
        // SAFETY: no handler of ours is replaced; the default disposition runs no code of this process.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{command, output};

    /// A set of signals in /proc/PID/status: bit n - 1 stands for signal n.
    fn signals(status: &str, key: &str) -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn children_start_with_no_signal_blocked_or_ignored() {
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK).unwrap();
        // SAFETY: ignoring a signal runs no code; nobody sends SIGQUIT to the tests.
        unsafe { signal(Signal::SIGQUIT, SigHandler::SigIgn) }.unwrap();
        let inherited = Command::new("cat").arg("/proc/self/status").output();
        let ours = output(command("cat").arg("/proc/self/status"));
        // SAFETY: as above.
        unsafe { signal(Signal::SIGQUIT, SigHandler::SigDfl) }.unwrap();
        before.thread_set_mask().unwrap();

        let inherited = String::from_utf8(inherited.unwrap().stdout).unwrap();
        assert_ne!(signals(&inherited, "SigBlk"), 0, "without the reset a child inherits the mask");
        let ours = ours.unwrap();
        assert_eq!(signals(&ours, "SigBlk"), 0, "{ours}");
        let quit = 1 << (Signal::SIGQUIT as u64 - 1);
        assert_eq!(signals(&ours, "SigIgn") & quit, 0, "{ours}");
    }

    #[test]
    fn children_of_a_supervisor_can_be_interrupted() {
        let signals = Signals::take().unwrap();
        let status = command("sh").args(["-c", "kill -INT $$; kill -TERM $$; exit 7"]).status();
        drop(signals);
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.unwrap().signal(), Some(Signal::SIGINT as i32));
    }
}
