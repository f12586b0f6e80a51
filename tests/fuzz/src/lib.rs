//! Fuzz targets: what must hold for any bytes. `cargo xtask fuzz` runs them under libFuzzer, and the tests
//! replay the corpus of `corpus/TARGET/`. A target panics if what must hold does not.
//!
//! | target | input |
//! |---|---|
//! | `outer` | a frame, see [`outer`] |
//! | `inner` | frames one after another at both hooks, see [`inner`] |
//! | `tracking` | segments of a few connections, see [`tracking`] |
//! | `policy` | policy files, see [`policy`] |
//! | `vici` | a frame of charon's, see [`vici`] |
//!
//! All that knows the types of gateway-common's tables is in [`world`].
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

/// Something to be fuzzed.
#[derive(Debug)]
pub struct Target {
    /// Its name, which its corpus has too.
    pub name: &'static str,
    /// Judges one input. Panics at a fault.
    pub run: fn(&[u8]),
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self { name: "outer", run: outer::run },
        Self { name: "inner", run: inner::run },
        Self { name: "tracking", run: tracking::run },
        Self { name: "policy", run: policy::run },
        Self { name: "vici", run: vici::run },
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        const { &Self::ALL }.iter().find(|target| target.name == name)
    }
}

/// The inputs that are kept for a target, in order of name.
///
/// # Errors
/// The directory cannot be read.
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
