//! `gatewayctl reasons`: all drop reasons.
use gateway_common::reason::Reason;
use serde_json::json;

use crate::{report::Report, table::Table};

/// Lists all reasons with their numbers and meanings.
pub fn report() -> Report {
    let mut rows = Vec::new();
    let mut table = Table::new(["number", "name", "meaning"]).droppable(["number"]);
    for reason in Reason::ALL {
        let (number, name, meaning) = (*reason as u8, reason.name(), reason.sentence());
        rows.push(json!({ "number": number, "name": name, "meaning": meaning }));
        table.add_row([number.to_string(), name.to_owned(), meaning.to_owned()]);
    }
    Report::table(rows, table)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::report::Format;

    #[test]
    fn table_fits_60_columns() {
        let text = report().render(Format::Text(Some(60))).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(Reason::ALL.iter().all(|reason| text.contains(reason.name())), "{text}");
    }

    /// The troubleshooting table in docs/operating.md names every reason, and nothing else.
    #[test]
    fn operators_guide_lists_every_reason() {
        const GUIDE: &str = include_str!("../../../../docs/operating.md");
        let (_, table) =
            GUIDE.split_once("<!-- reasons -->").expect("docs/operating.md has `<!-- reasons -->`");
        let (table, _) =
            table.split_once("<!-- /reasons -->").expect("docs/operating.md has `<!-- /reasons -->`");
        let rows = table.lines().filter_map(|line| line.trim_start().strip_prefix("| `"));
        let cells = rows.filter_map(|row| row.split('|').next());
        // A cell holds one name or several: "`FlowTableFull`", "`NoConnection`, `ReplyWithoutConnection`". Its
        // first backtick is gone already.
        let names: Vec<&str> = cells.flat_map(|cell| cell.split('`').step_by(2)).collect();
        let documented: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(documented.len(), names.len(), "a reason has two rows: {names:?}");
        let reasons: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        let missing: Vec<_> = reasons.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&reasons).collect();
        assert!(missing.is_empty(), "add rows to docs/operating.md: {missing:?}");
        assert!(unknown.is_empty(), "docs/operating.md lists reasons that do not exist: {unknown:?}");
    }
}
