//! The list of checks, and a check's result.

/// A check of `cargo xtask lint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The format of Rust files
    Rustfmt,
    /// No circle between the files of a crate; no test tool uses another
    Imports,
    /// Links, decisions, facts, paths and RFCs lead somewhere, and links in doc comments by rustdoc
    References,
    /// Comments open with their subject
    Language,
    /// clippy for the crates that run on the host
    Clippy,
    /// clippy for the eBPF programs
    ClippyEbpf,
    /// Licenses, duplicate versions and sources of dependencies
    CargoDeny,
}

impl Kind {
    /// All checks, fast ones first.
    pub const ALL: [Self; 7] = [
        Self::Rustfmt,
        Self::Imports,
        Self::References,
        Self::Language,
        Self::Clippy,
        Self::ClippyEbpf,
        Self::CargoDeny,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rustfmt => "rustfmt",
            Self::Imports => "imports",
            Self::References => "references",
            Self::Language => "language",
            Self::Clippy => "clippy",
            Self::ClippyEbpf => "clippy, eBPF",
            Self::CargoDeny => "cargo-deny",
        }
    }

    /// Returns true if the check runs a tool that set-up installs.
    pub fn needs_tools(self) -> bool {
        matches!(self, Self::Rustfmt | Self::References | Self::Clippy | Self::ClippyEbpf | Self::CargoDeny)
    }
}

/// The result of one check.
pub struct Check {
    /// E.g. `clippy, eBPF`.
    pub name: &'static str,
    /// True if it found no fault.
    pub passed: bool,
}
