//! Faults in policy files: position, message and expected value, printed as a compiler prints them.
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Faults reported per file. A file with more needs more than line-by-line repair.
const MAX_FAULTS_PER_FILE: usize = 64;
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

/// A set of faults, ordered by file and position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(BTreeSet<Fault>);

impl Faults {
    /// Returns true if there is no fault.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of faults.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Iterates in order of file and position.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// Returns true if any fault is in this file.
    pub fn has_fault_in(&self, file: &Path) -> bool {
        self.0.iter().any(|fault| fault.file == file)
    }

    pub(super) fn insert(&mut self, fault: Fault) {
        self.0.insert(fault);
    }
}

impl Extend<Fault> for Faults {
    fn extend<I: IntoIterator<Item = Fault>>(&mut self, faults: I) {
        self.0.extend(faults);
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(f, "{fault}")?;
        }
        let files: BTreeSet<&Path> = self.0.iter().map(|fault| fault.file.as_path()).collect();
        let (faults, files) = (self.0.len(), files.len());
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

/// Keeps the first faults of one file and adds one that counts the rest.
pub(super) fn bounded(source: &Source, mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort();
    faults.dedup();
    if faults.len() > MAX_FAULTS_PER_FILE {
        let more = faults.len() - MAX_FAULTS_PER_FILE;
        faults.truncate(MAX_FAULTS_PER_FILE);
        faults.push(source.fault(
            format!("{more} more faults are not shown"),
            "a policy file in TOML, see docs/policies.md",
        ));
    }
    faults
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

/// Returns the position of `span` and the excerpt to print for it.
fn locate(text: &str, span: Range<usize>) -> (Position, Excerpt) {
    let start = text.floor_char_boundary(span.start);
    let end = text.floor_char_boundary(span.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let before = text[line_start..start].chars().count();
    let marked = text[start..end.min(line_end).max(start)].chars().count();
    let position = Position { line: text[..line_start].matches('\n').count() + 1, column: before + 1 };
    // Show a long line from shortly before the mark.
    let skip = if before > MAX_EXCERPT / 2 { before - MAX_EXCERPT / 4 } else { 0 };
    let shown: String = text[line_start..line_end].chars().skip(skip).take(MAX_EXCERPT).collect();
    let indent = before - skip;
    let width = marked.clamp(1, (MAX_EXCERPT - indent).max(1));
    (position, Excerpt { text: printable(&shown).trim_end().to_owned(), indent, width })
}
