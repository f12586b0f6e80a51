//! `cargo xtask lint`: format, clippy with warnings denied, cargo-deny, and checks of the tree itself.
mod check;
mod comments;
mod imports;
mod language;
mod markdown;
mod references;
mod tools;
mod tree;

use anyhow::{Result, anyhow};

pub use self::check::{Check, Kind};
use self::tree::Tree;
use crate::{
    project::{self, Pinned},
    setup::{self, Needs},
};

/// Runs the wanted checks, or all; later ones run even if one has failed. With `fix`, rustfmt and clippy change the
/// files.
pub fn run(only: &[Kind], fix: bool) -> Result<Vec<Check>> {
    let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| only.is_empty() || only.contains(kind)).collect();
    if kinds.iter().any(|kind| kind.needs_tools()) {
        setup::ensure(Needs { lint: kinds.contains(&Kind::CargoDeny), ..Needs::default() })?;
    }
    kinds.iter().map(|kind| Ok(Check { name: kind.name(), passed: passes(*kind, fix)? })).collect()
}

/// Runs one check, by this program, by another, or by both, and shows what they found.
fn passes(kind: Kind, fix: bool) -> Result<bool> {
    let own: Option<fn(&Tree) -> Vec<String>> = match kind {
        Kind::Imports => Some(imports::faults),
        Kind::References => Some(references::faults),
        Kind::Language => Some(language::faults),
        _ => None,
    };
    let own = match own {
        Some(faults) => shown(&faults(&Tree::read(project::root())?)),
        None => Ok(()),
    };
    let tool = if kind.needs_tools() { tools::run(kind, &Pinned::read()?, fix) } else { Ok(()) };
    for error in [&own, &tool].into_iter().filter_map(|result| result.as_ref().err()) {
        eprintln!("{}: {error:#}\n", kind.name());
    }
    Ok(own.is_ok() && tool.is_ok())
}

/// Shows the faults.
///
/// # Errors
/// If there is one.
fn shown(faults: &[String]) -> Result<()> {
    for fault in faults {
        eprintln!("{fault}");
    }
    match faults.len() {
        0 => Ok(()),
        1 => Err(anyhow!("1 fault")),
        count => Err(anyhow!("{count} faults")),
    }
}
