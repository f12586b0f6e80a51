//! Dependencies between the packages below tests/: each may use the kit, and none uses another.
use super::super::tree::Tree;

/// The packages that test tools may use.
const SHARED: [&str; 2] = ["gateway-tests-kit", "gateway-tests-programs"];

/// The eBPF programs that gateway-tests-programs compiles and embeds.
const EMBEDDED: (&str, &str) = ("gateway-tests-programs", "gateway-tests-ebpf");

/// Returns a message for each test tool that depends on another one.
pub fn faults(tree: &Tree) -> Vec<String> {
    let manifests: Vec<_> = tree
        .texts()
        .filter(|(path, _)| path.starts_with("tests/") && path.ends_with("Cargo.toml"))
        .filter_map(|(path, text)| Some((path, name(text)?, text)))
        .collect();
    let is_tool =
        |package: &str| manifests.iter().any(|(_, name, _)| *name == package) && !SHARED.contains(&package);
    let mut faults = Vec::new();
    for (path, name, text) in &manifests {
        let is_fault = |dependency: &str| is_tool(dependency) && (*name, dependency) != EMBEDDED;
        for (line, dependency) in
            dependencies(text).into_iter().filter(|(_, dependency)| is_fault(dependency))
        {
            faults.push(format!(
                "{path}:{line}: {name} depends on {dependency}: share code in gateway-tests-kit instead"
            ));
        }
    }
    faults
}

fn name(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.split('"').next())
}

/// Returns the packages in all tables of dependencies, with their lines. `package = "x"` renames one.
fn dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_table = false;
    let mut renamed = None;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            in_table = section.ends_with("dependencies");
            // [dependencies.NAME]
            renamed = section.split_once("dependencies.").map(|(_, name)| name.to_owned());
            found.extend(renamed.clone().map(|name| (index + 1, name)));
        } else if in_table || renamed.is_some() {
            let package = line.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            let key = line.split(['.', ' ', '=']).next().filter(|_| in_table && !line.starts_with('#'));
            found.extend(package.or(key).map(|name| (index + 1, name.trim_matches('"').to_owned())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_may_use_the_kit_and_nothing_else_of_the_tests() {
        let lab = "[package]\nname = \"gateway-tests-lab\"\n\n[dependencies]\ngateway = { workspace = true }\n\
                   gateway-tests-kit = { workspace = true }\n";
        let flood = "[package]\nname = \"gateway-tests-flood\"\n[dev-dependencies]\n\
                     gateway-tests-lab.workspace = true\n[target.'cfg(unix)'.dependencies]\n\
                     x = { package = \"gateway-fuzz\", path = \"../fuzz\" }\n[dependencies.gateway-tests-lab]\n";
        let tree = Tree::of(&[
            ("tests/kit/Cargo.toml", "[package]\nname = \"gateway-tests-kit\"\n"),
            ("tests/lab/Cargo.toml", lab),
            ("tests/flood/Cargo.toml", flood),
            (
                "tests/programs/Cargo.toml",
                "[package]\nname = \"gateway-tests-programs\"\n[build-dependencies]\n\
                 gateway-tests-ebpf = { path = \"../ebpf\" }\n",
            ),
            ("tests/ebpf/Cargo.toml", "[package]\nname = \"gateway-tests-ebpf\"\n"),
            (
                "tests/replay/Cargo.toml",
                "[package]\nname = \"r\"\n[dependencies]\ngateway-tests-ebpf = \"1\"\n",
            ),
            ("tests/fuzz/Cargo.toml", "[package]\nname = \"gateway-fuzz\"\n"),
            (
                "gateway/Cargo.toml",
                "[package]\nname = \"gateway\"\n[dependencies]\ngateway-tests-lab = \"1\"\n",
            ),
        ]);
        let faults = faults(&tree);
        let lines: Vec<_> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        let expected = ["tests/flood/Cargo.toml:4", "tests/flood/Cargo.toml:6", "tests/flood/Cargo.toml:7"];
        assert_eq!(lines, [&expected[..], &["tests/replay/Cargo.toml:4"]].concat());
    }
}
