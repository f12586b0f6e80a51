//! Our own terminal: its size, and raw mode.
use std::io::{self, IsTerminal as _};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Returns columns and rows of our terminal, or 80 and 24 without one.
pub fn size() -> (u16, u16) {
    terminal_size::terminal_size().map_or((80, 24), |(width, height)| (width.0, height.0))
}

/// Our terminal in raw mode until dropped, so that every key goes to the guest.
pub struct Raw(Termios);

impl Raw {
    /// Switches to raw mode; `None` if stdin is not a terminal.
    pub fn set() -> Option<Self> {
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
