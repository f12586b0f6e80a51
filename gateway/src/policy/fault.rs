//! Faults in policy files: position, message and expected value, printed as a compiler prints them.
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Faults printed of all files. An operator mends the first ones and checks again.
const MAX_FAULTS: usize = 256;
/// Characters printed of a source line.
const MAX_EXCERPT: usize = 100;
/// Characters printed of a value in a message.
const MAX_QUOTE: usize = 64;

/// A rejected value, without its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; expected {expected}")]
pub struct Invalid {
    /// The fault.
    pub message: String,
    /// A description of valid values.
    pub expected: String,
}

impl Invalid {
    pub(super) fn new(message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { message: message.into(), expected: expected.into() }
    }
}

/// A position in a file. Line and column count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One fault in a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file, below the directory as the caller named it.
    pub file: PathBuf,
    /// The fault's position; `None` if it concerns the file as a whole.
    pub position: Option<Position>,
    /// The fault.
    pub message: String,
    /// A description of valid values.
    pub expected: String,
    excerpt: Option<Excerpt>,
}

/// The part of the source line that is printed below the message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Excerpt {
    text: String,
    /// Characters before the mark.
    indent: usize,
    /// Characters marked, at least 1.
    width: usize,
}

impl Fault {
    /// Creates a fault of a file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Source { path: file.to_owned(), text: None }.fault(message, expected)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.file.display().to_string()))?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        writeln!(f, ": error: {}", self.message)?;
        if let (Some(Position { line, .. }), Some(excerpt)) = (self.position, &self.excerpt) {
            let Excerpt { text, indent, width } = excerpt;
            writeln!(f, "{line:>5} | {text}")?;
            writeln!(f, "      | {:indent$}{:^<width$}", "", "")?;
        }
        writeln!(f, "      expected: {}", self.expected)
    }
}

/// The first faults in order of file and position, and the number of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    first: BTreeSet<Fault>,
    /// Faults that are not among the first.
    more: usize,
    files: BTreeSet<PathBuf>,
}

impl Faults {
    /// Returns true if there is no fault.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Returns the number of faults, those that are not kept included.
    pub fn len(&self) -> usize {
        self.first.len() + self.more
    }

    /// Iterates over the first faults in order of file and position, at most 256.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.first.iter()
    }

    /// Returns true if any fault is in this file.
    pub fn has_fault_in(&self, file: &Path) -> bool {
        self.files.contains(file)
    }

    /// Returns one line for each of the first faults, and one that counts the others.
    pub fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("{} more faults", self.more));
        self.first.iter().map(ToString::to_string).chain(more).collect()
    }

    pub(super) fn insert(&mut self, fault: Fault) {
        if !self.files.contains(&fault.file) {
            self.files.insert(fault.file.clone());
        }
        self.first.insert(fault);
        if self.first.len() > MAX_FAULTS {
            self.first.pop_last();
            self.more += 1;
        }
    }
}

impl Extend<Fault> for Faults {
    fn extend<I: IntoIterator<Item = Fault>>(&mut self, faults: I) {
        faults.into_iter().for_each(|fault| self.insert(fault));
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.first {
            writeln!(f, "{fault}")?;
        }
        if self.more > 0 {
            writeln!(f, "{} more faults are not shown\n", self.more)?;
        }
        let (faults, files) = (self.len(), self.files.len());
        let s = |n| if n == 1 { "" } else { "s" };
        write!(f, "{faults} fault{} in {files} file{}", s(faults), s(files))
    }
}

impl std::error::Error for Faults {}

/// A policy file with its text.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub path: PathBuf,
    /// `None` for the last good version, whose text is no longer on disk.
    pub text: Option<Arc<str>>,
}

impl Source {
    /// Returns a fault of the file as a whole.
    pub fn fault(&self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault {
            file: self.path.clone(),
            position: None,
            message: message.into(),
            expected: expected.into(),
            excerpt: None,
        }
    }

    /// Returns a fault at the bytes `span` of the text.
    pub fn fault_at(&self, span: Range<usize>, invalid: Invalid) -> Fault {
        let fault = self.fault(invalid.message, invalid.expected);
        let Some(text) = &self.text else { return fault };
        let (position, excerpt) = locate(text, span);
        Fault { position: Some(position), excerpt: Some(excerpt), ..fault }
    }

    /// Returns `file:line:column`, or a substitute if the text is gone, for a reference from another fault.
    pub fn place(&self, span: Range<usize>) -> String {
        let path = printable(&self.path.display().to_string());
        match &self.text {
            Some(text) => {
                let (Position { line, column }, _) = locate(text, span);
                format!("{path}:{line}:{column}")
            }
            None => format!("the last good version of {path}"),
        }
    }
}

/// Quotes a value for a message: shortened, and harmless to a terminal.
pub(super) fn quote(value: &str) -> String {
    let shown: String = value.chars().take(MAX_QUOTE).collect();
    let dots = if shown.len() < value.len() { "…" } else { "" };
    format!("`{}{dots}`", printable(&shown))
}

/// Replaces control characters, which could drive the terminal or forge a log line.
fn printable(text: &str) -> String {
    let visible = |c: char| match c {
        '\t' => ' ',
        // Cf: bidirectional overrides and zero-width characters.
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
            '\u{fffd}'
        }
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(visible).collect()
}

/// Counts, for tests, the steps that cost more than a constant time: lookups of positions, which read the file up
/// to there, and checks of documents against one another.
pub(super) mod work {
    #[cfg(test)]
    thread_local! {
        static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// Adds to this thread's count.
    pub fn add(_steps: usize) {
        #[cfg(test)]
        DONE.set(DONE.get() + _steps);
    }

    /// Returns this thread's count and sets it to zero.
    #[cfg(test)]
    pub fn take() -> usize {
        DONE.take()
    }
}

/// Returns the position of `span` and the excerpt to print for it.
fn locate(text: &str, span: Range<usize>) -> (Position, Excerpt) {
    work::add(1);
    let start = text.floor_char_boundary(span.start);
    let end = text.floor_char_boundary(span.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let before = text[line_start..start].chars().count();
    let marked = text[start..end.min(line_end).max(start)].chars().count();
    let newlines = text.as_bytes()[..line_start].iter().filter(|byte| **byte == b'\n').count();
    let position = Position { line: newlines + 1, column: before + 1 };
    // Show a long line from shortly before the mark.
    let skip = if before > MAX_EXCERPT / 2 { before - MAX_EXCERPT / 4 } else { 0 };
    let shown: String = text[line_start..line_end].chars().skip(skip).take(MAX_EXCERPT).collect();
    let indent = before - skip;
    let width = marked.clamp(1, (MAX_EXCERPT - indent).max(1));
    (position, Excerpt { text: printable(&shown).trim_end().to_owned(), indent, width })
}
