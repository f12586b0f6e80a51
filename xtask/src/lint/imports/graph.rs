//! Circles in the graph of files.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// An import between two files: the first line that does it, and its path.
pub struct Import {
    /// Line number, from 1.
    pub line: usize,
    /// The path as written.
    pub path: String,
}

/// The imports of a crate: importing file, imported file, place.
pub type Imports = BTreeMap<String, BTreeMap<String, Import>>;

/// Returns the shortest circle through each file that is in one, once each, printed file by file.
pub fn circles(imports: &Imports) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for file in imports.keys() {
        for circle in imports[file].keys().filter_map(|next| circle(imports, file, next)) {
            let mut members = circle.clone();
            members.sort_unstable();
            if seen.insert(members) {
                found.push(circle);
            }
        }
    }
    // A longer circle that holds a whole shorter one tells nothing new.
    let sets: Vec<BTreeSet<_>> = found.iter().map(|circle| circle.iter().copied().collect()).collect();
    let is_minimal = |index: &usize| {
        !sets.iter().any(|other| other.len() < sets[*index].len() && other.is_subset(&sets[*index]))
    };
    (0..found.len()).filter(is_minimal).map(|index| printed(imports, &found[index])).collect()
}

/// Returns the shortest circle that begins with the import of `next` by `file`.
fn circle<'a>(imports: &'a Imports, file: &'a str, next: &'a str) -> Option<Vec<&'a str>> {
    let mut previous: BTreeMap<&str, &str> = BTreeMap::from([(next, file)]);
    let mut queue = VecDeque::from([next]);
    while let Some(at) = queue.pop_front() {
        if at == file {
            break;
        }
        for (imported, _) in imports.get(at).into_iter().flatten() {
            if !previous.contains_key(imported.as_str()) {
                previous.insert(imported, at);
                queue.push_back(imported);
            }
        }
    }
    let mut circle = vec![*previous.get(file)?];
    while circle.last() != Some(&file) {
        circle.push(previous[circle.last()?]);
    }
    circle.reverse();
    Some(circle)
}

fn printed(imports: &Imports, circle: &[&str]) -> String {
    let mut text = String::from("these files import one another:");
    for (index, file) in circle.iter().enumerate() {
        let next = circle[(index + 1) % circle.len()];
        let Import { line, path } = &imports[*file][next];
        text += &format!("\n  {file}:{line} uses {next} ({path})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(edges: &[(&str, &str)]) -> usize {
        let mut imports = Imports::new();
        for (from, to) in edges {
            let import = Import { line: 1, path: "x".to_owned() };
            imports.entry((*from).to_owned()).or_default().insert((*to).to_owned(), import);
        }
        circles(&imports).len()
    }

    #[test]
    fn circles_are_found_once_each() {
        assert_eq!(found(&[("a", "b"), ("b", "c"), ("a", "c")]), 0);
        assert_eq!(found(&[("a", "b"), ("b", "a")]), 1);
        assert_eq!(found(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]), 1);
        assert_eq!(found(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]), 2);
    }

    #[test]
    fn circle_of_two_hides_the_longer_ones_around_it() {
        assert_eq!(found(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "a")]), 1);
    }
}
