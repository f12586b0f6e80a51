//! Signals as values, for the time in which we look after something that must not be left behind.
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

static TOLD_TO_STOP: AtomicBool = AtomicBool::new(false);

/// Whether a signal that means so has ever been received: what comes next is not wanted any more.
pub fn told_to_stop() -> bool {
    TOLD_TO_STOP.load(Ordering::Relaxed)
}

/// While it lives, SIGINT, SIGTERM, SIGHUP and SIGWINCH do nothing but wait here. Children are born without
/// this mask: the standard library resets it.
pub struct Signals {
    mask: SigSet,
    queue: SignalFd,
}

/// One that came.
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// From the terminal, so that our children in the foreground have got it too.
    pub from_terminal: bool,
}

impl Signals {
    /// Takes them; call it before other threads are started.
    pub fn take() -> Result<Self> {
        let mask = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH]);
        mask.thread_block()?;
        let queue = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { mask, queue })
    }

    /// The next that has come, without waiting.
    pub fn next(&mut self) -> Option<Received> {
        /// The kernel itself sent it (`si_code` in sigaction(2)).
        const SI_KERNEL: i32 = 0x80;
        let information = self.queue.read_signal().ok()??;
        let signal = Signal::try_from(information.ssi_signo as i32).ok()?;
        TOLD_TO_STOP.fetch_or(signal != Signal::SIGWINCH, Ordering::Relaxed);
        Some(Received { signal, from_terminal: information.ssi_code == SI_KERNEL })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        while self.next().is_some() {}
        let _ = self.mask.thread_unblock();
    }
}
