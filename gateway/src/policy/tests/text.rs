//! The printed form of faults.
use std::fs;

use super::{Dir, GATEWAY, example};

fn printed(dir: &Dir) -> String {
    let faults = dir.load().unwrap_err();
    faults.to_string().replace(&format!("{}/", dir.0.display()), "policies/")
}

#[test]
fn all_faults_are_printed_at_once_in_order() {
    let dir = Dir::new();
    dir.write("gateway.toml", GATEWAY.replace("cloud_lan", "cloud-lan"));
    dir.write(
        "customers/acme.toml",
        r#"server = "10.200.0.300"
port = "80"

[[site]]
nmae = "berlin"
identity = "%any"
lan = ["192.168.1.0/16", "fd00::/8"]
"#,
    );
    let expected = r#"policies/customers/acme.toml:1:10: error: `10.200.0.300` is not an IP address
    1 | server = "10.200.0.300"
      |          ^^^^^^^^^^^^^^
      expected: an IP address, such as `10.200.0.11` or `fd00:200::11`

policies/customers/acme.toml:2:8: error: this is a string
    2 | port = "80"
      |        ^^^^
      expected: an integer

policies/customers/acme.toml:4:1: error: this site has no `name`
    4 | [[site]]
      | ^^^^^^^^
      expected: `name = "berlin"`

policies/customers/acme.toml:5:1: error: this site has no key `nmae`, did you mean `name`?
    5 | nmae = "berlin"
      | ^^^^
      expected: `name`, `identity`, `lan`, `path_mtu`, `max_flows`, `max_half_open`

policies/customers/acme.toml:6:12: error: the identity `%any` contains '%', and an identity must name exactly one peer
    6 | identity = "%any"
      |            ^^^^^^
      expected: a domain name that is a subject alternative name of the certificate, such as `berlin.acme.example`

policies/customers/acme.toml:7:8: error: `192.168.1.0/16` has host bits set
    7 | lan = ["192.168.1.0/16", "fd00::/8"]
      |        ^^^^^^^^^^^^^^^^
      expected: `192.168.0.0/16`, or `192.168.1.0/32` for this one address

policies/customers/acme.toml:7:26: error: `fd00::/8` is too wide
    7 | lan = ["192.168.1.0/16", "fd00::/8"]
      |                          ^^^^^^^^^^
      expected: a prefix length from 16 to 128

policies/gateway.toml:1:1: error: [interfaces] has no `cloud_lan`
    1 | [interfaces]
      | ^^^^^^^^^^^^
      expected: `cloud_lan = "10.200.0.0/24"`

policies/gateway.toml:4:1: error: [interfaces] has no key `cloud-lan`, did you mean `cloud_lan`?
    4 | cloud-lan = "10.200.0.0/24"
      | ^^^^^^^^^
      expected: `internet`, `lan`, `cloud_lan`

9 faults in 2 files"#;
    assert_eq!(printed(&dir), expected);
}

#[test]
fn several_syntax_errors_are_printed_without_guesses() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", "server = \nport 80\n[[site]\n");
    let expected = [
        "customers/acme.toml:1:10: string values must be quoted",
        "customers/acme.toml:2:6: key with no value",
        "customers/acme.toml:3:8: unclosed array table",
    ];
    assert_eq!(dir.faults(), expected);
}

#[test]
fn columns_count_characters() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", "\"ü\" = 1\nserver = \"1\"\nsite = [{ \"ßß\" = 1, x = 1 }]\n");
    let faults = dir.faults();
    assert!(
        faults.iter().any(|f| f.starts_with("customers/acme.toml:3:21: this site has no key `x`")),
        "{faults:?}"
    );
}

#[test]
fn terminal_escapes_in_a_file_are_not_printed() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", "server = \"\u{1b}[2J\"\n\"\\u001b\\n\u{202e}\" = 1\n");
    let printed = printed(&dir);
    assert!(!printed.contains(['\u{1b}', '\u{202e}']), "{printed:?}");
}

#[test]
fn long_line_is_cut_around_the_mark() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", format!("server = {}\"x\"{}\n", " ".repeat(5000), "#".repeat(5000)));
    let printed = printed(&dir);
    let mut lines = printed.lines().skip_while(|line| !line.contains(":1:5010: error"));
    let (line, mark) = (lines.nth(1).unwrap(), lines.next().unwrap());
    assert!(line.len() < 120, "{line}");
    assert_eq!(line.find("\"x\""), mark.find("^^^"));
}

#[test]
fn thousands_of_faults_in_a_file_are_bounded() {
    let dir = Dir::new();
    let keys: String = (0..20_000).map(|n| format!("key{n} = {n}\n")).collect();
    dir.write("customers/acme.toml", keys);
    let faults = dir.faults();
    assert_eq!(faults.len(), 65);
    assert_eq!(faults[0], "customers/acme.toml: 19938 more faults are not shown");
}

#[test]
fn documented_report_equals_the_printed_one() {
    let docs = fs::read_to_string(example().join("../docs/policies.md")).unwrap();
    let between = |start: &str| docs.split(start).nth(1).unwrap().split("\n```").next().unwrap().to_owned();
    let dir = Dir::new();
    for file in ["gateway", "customers/acme", "customers/globex", "customers/initech"] {
        let file = format!("{file}.toml");
        dir.write(&file, fs::read(example().join(&file)).unwrap());
    }
    dir.write("customers/umbrella.toml", between("umbrella.toml`\n\n```toml\n") + "\n");
    assert_eq!(printed(&dir), between("the report is:\n\n```\n"));
}
