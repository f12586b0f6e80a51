//! Tables that fit the terminal.
use comfy_table::{ColumnConstraint, ContentArrangement, Width, presets::NOTHING};

/// Spaces between columns.
const GAP: usize = 2;

/// A table of text cells.
pub struct Table {
    titles: Vec<&'static str>,
    /// Titles of the columns that may disappear, the least important first.
    droppable: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates an empty table with these column titles.
    pub fn new<const N: usize>(titles: [&'static str; N]) -> Self {
        Self { titles: titles.into(), droppable: Vec::new(), rows: Vec::new() }
    }

    /// Names the columns that may disappear from a narrow terminal, the least important first.
    pub fn droppable<const N: usize>(mut self, titles: [&'static str; N]) -> Self {
        self.droppable = titles.into();
        self
    }

    /// Adds a row with one cell per column.
    pub fn add_row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.titles.len());
        self.rows.push(cells.into());
    }

    /// Returns the text, at most `width` columns wide and without a final newline.
    ///
    /// Cells wrap between words. If that is not enough, droppable columns disappear, and a last line names
    /// them. If even that is not enough, words break.
    pub fn render(&self, width: Option<usize>) -> String {
        let mut shown: Vec<usize> = (0..self.titles.len()).collect();
        let mut dropped = Vec::new();
        let mut droppable = self.droppable.iter();
        while width.is_some_and(|width| self.least_width(&shown) > width)
            && let Some(title) = droppable.next()
        {
            shown.retain(|column| self.titles[*column] != *title);
            dropped.push(*title);
        }
        let mut text = self.arrange(&shown, width);
        if !dropped.is_empty() {
            let note = format!("Not shown, for lack of space: {} (see --json)", dropped.join(", "));
            let mut line = Self::new([""]);
            line.add_row([note]);
            text += "\n";
            text += line.arrange(&[0], width).trim_start();
        }
        text
    }

    /// Lays out the columns `shown`.
    fn arrange(&self, shown: &[usize], width: Option<usize>) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).force_no_tty();
        let pick = |cells: &[String]| shown.iter().map(|column| cells[*column].clone()).collect::<Vec<_>>();
        table.set_header(shown.iter().map(|column| self.titles[*column]));
        for row in &self.rows {
            table.add_row(pick(row));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            let gap = if index + 1 == shown.len() { 0 } else { GAP };
            column.set_padding((0, u16::try_from(gap).unwrap_or(0)));
        }
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(narrow(width));
            if self.least_width(shown) <= width {
                for (index, column) in table.column_iter_mut().enumerate() {
                    let gap = if index + 1 == shown.len() { 0 } else { GAP };
                    let least = narrow(self.longest_word(shown[index]) + gap);
                    column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
                }
            }
        }
        table.trim_fmt()
    }

    /// Returns the width of the columns `shown` if every cell is wrapped between all words.
    fn least_width(&self, shown: &[usize]) -> usize {
        let words: usize = shown.iter().map(|column| self.longest_word(*column)).sum();
        words + GAP * shown.len().saturating_sub(1)
    }

    fn longest_word(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].as_str()).chain([self.titles[column]]);
        cells.flat_map(|cell| cell.split(' ')).map(|word| word.chars().count()).max().unwrap_or(0)
    }
}

/// Returns a width in the type of the table library.
fn narrow(width: usize) -> u16 {
    u16::try_from(width).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    fn people() -> Table {
        let mut table = Table::new(["name", "place", "remark"]).droppable(["place"]);
        table.add_row([
            "ada".to_owned(),
            "a-very-long-place".to_owned(),
            "wrote the first program".to_owned(),
        ]);
        table
    }

    #[test]
    fn unlimited_table_is_one_line_per_row() {
        let expected = "name  place              remark\nada   a-very-long-place  wrote the first program";
        assert_eq!(people().render(None), expected);
        assert_eq!(people().render(Some(200)), expected);
    }

    #[test]
    fn cells_wrap_between_words() {
        let text = people().render(Some(40));
        assert!(widest(&text) <= 40 && text.contains("a-very-long-place"), "{text}");
        assert!(["wrote", "the", "first", "program"].iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn droppable_column_disappears_before_words_break() {
        let text = people().render(Some(28));
        assert!(widest(&text) <= 28 && !text.contains("a-very-long-place"), "{text}");
        let note = "Not shown, for lack of space: place (see --json)";
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").ends_with(note), "{text}");
    }

    #[test]
    fn words_break_only_when_no_column_can_disappear() {
        let mut table = Table::new(["name"]);
        table.add_row(["x".repeat(50)]);
        let text = table.render(Some(20));
        assert_eq!(widest(&text), 20, "{text}");
        assert_eq!(text.matches('x').count(), 50);
    }
}
