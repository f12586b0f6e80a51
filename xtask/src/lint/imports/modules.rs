//! The tree of modules of one crate, and the files that their paths lead to.
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{
    super::tree::Tree,
    graph::{Import, Imports},
    source::{self, Source},
};

/// Aliases of aliases are followed this far.
const DEPTH: u32 = 8;

/// A crate's modules; the first is its root.
#[derive(Default)]
pub struct Modules(Vec<Module>);

struct Module {
    file: String,
    parent: usize,
    children: BTreeMap<String, usize>,
    source: Source,
}

/// The directories that a module's declarations are searched in.
struct Place {
    file: String,
    /// Directory of `mod name;`.
    children: String,
}

/// Loads the crate with this root file.
pub fn load(tree: &Tree, root: &str) -> Result<Modules> {
    let mut modules = Modules::default();
    let directory = parent(root).to_owned();
    modules.add_file(tree, Place { file: root.to_owned(), children: directory }, 0)?;
    Ok(modules)
}

impl Modules {
    fn add_file(&mut self, tree: &Tree, place: Place, parent: usize) -> Result<usize> {
        let text = tree.text(&place.file).unwrap_or_default();
        let source = source::parse(text).with_context(|| format!("cannot parse {}", place.file))?;
        self.add(tree, place, parent, source)
    }

    /// Adds a module, and below it the modules that it declares and holds.
    fn add(&mut self, tree: &Tree, place: Place, parent: usize, mut source: Source) -> Result<usize> {
        let index = self.0.len();
        let (declared, inline) = (std::mem::take(&mut source.declared), std::mem::take(&mut source.inline));
        self.0.push(Module { file: place.file.clone(), parent, children: BTreeMap::new(), source });
        for (name, attribute) in declared {
            // A missing file is rustc's to report.
            if let Some(child) = declared_file(tree, &place, &name, attribute.as_deref()) {
                let child = self.add_file(tree, child, index)?;
                self.0[index].children.insert(name, child);
            }
        }
        for (name, source) in inline {
            let child = Place { file: place.file.clone(), children: join(&place.children, &name) };
            let child = self.add(tree, child, index, source)?;
            self.0[index].children.insert(name, child);
        }
        Ok(index)
    }

    /// Returns the files that each file names something of: for each path the file of its deepest module.
    pub fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (index, module) in self.0.iter().enumerate() {
            for mention in &module.source.mentions {
                let Some((target, _)) = self.resolve(index, &mention.segments, DEPTH) else { continue };
                let file = &self.0[target].file;
                if *file != module.file {
                    let import = || Import { line: mention.line, path: mention.segments.join("::") };
                    let of_file = imports.entry(module.file.clone()).or_default();
                    of_file.entry(file.clone()).or_insert_with(import);
                }
            }
        }
        imports
    }

    /// Returns the deepest module of this crate on a path, and the number of names that lead there; `None` if the
    /// path begins with something else, such as another crate or a type.
    fn resolve(&self, from: usize, path: &[String], depth: u32) -> Option<(usize, usize)> {
        let (mut at, mut used) = match path.first()?.as_str() {
            "crate" => (0, 1),
            "self" => (from, 1),
            "super" => (self.0[from].parent, 1),
            name => (self.in_scope(from, name, depth)?, 1),
        };
        while let Some(name) = path.get(used) {
            at = match self.0[at].children.get(name) {
                Some(child) => *child,
                None if name == "super" => self.0[at].parent,
                None => break,
            };
            used += 1;
        }
        Some((at, used))
    }

    /// Returns the module that a name stands for: a child, or one that `use` brings into scope.
    fn in_scope(&self, module: usize, name: &str, depth: u32) -> Option<usize> {
        let Module { children, source, .. } = &self.0[module];
        if let Some(child) = children.get(name) {
            return Some(*child);
        }
        let depth = depth.checked_sub(1)?;
        let exactly = |path: &[String]| {
            self.resolve(module, path, depth).filter(|(_, used)| *used == path.len()).map(|(found, _)| found)
        };
        let aliased =
            source.aliases.iter().filter(|(alias, _)| alias == name).find_map(|(_, path)| exactly(path));
        aliased.or_else(|| {
            source
                .globs
                .iter()
                .filter_map(|path| exactly(path))
                .find_map(|glob| self.0[glob].children.get(name).copied())
        })
    }
}

/// Finds the file of `mod name;`, and the directory of its own declarations.
fn declared_file(tree: &Tree, place: &Place, name: &str, attribute: Option<&str>) -> Option<Place> {
    if let Some(path) = attribute {
        let file = normal(&join(parent(&place.file), path));
        let children = parent(&file).to_owned();
        return tree.text(&file).map(|_| Place { file, children });
    }
    let children = join(&place.children, name);
    let candidates = [format!("{children}.rs"), format!("{children}/mod.rs")];
    let file = candidates.into_iter().find(|file| tree.text(file).is_some())?;
    Some(Place { file, children })
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// Removes `..` from a path.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}
