//! A Markdown table, aligned so that its source is readable.
use std::{
    fmt::{self, Display},
    ops::Range,
};

/// A table.
pub struct Grid {
    titles: Vec<String>,
    /// Right-aligned columns.
    numbers: Range<usize>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// Returns a table without rows, whose columns in `numbers` hold numbers.
    pub fn new(titles: impl IntoIterator<Item = impl Into<String>>, numbers: Range<usize>) -> Self {
        Self { titles: titles.into_iter().map(Into::into).collect(), numbers, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn add(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let row: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(row.len(), self.titles.len(), "a cell for each column");
        self.rows.push(row);
    }

    /// Returns true if the table has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = || std::iter::once(&self.titles).chain(&self.rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..self.titles.len()).map(width).collect();
        for (number, row) in all().enumerate() {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if self.numbers.contains(&column) {
                    write!(f, "| {cell:>width$} ")?;
                } else {
                    write!(f, "| {cell:width$} ")?;
                }
            }
            writeln!(f, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let end = if self.numbers.contains(&column) { ':' } else { '-' };
                    write!(f, "| {}{end} ", "-".repeat(width - 1))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let mut grid = Grid::new(["who", "much"], 1..2);
        grid.add(["we", "1"]);
        grid.add(["others", "12,345"]);
        assert_eq!(
            grid.to_string(),
            "| who    |   much |\n| ------ | -----: |\n| we     |      1 |\n| others | 12,345 |\n"
        );
    }
}
