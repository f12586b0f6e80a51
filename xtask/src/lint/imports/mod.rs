//! Check `imports`: no circle between the files of a crate, and no test tool that uses another.
mod crates;
mod graph;
mod modules;
mod packages;
mod source;

use std::thread;

use super::tree::Tree;

/// Returns a message for each circle, printed file by file, and for each forbidden dependency.
pub fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = packages::faults(tree);
    let roots = crates::roots(tree);
    // In parallel: parsing takes 2 s for all crates.
    thread::scope(|scope| {
        let checks: Vec<_> = roots.iter().map(|root| scope.spawn(|| crate_faults(tree, root))).collect();
        faults.extend(checks.into_iter().flat_map(|check| check.join().expect("checks do not panic")));
    });
    faults
}

fn crate_faults(tree: &Tree, root: &str) -> Vec<String> {
    match modules::load(tree, root) {
        Ok(modules) => graph::circles(&modules.imports()),
        Err(error) => vec![format!("{error:#}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: (&str, &str) = ("a/Cargo.toml", "[package]\nname = \"a\"\n");

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        faults(&Tree::of(&[&[MANIFEST], files].concat()))
    }

    #[test]
    fn tree_of_imports_passes() {
        let files = [
            ("a/src/lib.rs", "mod low; pub mod high; pub use self::high::Top;"),
            ("a/src/low.rs", "pub struct Base;"),
            ("a/src/high/mod.rs", "mod part; pub use part::Part; use crate::low::Base; pub struct Top;"),
            ("a/src/high/part.rs", "use crate::low; pub struct Part(low::Base);"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn circle_between_siblings_is_printed_file_by_file() {
        let files = [
            ("a/src/lib.rs", "mod one;\nmod two;\nmod three;"),
            ("a/src/one.rs", "\nuse crate::two::Two;"),
            ("a/src/two.rs", "fn f() { super::three::g() }"),
            ("a/src/three.rs", "use super::{one::One};"),
        ];
        assert_eq!(
            found(&files),
            ["these files import one another:\n  a/src/one.rs:2 uses a/src/two.rs (crate::two::Two)\n  \
              a/src/two.rs:1 uses a/src/three.rs (super::three::g)\n  \
              a/src/three.rs:1 uses a/src/one.rs (super::one::One)"]
        );
    }

    #[test]
    fn child_that_imports_its_re_exporting_parent_makes_a_circle() {
        let parent = ("a/src/p/mod.rs", "mod child; pub use child::Child; pub trait Shared {}");
        for child in
            ["use super::Shared;", "use super::*;", "use crate::p::Shared;", "impl crate::p::Shared for X {}"]
        {
            let files = [("a/src/lib.rs", "mod p;"), parent, ("a/src/p/child.rs", child)];
            assert_eq!(found(&files).len(), 1, "{child}");
        }
        // A declaration alone is no import.
        let files =
            [("a/src/lib.rs", "mod p; pub trait T {}"), ("a/src/p.rs", "pub(super) struct S; use crate::T;")];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn macros_aliases_and_inline_modules_are_looked_into() {
        let two = ("a/src/two.rs", "use crate::one::One;");
        for one in [
            "fn f() { println!(\"{}\", crate::two::g()) }",
            "macro_rules! m { () => { $crate::two::g() } }",
            "use crate::two as other; fn f() { other::g() }",
            "mod inner { use super::super::two::X; }",
            "fn f(x: Vec<crate::two::X>) {}",
        ] {
            let files = [("a/src/lib.rs", "mod one; mod two;"), ("a/src/one.rs", one), two];
            assert_eq!(found(&files).len(), 1, "{one}");
        }
    }

    #[test]
    fn tests_and_integration_tests_are_exempt() {
        let files = [
            ("a/src/lib.rs", "mod one; #[cfg(test)] mod tests;"),
            (
                "a/src/one.rs",
                "#[cfg(test)] mod tests { use crate::tests::x; } #[cfg(test)] use crate::tests::x;",
            ),
            ("a/src/tests.rs", "mod deep; use crate::one::One;"),
            ("a/src/tests/deep.rs", "use super::x;"),
            ("a/tests/all/main.rs", "mod part; use part::P;"),
            ("a/tests/all/part.rs", "use super::Q;"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn file_that_cannot_be_parsed_is_a_fault() {
        assert_eq!(found(&[("a/src/lib.rs", "fn {")]).len(), 1);
    }
}
