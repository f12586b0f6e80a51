//! Errors of the registry.
use std::io;
use std::path::PathBuf;

/// The reason why the registry cannot assign ids.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file exists but its content is invalid.
    #[error(
        "{}: the id registry is damaged: {reason}. Restore it from a backup, or run `gatewayctl detach` and then \
         remove it: every customer and tunnel gets a new id", path.display()
    )]
    Damaged {
        /// The registry's file.
        path: PathBuf,
        /// The fault in its content.
        reason: String,
    },
    /// The file cannot be read or written.
    #[error("cannot {action} the id registry {}: {source}", path.display())]
    Io {
        /// The registry's file.
        path: PathBuf,
        /// `read` or `write`.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A limit is below an id in use.
    #[error("{owner} has {kind} id {id}, but [limits] {kind}s is {limit}: raise it to at least {id}")]
    BeyondLimit {
        /// `tunnel` or `customer`.
        kind: &'static str,
        /// The owner of the id.
        owner: String,
        /// The id.
        id: u32,
        /// The limit.
        limit: u32,
    },
    /// There are more owners than ids.
    #[error("no {kind} id is left for {owner}: all {limit} are in use, raise [limits] {kind}s")]
    Exhausted {
        /// `tunnel` or `customer`.
        kind: &'static str,
        /// The owner without an id.
        owner: String,
        /// The limit.
        limit: u32,
    },
}
