//! Questions on the terminal whose answers are not shown.
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Result, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

const MAX_BYTES: usize = 1024;
const END_OF_TEXT: u8 = 0x03;
const END_OF_TRANSMISSION: u8 = 0x04;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];
const ERASE_LINE: u8 = 0x15;

/// The terminal of this process, whatever its standard streams are.
pub struct Terminal(File);

/// A terminal without echo, until it is dropped.
struct Silent<'t> {
    terminal: &'t mut File,
    before: Termios,
}

impl Terminal {
    pub fn open() -> Result<Self> {
        let mut options = OpenOptions::new();
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        Ok(Self(options.read(true).write(true).custom_flags(flags).open("/dev/tty")?))
    }

    /// Asks for a line. Fails if the user presses Ctrl-C.
    pub fn ask(&mut self, question: &str) -> Result<Zeroizing<Vec<u8>>> {
        let silent = Silent::new(&mut self.0)?;
        silent.terminal.write_all(question.as_bytes())?;
        let answer = silent.line();
        silent.terminal.write_all(b"\n")?;
        answer
    }
}

impl<'t> Silent<'t> {
    fn new(terminal: &'t mut File) -> Result<Self> {
        let before = tcgetattr(&*terminal)?;
        let mut silent = before.clone();
        // Keys that send signals are read as bytes: nothing ends the process before the echo is back.
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        // Discard what was typed before the question: it is no answer.
        tcsetattr(&*terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }

    fn line(&self) -> Result<Zeroizing<Vec<u8>>> {
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        let mut terminal = &*self.terminal;
        loop {
            let mut byte = [0];
            ensure!(terminal.read(&mut byte)? == 1, "the terminal was closed");
            match byte[0] {
                b'\r' | b'\n' => return Ok(line),
                END_OF_TRANSMISSION if line.is_empty() => bail!("interrupted"),
                END_OF_TEXT => bail!("interrupted"),
                byte if BACKSPACE.contains(&byte) => {
                    // One character, which may have several bytes.
                    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                }
                ERASE_LINE => line.clear(),
                byte => {
                    ensure!(line.len() < MAX_BYTES, "the answer is too long");
                    line.push(byte);
                }
            }
        }
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // The process goes on either way.
        let _ = tcsetattr(&*self.terminal, OptionalActions::Flush, &self.before);
    }
}
