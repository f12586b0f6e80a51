//! gatewayd's folder of policies: a copy of the example that scenarios change and restore.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

const GATEWAY: &str = "gateway.toml";
const CUSTOMERS: &str = "customers";

/// The lab's own folder of policies.
#[derive(Debug)]
pub struct Policies {
    /// The example's texts, by file name relative to the folder.
    example: BTreeMap<String, String>,
    dir: PathBuf,
}

impl Policies {
    /// Copies the policies of `example` to `dir`, which it creates.
    pub fn copy(example: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join(CUSTOMERS))?;
        let example = texts(example)
            .with_context(|| format!("cannot read the example policies in {}", example.display()))?;
        let policies = Self { example, dir: dir.to_path_buf() };
        policies.restore()?;
        Ok(policies)
    }

    /// Returns the example's text of a file.
    pub fn example(&self, name: &str) -> Result<&str> {
        self.example.get(name).map(String::as_str).with_context(|| format!("the example has no file {name}"))
    }

    /// Replaces a file atomically, as an editor does.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let new = path.with_extension("new");
        fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Restores the example. Returns true if the folder differed from it.
    pub fn restore(&self) -> Result<bool> {
        let now = texts(&self.dir)?;
        for name in now.keys().filter(|name| !self.example.contains_key(*name)) {
            self.remove(name)?;
        }
        for (name, text) in self.example.iter().filter(|(name, text)| now.get(*name) != Some(*text)) {
            self.write(name, text)?;
        }
        Ok(now != self.example)
    }
}

/// Reads every policy file of a folder, by name relative to the folder.
fn texts(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut names = vec![GATEWAY.to_owned()];
    for entry in fs::read_dir(dir.join(CUSTOMERS))? {
        let name =
            entry?.file_name().into_string().map_err(|name| anyhow::anyhow!("a file named {name:?}"))?;
        if name.ends_with(".toml") {
            names.push(format!("{CUSTOMERS}/{name}"));
        }
    }
    let read = |name: String| Ok(fs::read_to_string(dir.join(&name)).map(|text| (name, text))?);
    names.into_iter().filter(|name| dir.join(name).exists()).map(read).collect()
}
