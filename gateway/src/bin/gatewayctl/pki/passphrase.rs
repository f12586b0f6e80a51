//! Passphrases from a file, a descriptor or the terminal. No copy of them stays in memory.
use std::{
    fs::File,
    io::Read,
    os::{
        fd::{BorrowedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use gateway_pki::Passphrase;
use zeroize::Zeroizing;

use super::terminal::Terminal;

/// Most bytes that are read; a longer passphrase is refused.
const MAX_BYTES: usize = 4096;
/// Permission bits of everyone but owner and group, and the group's to write.
const OTHERS: u32 = 0o027;

/// The place that a passphrase comes from.
#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    Descriptor(RawFd),
    Terminal,
}

impl Source {
    pub fn new(file: Option<&Path>, descriptor: Option<RawFd>) -> Self {
        match (file, descriptor) {
            (Some(file), _) => Self::File(file.to_owned()),
            (None, Some(descriptor)) => Self::Descriptor(descriptor),
            (None, None) => Self::Terminal,
        }
    }

    /// Returns the passphrase of a key that exists.
    pub fn existing(&self, key: &Path) -> Result<Passphrase> {
        let line = match self {
            Self::File(path) => from_file(path)?,
            Self::Descriptor(descriptor) => from_descriptor(*descriptor)?,
            Self::Terminal => terminal()?.ask(&format!("Passphrase of {}: ", key.display()))?,
        };
        Ok(Passphrase::from_line(line)?)
    }

    /// Returns a passphrase for a new key; the terminal asks twice.
    pub fn new_key(&self, key: &str) -> Result<Passphrase> {
        let passphrase = match self {
            Self::File(_) | Self::Descriptor(_) => self.existing(Path::new(key))?,
            Self::Terminal => {
                let mut terminal = terminal()?;
                let first =
                    Passphrase::from_line(terminal.ask(&format!("New passphrase for the key of {key}: "))?)?;
                first.check_strength()?;
                let second = Passphrase::from_line(terminal.ask("The same again: ")?)?;
                ensure!(first == second, "the two passphrases differ");
                first
            }
        };
        passphrase.check_strength()?;
        Ok(passphrase)
    }
}

fn terminal() -> Result<Terminal> {
    Terminal::open().context("no terminal to ask for a passphrase: use --passphrase-file or --passphrase-fd")
}

fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let context = || format!("read the passphrase in {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    let mode = metadata.mode() & 0o7777;
    ensure!(
        !metadata.is_file() || mode & OTHERS == 0,
        "others can read or change the passphrase in {} (mode {mode:04o}): run `chmod 0600` on it",
        path.display()
    );
    let own = [0, nix::unistd::geteuid().as_raw()];
    ensure!(
        !metadata.is_file() || own.contains(&metadata.uid()),
        "the passphrase in {} belongs to another user, who knows it",
        path.display()
    );
    read(|buffer| file.read(buffer)).with_context(context)
}

fn from_descriptor(descriptor: RawFd) -> Result<Zeroizing<Vec<u8>>> {
    // SAFETY: it is not -1 (arguments.rs). Whoever called the command opened it for us, and nothing here closes it; if
    // it is not open, or not for reading, read fails.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    read(|buffer| Ok(rustix::io::read(borrowed, buffer)?))
        .with_context(|| format!("read the passphrase from descriptor {descriptor}"))
}

/// Reads until the end into memory that is never moved, so that no copy stays behind.
fn read(mut some: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(vec![0; MAX_BYTES]);
    let mut length = 0;
    while length < MAX_BYTES {
        match some(&mut line[length..]) {
            Ok(0) => {
                line.truncate(length);
                return Ok(line);
            }
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("it has {MAX_BYTES} bytes or more")
}
