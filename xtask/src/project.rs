//! Where things are, and which versions are pinned.
use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the repository")
}

/// `target/`, whatever `CARGO_TARGET_DIR` says: `.cargo/config.toml` names the linker in it.
pub fn target() -> PathBuf {
    root().join("target")
}

/// `target/tools/`: everything set-up installs that is not a toolchain or a Debian package.
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
    /// Reads them; an error names the key that is missing.
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

/// The value of the first line `key = "value"`. A TOML parser is not worth its build time here;
/// `.cargo/rustc` reads the same line with sed.
fn value(manifest: &str, key: &str) -> Option<String> {
    manifest.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?.trim_start().strip_prefix('=')?;
        Some(rest.trim().strip_prefix('"')?.split_once('"')?.0.to_owned())
    })
}

/// The directory of the installed toolchain `version`, if it is there.
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
    use super::value;

    #[test]
    fn value_is_found_only_under_the_whole_key() {
        let manifest = "rust-version-old = \"1\"\nrust-version = \"1.98.0\" # pinned\n";
        assert_eq!(value(manifest, "rust-version").as_deref(), Some("1.98.0"));
        assert_eq!(value(manifest, "version"), None);
    }
}
