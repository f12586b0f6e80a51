//! The standard output of a command.
use std::io::{BufWriter, ErrorKind, Write};

use anyhow::{Context, Result};

/// Writes text. A reader that closes the pipe early, such as `head`, is no error: what follows goes nowhere.
pub struct Output<W: Write> {
    writer: BufWriter<W>,
    closed: bool,
}

impl<W: Write> Output<W> {
    /// Wraps the standard output.
    pub fn new(writer: W) -> Self {
        Self { writer: BufWriter::new(writer), closed: false }
    }

    /// Writes text.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.attempt(|writer| writer.write_all(text.as_bytes()))
    }

    /// Writes what is buffered. To be called at the end: an error would be lost otherwise.
    pub fn flush(&mut self) -> Result<()> {
        self.attempt(Write::flush)
    }

    /// Returns true if nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<W>) -> std::io::Result<()>) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match write(&mut self.writer) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            result => result.context("write the output"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Fails each write in this way.
    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn closed_pipe_is_remembered_and_no_error() {
        let mut output = Output::new(Broken(ErrorKind::BrokenPipe));
        output.write("a").unwrap();
        assert!(!output.is_closed());
        output.flush().unwrap();
        assert!(output.is_closed());
        output.write(&"b".repeat(100_000)).unwrap();
    }

    #[test]
    fn other_failures_are_errors() {
        let mut output = Output::new(Broken(ErrorKind::StorageFull));
        output.write("a").unwrap();
        let error = format!("{:#}", output.flush().unwrap_err());
        assert!(error.starts_with("write the output: "), "{error}");
    }
}
