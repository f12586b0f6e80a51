//! `figures.json` with all figures and their origin, and `explanations.toml` with explanations by people.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, ErrorKind},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{figure::Figure, figures::Figures, target};

/// The file of figures.
pub const FILE: &str = "figures.json";
/// The file, written by hand, that explains missed targets.
pub const EXPLANATIONS: &str = "explanations.toml";

/// A part of the benchmark, measured in one run.
#[derive(Serialize, Deserialize, ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Instructions for each packet
    Instructions,
    /// Time for each packet
    Time,
    /// Loading and changing customers
    Control,
    /// Kernel memory
    Memory,
    /// Many tunnels
    Tunnels,
}

/// The origin of figures.
#[derive(Args, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The command that measures them again
    #[arg(long, required = false, requires = "part")]
    pub command: String,
    /// The kernel they were measured on
    #[arg(long, required = false, requires = "part")]
    pub kernel: String,
    /// The processor
    #[arg(long, required = false, requires = "part")]
    pub processor: String,
    /// The day
    #[arg(long, required = false, requires = "part")]
    pub date: String,
    /// The measured commit
    #[arg(long, required = false, requires = "part")]
    pub commit: String,
}

/// The figures of one part.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Measured {
    /// Their origin.
    #[serde(flatten)]
    pub origin: Origin,
    /// Sorted.
    pub figures: Vec<Figure>,
}

/// Reads a file of new figures.
pub fn read_figures(path: &Path) -> Result<Vec<Figure>> {
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    Figure::read_all(BufReader::new(file))
}

/// The figures of all measured parts.
#[derive(Serialize, Deserialize, Clone, Default, Debug)]
pub struct Store(pub BTreeMap<Part, Measured>);

impl Store {
    /// Reads the store of a directory; it is empty if there is no file yet.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("parse {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Replaces the figures of a part.
    pub fn replace(&mut self, part: Part, origin: Origin, figures: Vec<Figure>) -> Result<()> {
        ensure!(!figures.is_empty(), "nothing was measured");
        let figures = Figures::new(figures).iter().cloned().collect();
        self.0.insert(part, Measured { origin, figures });
        Ok(())
    }

    /// Returns the figures of all parts.
    pub fn figures(&self) -> Figures {
        Figures::new(self.0.values().flat_map(|measured| measured.figures.clone()))
    }

    /// Writes the store with one figure on each line, so that diffs show changed figures.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let mut parts = Vec::new();
        for (part, measured) in &self.0 {
            let origin = serde_json::to_string_pretty(&measured.origin)?;
            let origin = origin.trim_start_matches("{\n").trim_end_matches("\n}").replace("\n  ", "\n    ");
            let figures: Result<Vec<String>, _> =
                measured.figures.iter().map(serde_json::to_string).collect();
            parts.push(format!(
                "  {}: {{\n  {origin},\n    \"figures\": [\n      {}\n    ]\n  }}",
                serde_json::to_string(part)?,
                figures?.join(",\n      ")
            ));
        }
        let path = directory.join(FILE);
        let text = format!("{{\n{}\n}}\n", parts.join(",\n"));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// Explanations of missed targets, by their names.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Explanations {
    #[serde(default)]
    target: BTreeMap<String, String>,
}

impl Explanations {
    /// Reads the explanations of a directory, if there are any. An explanation of an unknown target is an
    /// error.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(EXPLANATIONS);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            result => result.with_context(|| format!("read {}", path.display()))?,
        };
        let explanations: Self = toml::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        for name in explanations.target.keys() {
            if !target::ALL.iter().any(|target| target.name == name) {
                bail!("{} explains the unknown target {name}; see tests/bench/src/target.rs", path.display());
            }
        }
        Ok(explanations)
    }

    /// Returns the explanation of a target.
    pub fn of(&self, target: &str) -> Option<&str> {
        Some(self.target.get(target)?.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{contender::Contender, figure::Unit, figures::tests::figure, workload::Workload},
        *,
    };

    #[test]
    fn parts_survive_being_written_and_are_replaced_one_by_one() {
        let directory = std::env::temp_dir().join(format!("gateway-bench-store-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let origin = Origin {
            command: "cargo xtask bench \"x\"".into(),
            kernel: "6.12".into(),
            processor: "one".into(),
            date: "2026-11-22".into(),
            commit: "abc".into(),
        };
        let of = |value| figure(Contender::Stack, Workload::Reply, 1, Unit::Nanoseconds, value);
        let mut store = Store::read(&directory).unwrap();
        store.replace(Part::Time, origin.clone(), vec![of(3.0)]).unwrap();
        store.replace(Part::Control, origin.clone(), vec![of(1.5)]).unwrap();
        store.replace(Part::Time, origin.clone(), vec![of(4.0)]).unwrap();
        assert!(store.replace(Part::Time, origin.clone(), Vec::new()).is_err());
        store.write(&directory).unwrap();
        let read = Store::read(&directory).unwrap();
        assert_eq!(read.0[&Part::Time].origin, origin);
        assert_eq!(read.0[&Part::Time].figures, [of(4.0)]);
        assert_eq!(read.0[&Part::Control].figures, [of(1.5)]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
