//! The output of a command, as JSON and as text.
use std::{env, io};

use anyhow::Result;
use rustix::termios::tcgetwinsize;
use serde_json::{Value, json};

use crate::table::Table;

/// The output of a command in both formats.
pub struct Report {
    pub json: Value,
    pub parts: Vec<Part>,
}

/// A part of the text output.
pub enum Part {
    Line(String),
    Table(Table),
}

/// The requested output format.
#[derive(Clone, Copy)]
pub enum Format {
    Json,
    /// Text, with tables at most this many columns wide. `None` for unlimited.
    Text(Option<usize>),
}

impl Report {
    /// Returns a report that consists of one table.
    pub fn table(rows: Vec<Value>, table: Table) -> Self {
        Self { json: Value::Array(rows), parts: vec![Part::Table(table)] }
    }

    /// Returns a report that consists of one line.
    pub fn line(line: &str) -> Self {
        Self { json: json!({ "message": line }), parts: vec![Part::Line(line.to_owned())] }
    }

    /// Returns the output, which ends with a newline.
    pub fn render(&self, format: Format) -> Result<String> {
        let width = match format {
            Format::Json => return Ok(serde_json::to_string_pretty(&self.json)? + "\n"),
            Format::Text(width) => width,
        };
        let mut text = String::new();
        for part in &self.parts {
            text += &match part {
                Part::Line(line) => line.clone(),
                Part::Table(table) => table.render(width),
            };
            text += "\n";
        }
        Ok(text)
    }
}

impl Format {
    /// Chooses JSON or text. The width is that of `COLUMNS` or of the terminal; output to a file or a pipe
    /// is not wrapped.
    pub fn new(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = || tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col.into());
        Self::Text(columns.or_else(terminal).filter(|width| *width > 0))
    }
}
