//! The list of maps (`gateway_common::layout::map_list`) against the compiled object, and against ARCHITECTURE.md.
mod locks;
mod users;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use aya_obj::{Object, maps::PinningType};
use gateway_common::layout::map_list::{ALL, Bound, Description, Kind, Lifetime, Sizes, User};

/// The programs, as build.rs compiled them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gateway-ebpf"));
/// The ring of log records, which the macros of aya-log-ebpf declare.
const LOG: &str = "AYA_LOGS";
/// Relative to the package, in which cargo runs its tests.
const ARCHITECTURE: &str = "../ARCHITECTURE.md";

/// The properties of a map that both the list and the object state.
#[derive(PartialEq, Debug)]
struct Declared {
    kind: u32,
    flags: u32,
    key_bytes: u32,
    value_bytes: u32,
    /// None if the loader sets it.
    entries: Option<u32>,
    pinned: bool,
}

#[test]
fn object_declares_exactly_the_maps_of_the_list() {
    let object = Object::parse(OBJECT).expect("the object is valid");
    let listed: BTreeMap<&str, Declared> = ALL.iter().map(|map| (map.name, from_list(map))).collect();
    // Sections of globals are maps, too: .rodata, .bss.
    let declared: BTreeMap<&str, Declared> = object
        .maps
        .iter()
        .filter(|(name, _)| !name.starts_with('.') && *name != LOG)
        .map(|(name, map)| {
            let fixed =
                ALL.iter().any(|listed| listed.name == name && matches!(listed.bound, Bound::Fixed(_)));
            let declared = Declared {
                kind: map.map_type(),
                flags: map.map_flags(),
                key_bytes: map.key_size(),
                value_bytes: map.value_size(),
                entries: fixed.then_some(map.max_entries()),
                pinned: map.pinning() == PinningType::ByName,
            };
            (name.as_str(), declared)
        })
        .collect();
    assert_eq!(declared, listed, "left: gateway-ebpf/src/maps.rs, right: gateway-common's list");
}

fn from_list(map: &Description) -> Declared {
    let bytes = |bytes: usize| u32::try_from(bytes).expect("keys and values are small");
    Declared {
        kind: map.kind.number(),
        flags: map.kind.flags(),
        key_bytes: bytes(map.key_bytes),
        value_bytes: bytes(map.value_bytes),
        entries: match map.bound {
            Bound::Fixed(entries) => Some(entries),
            _ => None,
        },
        pinned: map.lifetime == Lifetime::Pinned,
    }
}

#[test]
fn programs_use_exactly_the_maps_that_the_list_says() {
    let used = users::of_maps(OBJECT);
    for map in ALL {
        let listed: BTreeSet<&str> =
            map.writers.iter().chain(map.readers).flat_map(|user| user.programs()).copied().collect();
        let used: BTreeSet<&str> =
            used.get(map.name).into_iter().flatten().map(|program| caller(program)).collect();
        assert_eq!(used, listed, "{}: left: the object's programs, right: the list's", map.name);
    }
}

/// Returns the program that tail-calls a program, or the program itself if none does.
fn caller(program: &str) -> &str {
    match program {
        "outer" | "site_v4" | "site_v6" => "internet_ingress",
        "server_v4" | "server_v6" => "lan_ingress",
        _ => program,
    }
}

#[test]
fn sizes_grow_with_the_limits() {
    let sizes = Sizes { tunnels: 10, customers: 20, flows: 31, flows6: 50 };
    let entries = |name| ALL.iter().find(|map| map.name == name).map(|map| map.bound.entries(&sizes, 3));
    for (name, expected) in [
        ("SETTINGS", 1),
        ("BINDINGS", 321),
        ("TUNNELS", 11),
        ("CUSTOMERS", 20),
        ("PEERS", 20),
        ("INBOUND_SPIS", 160),
        ("FLOWS", 31),
        // 96 spare nodes for each CPU, in full lists of 32: nodes 0 to 320, and 0 to 352.
        ("NODES", 161),
        ("NODES6", 177),
        ("WHEELS", 3),
        ("COUNTERS", 21),
    ] {
        assert_eq!(entries(name), Some(expected), "{name}");
    }
}

#[test]
fn architecture_has_the_table_of_maps() {
    let text = fs::read_to_string(ARCHITECTURE).expect("ARCHITECTURE.md is readable");
    let (begin, end) = ("<!-- maps -->\n", "<!-- /maps -->");
    let (_, rest) = text.split_once(begin).expect("ARCHITECTURE.md has the line <!-- maps -->");
    let (found, _) = rest.split_once(end).expect("ARCHITECTURE.md has the line <!-- /maps -->");
    let expected = table();
    assert!(found == expected, "replace the block in ARCHITECTURE.md by:\n{begin}{expected}{end}");
}

/// The list in Markdown.
fn table() -> String {
    let mut table = String::from(
        "| map | type | key → value | entries | pinned | written by | read by | holds |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for map in ALL {
        let Description { name, sentence, kind, bound, writers, readers, .. } = map;
        let types = match kind {
            Kind::RingBuffer => format!("`{}`", map.value),
            _ => format!("`{}` → `{}`", map.key, map.value),
        };
        let pinned = match map.lifetime {
            Lifetime::Pinned => "yes",
            Lifetime::Programs => "no",
        };
        let (writers, readers) = (join(writers), join(readers));
        writeln!(
            table,
            "| {name} | {kind} | {types} | {bound} | {pinned} | {writers} | {readers} | {sentence} |"
        )
        .expect("a String takes everything");
    }
    table
}

fn join(users: &[User]) -> String {
    users.iter().map(User::to_string).collect::<Vec<_>>().join(", ")
}
