//! Regular files of bounded size.
//!
//! A policy or a credential may be named after anything: opening a FIFO waits for a writer, and opening some
//! devices changes them (a watchdog starts). So the file is looked at before it is opened.
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The reason why there is no content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// A directory, FIFO, device or socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// The file has more bytes than allowed.
    #[error("it is too large")]
    TooLarge,
    /// Opening or reading failed.
    #[error(transparent)]
    Io(io::Error),
}

impl Unread {
    /// Returns true if there is no file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads a regular file, or a link to one, of at most `max` bytes. Never waits for another process.
pub(crate) fn read_regular(path: &Path, max: u64) -> Result<(Vec<u8>, Metadata), Unread> {
    if !fs::metadata(path)?.is_file() {
        return Err(Unread::NotRegular);
    }
    // The name may be another file's meanwhile.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unread::NotRegular);
    }
    if metadata.len() > max {
        return Err(Unread::TooLarge);
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(Unread::TooLarge);
    }
    Ok((bytes, metadata))
}
