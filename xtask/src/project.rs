//! The repository's paths, its packages and the versions it pins.
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, Result};

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Packages whose tests run on this machine with `cargo test`.
pub const HOST_PACKAGES: [&str; 6] =
    ["gateway-common", "gateway-pki", "gateway", "gateway-tests-kit", "gateway-fuzz", "xtask"];
/// Packages of test tools. Only their unit tests are host tests; the tools themselves are stages of their own.
pub const TOOL_PACKAGES: [&str; 5] = [
    "gateway-tests-replay",
    "gateway-tests-diff",
    "gateway-tests-flood",
    "gateway-tests-lab",
    "gateway-tests-bench",
];
/// The package of the eBPF programs that only tests load. It has no tests of its own.
pub const TEST_PROGRAMS: &str = "gateway-tests-programs";
/// The package of gatewayd and gatewayctl.
pub const GATEWAY: &str = "gateway";

/// A program of the tests, and the package that builds it.
#[derive(Clone, Copy)]
pub struct Tool {
    /// Package name.
    pub package: &'static str,
    /// Name of the binary.
    pub program: &'static str,
}

/// Real tunnels and real attacks in namespaces.
pub const LAB: Tool = Tool { package: "gateway-tests-lab", program: "lab" };
/// The gateway's daemon.
pub const GATEWAYD: Tool = Tool { package: "gateway", program: "gatewayd" };
/// The benchmark.
pub const BENCH: Tool = Tool { package: "gateway-tests-bench", program: "bench" };
/// The differential test against iptables.
pub const DIFF: Tool = Tool { package: "gateway-tests-diff", program: "diff" };
/// The flood test.
pub const FLOOD: Tool = Tool { package: "gateway-tests-flood", program: "flood" };
/// The packet replay, an integration test.
pub const REPLAY: Tool = Tool { package: "gateway-tests-replay", program: "replay" };
/// The replay's package directory, which holds its cases and is its working directory.
pub const REPLAY_DIRECTORY: &str = "tests/replay";

/// Finds the repository's root, so that an error can be reported before [`root`] needs it.
pub fn find_root() -> Result<()> {
    if ROOT.get().is_none() {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = locate(manifest.as_deref(), &env::current_dir()?).context(
            "cannot find the repository: run `cargo xtask` inside it, or change to its directory first",
        )?;
        let _ = ROOT.set(root);
    }
    Ok(())
}

/// The repository's root.
///
/// It is found at run time: a path compiled in would lead from a copy of a built tree to the original.
///
/// # Panics
/// If there is none; `main` calls [`find_root`] first.
pub fn root() -> &'static Path {
    find_root().expect("xtask runs in the repository");
    ROOT.get().expect("set by find_root")
}

/// Takes the root from the package directory that `cargo run` puts into the environment, or walks up from the
/// current directory when the program was started without cargo.
fn locate(manifest: Option<&Path>, current: &Path) -> Option<PathBuf> {
    let of_package = manifest.and_then(Path::parent).filter(|directory| is_root(directory));
    of_package.or_else(|| current.ancestors().find(|directory| is_root(directory))).map(Path::to_owned)
}

/// Returns true if the directory holds this workspace.
fn is_root(directory: &Path) -> bool {
    let is_workspace = |manifest: String| manifest.lines().any(|line| line.trim_end() == "[workspace]");
    directory.join("xtask/Cargo.toml").is_file()
        && fs::read_to_string(directory.join("Cargo.toml")).is_ok_and(is_workspace)
}

/// `target/`, even if `CARGO_TARGET_DIR` is set: `.cargo/config.toml` names the linker in it.
pub fn target() -> PathBuf {
    root().join("target")
}

/// `target/tools/`: everything set-up installs that is neither a toolchain nor a Debian package.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The versions pinned in the root `Cargo.toml`.
pub struct Pinned {
    /// `workspace.package.rust-version`
    pub rust: String,
    /// `workspace.metadata.setup.bpf-linker`
    pub bpf_linker: String,
    /// `workspace.metadata.setup.cargo-deny`
    pub cargo_deny: String,
}

impl Pinned {
    /// Reads the versions; the error names a missing key.
    pub fn read() -> Result<Self> {
        let path = root().join("Cargo.toml");
        let manifest =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let get = |key| value(&manifest, key).with_context(|| format!("no {key} in {}", path.display()));
        Ok(Self {
            rust: get("rust-version")?,
            bpf_linker: get("bpf-linker")?,
            cargo_deny: get("cargo-deny")?,
        })
    }
}

/// Returns the value of the first line `key = "value"`. A TOML parser is not worth its build time here;
/// `.cargo/rustc` reads the same line with sed.
pub fn value(manifest: &str, key: &str) -> Option<String> {
    manifest.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?.trim_start().strip_prefix('=')?;
        Some(rest.trim().strip_prefix('"')?.split_once('"')?.0.to_owned())
    })
}

/// Returns the directory of toolchain `version` if it is installed.
pub fn toolchain(version: &str) -> Option<PathBuf> {
    let home = match env::var_os("RUSTUP_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME")?).join(".rustup"),
    };
    let prefix = format!("{version}-");
    fs::read_dir(home.join("toolchains"))
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_found_only_under_the_whole_key() {
        let manifest = "rust-version-old = \"1\"\nrust-version = \"1.98.0\" # pinned\n";
        assert_eq!(value(manifest, "rust-version").as_deref(), Some("1.98.0"));
        assert_eq!(value(manifest, "version"), None);
    }

    #[test]
    fn copy_of_the_tree_is_its_own_root() {
        let base = env::temp_dir().join(format!("xtask-root-{}", std::process::id()));
        let (original, copy) = (base.join("original"), base.join("copy"));
        for tree in [&original, &copy] {
            fs::create_dir_all(tree.join("xtask/src")).unwrap();
            fs::write(tree.join("xtask/Cargo.toml"), "[package]\n").unwrap();
            fs::write(tree.join("Cargo.toml"), "[workspace]\n").unwrap();
        }
        // cargo names the copy's package, wherever it was called.
        assert_eq!(locate(Some(&copy.join("xtask")), &original), Some(copy.clone()));
        // Started without cargo, or by a cargo that runs another package.
        assert_eq!(locate(None, &copy.join("xtask/src")), Some(copy.clone()));
        assert_eq!(locate(Some(&base.join("elsewhere/tool")), &copy), Some(copy.clone()));
        assert_eq!(locate(None, &base), None);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn root_is_this_repository() {
        assert!(root().join("gateway-common/src/lib.rs").is_file(), "{}", root().display());
    }
}
