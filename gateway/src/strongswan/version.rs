//! charon's version.

use serde::Deserialize;

/// charon's version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// The daemon's name, `charon`.
    pub daemon: String,
    /// strongSwan's version, e.g. `5.9.8`.
    pub version: String,
    /// The operating system.
    pub sysname: String,
    /// The kernel's version.
    pub release: String,
    /// The hardware.
    pub machine: String,
}

impl Version {
    /// Shortens every text and replaces control characters: the version ends up in logs and on terminals.
    pub(super) fn printable(self) -> Self {
        const MAX_CHARACTERS: usize = 64;
        let plain = |text: String| {
            let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
            text.chars().take(MAX_CHARACTERS).map(visible).collect()
        };
        let Self { daemon, version, sysname, release, machine } = self;
        Self {
            daemon: plain(daemon),
            version: plain(version),
            sysname: plain(sysname),
            release: plain(release),
            machine: plain(machine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_has_no_control_characters_and_bounded_length() {
        let text = |text: &str| text.to_owned();
        let version = Version {
            daemon: text("charon\n"),
            version: text("5.9.8\u{1b}[2J"),
            sysname: "x".repeat(100_000),
            release: text("6.12\r"),
            machine: text("x86_64\0"),
        };
        let Version { daemon, version, sysname, release, machine } = version.printable();
        assert_eq!(version, "5.9.8\u{fffd}[2J");
        assert_eq!(sysname.len(), 64);
        assert!([daemon, version, release, machine].iter().all(|text| !text.chars().any(char::is_control)));
    }
}
