//! Ctrl-C: ends the process at once, or in order while it waits for the signal.
use std::{process::exit, sync::mpsc::Receiver, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::mounts;

/// Exit status of a process that SIGINT ended, as shells report it.
const INTERRUPTED: i32 = 130;

/// The user's request to end.
#[derive(Debug)]
pub struct Interrupt {
    signalled: Receiver<()>,
}

impl Interrupt {
    /// Blocks SIGINT and SIGTERM in this thread and those started later, and handles them on a thread of its
    /// own. They end the process, and its children die with it, unless a thread is in [`Interrupt::wait`].
    pub fn install() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        // No buffer: sending fails unless a thread waits.
        let (sender, signalled) = std::sync::mpsc::sync_channel(0);
        thread::spawn(move || {
            while signals.wait().is_ok() {
                if sender.try_send(()).is_err() {
                    mounts::clean_up();
                    exit(INTERRUPTED);
                }
            }
        });
        Ok(Self { signalled })
    }

    /// Waits for a signal.
    pub fn wait(&self) -> Result<()> {
        self.signalled.recv().context("the thread that handles signals has ended")
    }
}
