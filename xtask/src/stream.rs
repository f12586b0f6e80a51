//! The guest's output: bytes that are passed on immediately, then a mark with the command's exit status.
use std::io::{self, Read, Write};

/// Copies until the end mark, `\0END STATUS\n`, and returns STATUS, or `None` if the stream ends without the
/// mark. Holds back only bytes that may be the beginning of the mark.
pub fn copy(mut from: impl Read, to: &mut dyn Write, end: &str) -> io::Result<Option<i32>> {
    let mark = format!("\0{end} ").into_bytes();
    let mut held = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // QEMU was killed before it read our requests.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        };
        held.extend_from_slice(&buffer[..count]);
        let (output, status) = split(&held, &mark);
        to.write_all(&held[..output])?;
        to.flush()?;
        held.drain(..output);
        if status.is_some() {
            return Ok(status);
        }
    }
    to.write_all(&held)?;
    to.flush()?;
    Ok(None)
}

/// Returns the number of bytes that are certainly output, and the status if the mark is complete.
fn split(bytes: &[u8], mark: &[u8]) -> (usize, Option<i32>) {
    for start in bytes.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(index, _)| index) {
        let rest = &bytes[start..];
        if let Some(number) = rest.strip_prefix(mark) {
            let line = number.iter().position(|byte| *byte == b'\n').map(|end| &number[..end]);
            let status = line.and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok());
            return (start, status);
        }
        if mark.starts_with(rest) {
            return (start, None);
        }
    }
    (bytes.len(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Yields one byte at a time.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            (buffer[0], self.0) = (*first, rest);
            Ok(1)
        }
    }

    fn copied(stream: &[u8]) -> (Vec<u8>, Option<i32>) {
        let (mut at_once, mut dripped) = (Vec::new(), Vec::new());
        let status = copy(stream, &mut at_once, "END").unwrap();
        assert_eq!(copy(Drip(stream), &mut dripped, "END").unwrap(), status);
        assert_eq!(at_once, dripped);
        (at_once, status)
    }

    #[test]
    fn status_after_the_mark_is_returned_and_not_shown() {
        assert_eq!(copied(b"a\nb\0END 7\n"), (b"a\nb".to_vec(), Some(7)));
        // A terminal in the guest turns \n into \r\n.
        assert_eq!(copied(b"\0END 130\r\n"), (Vec::new(), Some(130)));
    }

    #[test]
    fn bytes_like_the_mark_are_output() {
        assert_eq!(copied(b"\0\0EN\0END 0\n"), (b"\0\0EN".to_vec(), Some(0)));
    }

    #[test]
    fn stream_cut_short_has_no_status_and_loses_nothing() {
        assert_eq!(copied(b"abc\0EN"), (b"abc\0EN".to_vec(), None));
    }
}
