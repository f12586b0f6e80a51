//! Check `references`: every link, decision, fact, path and RFC in the tree leads somewhere.
mod facts;
mod links;
mod paths;
mod rfcs;

use super::tree::Tree;

/// Returns a message for each reference that leads nowhere.
pub fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = links::faults(tree);
    faults.extend(facts::faults(tree));
    faults.extend(paths::faults(tree));
    faults.extend(rfcs::faults(tree));
    faults
}
