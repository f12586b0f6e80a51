//! Text that strangers have chosen, in logs and in the status.

/// Quotes what a stranger has chosen, for logs and terminals: escaped, and not too long.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 100;
    let shown: String = text.chars().take(MOST).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}
