//! The modules, imports and paths in one Rust file.
use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::{
    Attribute, Expr, Item, ItemMod, ItemUse, Lit, Macro, Meta, Path, UseTree, Visibility,
    visit::{self, Visit},
};

/// A module's contents, as far as imports go.
#[derive(Default)]
pub struct Source {
    /// `mod name;`, with the path of a `#[path]` attribute.
    pub declared: Vec<(String, Option<String>)>,
    /// `mod name { … }`.
    pub inline: Vec<(String, Source)>,
    /// Paths of at least two segments, in `use` and elsewhere.
    pub mentions: Vec<Mention>,
    /// Names that `use` brings into scope, and the path of each.
    pub aliases: Vec<(String, Vec<String>)>,
    /// Paths whose contents `use PATH::*` brings into scope.
    pub globs: Vec<Vec<String>>,
}

/// A path in the source.
pub struct Mention {
    /// Line number, from 1.
    pub line: usize,
    /// The path's names.
    pub segments: Vec<String>,
}

/// Parses a file.
pub fn parse(text: &str) -> syn::Result<Source> {
    let file = syn::parse_file(text)?;
    let mut source = Source::default();
    source.visit_file(&file);
    Ok(source)
}

impl Source {
    fn mention(&mut self, line: usize, segments: Vec<String>) {
        if segments.len() > 1 {
            self.mentions.push(Mention { line, segments });
        }
    }

    /// Flattens a tree of `use`; a name on its own imports a crate or a module.
    fn import(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.import(&with(path.ident.to_string()), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.import(prefix, item)),
            UseTree::Glob(glob) => {
                self.globs.push(prefix.to_vec());
                self.mention(glob.star_token.span.start().line, with("*".to_owned()));
            }
            UseTree::Name(name) => self.import_name(prefix, &name.ident, None),
            UseTree::Rename(rename) => {
                self.import_name(prefix, &rename.ident, Some(rename.rename.to_string()));
            }
        }
    }

    fn import_name(&mut self, prefix: &[String], name: &Ident, alias: Option<String>) {
        let (line, name) = (name.span().start().line, name.to_string());
        // `a::{self}` imports `a`.
        let full =
            if name == "self" && !prefix.is_empty() { prefix.to_vec() } else { [prefix, &[name]].concat() };
        let alias = alias.or_else(|| full.last().cloned());
        self.aliases.extend(alias.map(|alias| (alias, full.clone())));
        self.mention(line, full);
    }

    /// Finds paths in a macro's tokens, which are no syntax tree: names joined by `::`.
    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let is_joint = |index: usize| {
            let colon =
                |index: usize| matches!(tokens.get(index), Some(TokenTree::Punct(p)) if p.as_char() == ':');
            colon(index) && colon(index + 1)
        };
        let mut index = 0;
        while let Some(token) = tokens.get(index) {
            index += 1;
            match token {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(first) => {
                    let is_rest = index > 2 && is_joint(index - 3);
                    let mut segments = vec![first.to_string()];
                    while is_joint(index) {
                        let Some(TokenTree::Ident(next)) = tokens.get(index + 2) else { break };
                        segments.push(next.to_string());
                        index += 3;
                    }
                    if !is_rest {
                        self.mention(first.span().start().line, segments);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Visit<'_> for Source {
    fn visit_item(&mut self, item: &Item) {
        if !attributes(item).iter().any(is_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        let name = item.ident.to_string();
        match &item.content {
            None => self.declared.push((name, item.attrs.iter().find_map(path_attribute))),
            Some((_, items)) => {
                let mut inner = Self::default();
                items.iter().for_each(|item| inner.visit_item(item));
                self.inline.push((name, inner));
            }
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        if item.leading_colon.is_none() {
            self.import(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &Path) {
        let line = path.segments.first().map(|segment| segment.ident.span().start().line);
        if let Some(line) = line.filter(|_| path.leading_colon.is_none()) {
            self.mention(line, path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &Macro) {
        self.visit_path(&call.path);
        self.scan(call.tokens.clone());
    }

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &Visibility) {}

    fn visit_attribute(&mut self, _: &Attribute) {}
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns true for `#[test]`, `#[cfg(test)]` and `#[cfg(all(test, …))]`.
fn is_test(attribute: &Attribute) -> bool {
    if attribute.path().is_ident("test") {
        return true;
    }
    let Meta::List(list) = &attribute.meta else { return false };
    let tokens = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (tokens == "test" || tokens.starts_with("all(test,"))
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    match &pair.value {
        Expr::Lit(literal) if pair.path.is_ident("path") => match &literal.lit {
            Lit::Str(path) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentions(text: &str) -> Vec<String> {
        parse(text).unwrap().mentions.iter().map(|mention| mention.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_flattened() {
        let source = parse("use a::{self, b::{C, D as E}, f::*};").unwrap();
        assert_eq!(mentions("use a::{self, b::{C, D as E}, f::*};"), ["a::b::C", "a::b::D", "a::f::*"]);
        let aliases: Vec<_> =
            source.aliases.iter().map(|(name, path)| format!("{name}={}", path.join("::"))).collect();
        assert_eq!(aliases, ["a=a", "C=a::b::C", "E=a::b::D"]);
    }

    #[test]
    fn paths_are_found_in_code_and_macros_but_not_in_visibilities() {
        let text = "pub(in crate::x) fn f(a: b::C<d::E>) { vec![g::h(i::j::<k::L>()), self.m, <N>::o::p]; }";
        assert_eq!(mentions(text), ["b::C", "d::E", "g::h", "i::j", "k::L"]);
    }

    #[test]
    fn tests_are_left_out() {
        let text =
            "#[cfg(test)] use a::b; #[test] fn t() { c::d() } #[cfg(all(test, x))] mod e { use f::g; }";
        assert!(mentions(text).is_empty());
        assert!(parse("#[cfg(test)] mod tests;").unwrap().declared.is_empty());
    }

    #[test]
    fn path_attribute_of_a_module_is_read() {
        let declared = parse("#[path = \"../x.rs\"] mod a; mod b;").unwrap().declared;
        assert_eq!(declared, [("a".to_owned(), Some("../x.rs".to_owned())), ("b".to_owned(), None)]);
    }
}
