//! Faults of one file before their lines are looked up.
//!
//! A file of 1 MiB can have more than 100,000 faults. Adding one costs a constant time, and only those that
//! are printed are located in the text, so finding all of them takes a time linear in the file's size.
use std::ops::Range;

use super::fault::{Fault, Invalid, Source};

/// Faults reported per file. A file with more needs more than line-by-line repair.
const MAX_FAULTS_PER_FILE: usize = 64;

/// A fault whose position is a range of bytes.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// `None` if the fault concerns the file as a whole.
    span: Option<Range<usize>>,
    invalid: Invalid,
    /// Another place that the message ends with.
    see: Option<(Source, Range<usize>)>,
}

impl Draft {
    /// Creates a fault of the file as a whole.
    pub fn of_file(invalid: Invalid) -> Self {
        Self { span: None, invalid, see: None }
    }

    /// Creates a fault at these bytes of the file.
    pub fn at(span: Range<usize>, invalid: Invalid) -> Self {
        Self { span: Some(span), invalid, see: None }
    }

    /// Appends a reference to another place to the message.
    pub fn see(self, source: &Source, span: Range<usize>) -> Self {
        Self { see: Some((source.clone(), span)), ..self }
    }

    /// Looks up the positions in the text of `source`.
    pub fn locate(self, source: &Source) -> Fault {
        let Self { span, mut invalid, see } = self;
        if let Some((other, span)) = see {
            invalid.message += &format!(", see {}", other.place(span));
        }
        match span {
            Some(span) => source.fault_at(span, invalid),
            None => source.fault(invalid.message, invalid.expected),
        }
    }

    fn start(&self) -> Option<usize> {
        self.span.as_ref().map(|span| span.start)
    }
}

/// The first faults of one file, and the number of the others.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    kept: Vec<Draft>,
    dropped: usize,
    /// The start of the last fault that is kept, once there are too many.
    last: Option<Option<usize>>,
}

impl Drafts {
    /// Adds a fault.
    pub fn push(&mut self, draft: Draft) {
        self.push_at(draft.start(), || draft);
    }

    /// Adds a fault at these bytes, and makes its message only if it may be among the first.
    pub fn push_with(&mut self, span: Range<usize>, invalid: impl FnOnce() -> Invalid) {
        self.push_at(Some(span.start), || Draft::at(span, invalid()));
    }

    fn push_at(&mut self, start: Option<usize>, draft: impl FnOnce() -> Draft) {
        if self.last.is_some_and(|last| start > last) {
            self.dropped += 1;
            return;
        }
        self.kept.push(draft());
        if self.kept.len() >= 2 * MAX_FAULTS_PER_FILE {
            self.prune();
        }
    }

    /// Sorts the faults by position and drops all but the first.
    fn prune(&mut self) {
        let key = |draft: &Draft| (draft.start(), draft.invalid.message.clone());
        self.kept.sort_by_cached_key(key);
        self.kept.dedup_by(|a, b| (&a.span, &a.invalid) == (&b.span, &b.invalid));
        if self.kept.len() > MAX_FAULTS_PER_FILE {
            self.dropped += self.kept.len() - MAX_FAULTS_PER_FILE;
            self.kept.truncate(MAX_FAULTS_PER_FILE);
            self.last = self.kept.last().map(Draft::start);
        }
    }

    /// Returns the first faults, located in the text of `source`, and one that counts the others.
    pub fn finish(mut self, source: &Source) -> Vec<Fault> {
        self.prune();
        let mut faults: Vec<Fault> = self.kept.into_iter().map(|draft| draft.locate(source)).collect();
        if self.dropped > 0 {
            let message = format!("{} more faults are not shown", self.dropped);
            faults.push(source.fault(message, "a policy file in TOML, see docs/policies.md"));
        }
        faults
    }
}
