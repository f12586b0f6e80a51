//! The lab's printed report: one line a check, marked with a tick or a cross.
use std::{
    fmt::Display,
    io::{IsTerminal, Write, stdout},
    time::Instant,
};

/// Prints aligned lines as things happen; in colour on a terminal or if CLICOLOR_FORCE is set.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    colour: bool,
    start: Instant,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

impl Report {
    /// Starts a report and its clock.
    #[expect(clippy::new_without_default, reason = "it reads the clock and the environment")]
    pub fn new() -> Self {
        let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0");
        Self { colour: forced || stdout().is_terminal(), start: Instant::now() }
    }

    /// Prints a section's title and the time since the start.
    pub fn section(&self, title: &str) {
        let time = format!("{:.1} s", self.start.elapsed().as_secs_f32());
        self.print(&format!("\n{}  {}", self.paint(BOLD, title), self.paint(DIM, &time)));
    }

    /// Prints the result of one check, in columns of (text, width).
    pub fn check(&self, held: bool, columns: &[(&dyn Display, usize)]) {
        let sign = if held { self.paint(GREEN, "✓") } else { self.paint(RED, "✗") };
        self.print(&format!("  {sign} {}", aligned(columns)));
    }

    /// Prints a table's head, aligned with [`Report::check`].
    pub fn head(&self, columns: &[(&dyn Display, usize)]) {
        self.print(&self.paint(DIM, &format!("    {}", aligned(columns))));
    }

    /// Prints an indented remark.
    pub fn note(&self, text: impl Display) {
        self.print(&format!("    {text}"));
    }

    /// Prints the last line, green if everything held.
    pub fn verdict(&self, held: bool, text: &str) {
        let colour = if held { GREEN } else { RED };
        let seconds = self.start.elapsed().as_secs_f32();
        self.print(&format!("\n{}  ({seconds:.1} s)", self.paint(colour, text)));
    }

    fn print(&self, line: &str) {
        // If stdout is closed, the exit status still tells the result.
        let _ = writeln!(stdout().lock(), "{line}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn aligned(columns: &[(&dyn Display, usize)]) -> String {
    let cells: Vec<_> = columns.iter().map(|(text, width)| format!("{:<width$}", text.to_string())).collect();
    cells.join("  ").trim_end().to_owned()
}
