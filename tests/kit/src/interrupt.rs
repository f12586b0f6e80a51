//! Ctrl-C: ends the lab at once, or, while it stays up on purpose, lets it end in order.
use std::{process::exit, sync::mpsc::Receiver, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::mounts;

/// The shell's way to say "ended by SIGINT".
const INTERRUPTED: i32 = 130;

/// Resolves when the user wants the lab to end.
#[derive(Debug)]
pub struct Interrupt {
    signalled: Receiver<()>,
}

impl Interrupt {
    /// Takes SIGINT and SIGTERM from all threads started later. Until [`Interrupt::wait`] is called
    /// they end the process; its children die with it.
    pub fn install() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        // A rendezvous: sending fails unless somebody waits.
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

    /// Waits for the signal.
    pub fn wait(&self) -> Result<()> {
        self.signalled.recv().context("nobody listens for signals")
    }
}
