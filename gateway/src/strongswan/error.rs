//! What can go wrong between us and charon.

use std::{io, path::PathBuf, time::Duration};

/// A failed command or connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket is absent or does not accept: charon does not run.
    #[error("cannot connect to charon at {path}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else listens on the socket; private keys would go to them.
    #[error("{path} is served by uid {uid}, neither root nor this process's user: not trusted")]
    ForeignPeer {
        /// The socket's path.
        path: PathBuf,
        /// Who listens there.
        uid: u32,
    },
    /// Reading or writing failed; the connection is closed.
    #[error("connection to charon failed")]
    Io(#[from] io::Error),
    /// charon went away (or the connection was closed after an earlier error).
    #[error("charon closed the connection")]
    Closed,
    /// No answer in time. VICI has no request numbers, so the connection is closed: a late answer would
    /// be taken for that of the next command.
    #[error("charon did not answer `{command}` within {after:?}")]
    Timeout {
        /// The command.
        command: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// charon sent what the protocol forbids or a bound refuses; the connection is closed.
    #[error("charon sent a malformed message: {0}")]
    Malformed(String),
    /// charon does not know the command or event (too old, or a plugin is missing).
    #[error("charon does not know `{0}`")]
    Unknown(&'static str),
    /// charon refused: `success = no`.
    #[error("charon refused `{command}`: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// charon's own words.
        reason: String,
    },
    /// The request cannot be expressed, or would mean something else to charon. Nothing was sent.
    #[error("{field} `{value}`: {expected}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it held, shortened.
        value: String,
        /// What it may hold.
        expected: &'static str,
    },
}

impl Error {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    pub(super) fn invalid(field: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Invalid { field, value: value.chars().take(64).collect(), expected }
    }
}
