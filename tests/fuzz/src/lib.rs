//! Fuzz targets: properties that must hold for any bytes. `cargo xtask fuzz` runs them under libFuzzer, and
//! the tests replay the corpus in `corpus/TARGET/`. A target panics if a property is violated.
//!
//! | target | input |
//! |---|---|
//! | `outer` | a frame, see [`outer`] |
//! | `inner` | frames one after another at both hooks, see [`inner`] |
//! | `tracking` | segments of a few connections, see [`tracking`] |
//! | `policy` | policy files, see [`policy`] |
//! | `vici` | a frame from charon, see [`vici`] |
//!
//! Only [`world`] knows the types of gateway-common's tables.
pub mod bytes;
pub mod inner;
pub mod outer;
pub mod policy;
pub mod tracking;
pub mod vici;
pub mod world;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A fuzz target.
#[derive(Debug)]
pub struct Target {
    /// Its name, and the name of its corpus.
    pub name: &'static str,
    /// Checks one input. Panics if a property is violated.
    pub run: fn(&[u8]),
}

impl Target {
    /// All targets.
    pub const ALL: [Self; 5] = [
        Self { name: "outer", run: outer::run },
        Self { name: "inner", run: inner::run },
        Self { name: "tracking", run: tracking::run },
        Self { name: "policy", run: policy::run },
        Self { name: "vici", run: vici::run },
    ];

    /// Returns the target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        const { &Self::ALL }.iter().find(|target| target.name == name)
    }
}

/// Returns the inputs in a target's corpus, sorted by name.
///
/// # Errors
/// Fails if the directory cannot be read.
pub fn corpus(target: &Target) -> std::io::Result<Vec<PathBuf>> {
    // cargo sets the package's directory for `cargo run` and `cargo test`.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let directory = Path::new(&package).join("corpus").join(target.name);
    let mut paths = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
