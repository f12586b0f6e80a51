//! Ctrl-C: ends the lab at once, or, while it stays up on purpose, lets it end in order.
use std::{process::exit, sync::mpsc::Receiver, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::mounts;

/// Exit status by which shells report an end by SIGINT.
const INTERRUPTED: i32 = 130;

/// Resolves when the user wants the lab to end.
#[derive(Debug)]
pub struct Interrupt {
    signalled: Receiver<()>,
}

impl Interrupt {
    /// Handles SIGINT and SIGTERM. Until [`Interrupt::wait`] is called they end the process; its children die
    /// with it.
    ///
    /// Handlers instead of a blocked mask: children would inherit the mask, whereas execve(2) resets handlers, so
    /// that the lab's shell and its programs can be interrupted.
    pub fn install() -> Result<Self> {
        // The process that started us may have left them blocked.
        SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]).thread_unblock()?;
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        // A rendezvous: sending fails unless `wait` is waiting.
        let (sender, signalled) = std::sync::mpsc::sync_channel(0);
        thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if sender.try_send(()).is_err() {
                        mounts::clean_up();
                        exit(INTERRUPTED);
                    }
                }
            });
        });
        Ok(Self { signalled })
    }

    /// Waits for the signal.
    pub fn wait(&self) -> Result<()> {
        self.signalled.recv().context("nobody listens for signals")
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;

    #[test]
    fn children_start_with_no_signal_blocked_and_can_be_interrupted() {
        SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]).thread_block().unwrap();
        let _interrupt = Interrupt::install().unwrap();
        let child = |words: &[&str]| Command::new(words[0]).args(&words[1..]).output().unwrap();
        let status = String::from_utf8(child(&["cat", "/proc/self/status"]).stdout).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        assert_eq!(u64::from_str_radix(blocked.trim(), 16), Ok(0), "{status}");
        let killed = child(&["sh", "-c", "kill -INT $$; exit 7"]).status;
        assert_eq!(killed.signal(), Some(Signal::SIGINT as i32));
    }
}
