//! Errors of commands and connections to charon.

use std::{io, path::PathBuf, time::Duration};

/// A failed command or connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket is missing or refuses connections: charon is not running.
    #[error("cannot connect to charon at {path}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another user listens on the socket and would receive private keys.
    #[error("{path} is served by uid {uid}: expected root or the user of this process")]
    ForeignPeer {
        /// The socket's path.
        path: PathBuf,
        /// The user that listens on the socket.
        uid: u32,
    },
    /// Reading or writing failed. The connection is closed.
    #[error("the connection to charon failed")]
    Io(#[from] io::Error),
    /// charon closed the connection, or an earlier error did.
    #[error("charon closed the connection")]
    Closed,
    /// The answer did not come in time. VICI has no request numbers, so a late answer would be taken for that
    /// of the next command. The connection is closed.
    #[error("charon did not answer `{command}` within {after:?}")]
    Timeout {
        /// The command.
        command: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// charon violated the protocol or exceeded a bound. The connection is closed.
    #[error("charon sent a malformed message: {0}")]
    Malformed(String),
    /// charon does not know the command or event: it is too old or lacks a plugin.
    #[error("charon does not know `{0}`: strongSwan 5.9 or newer with the vici plugin is needed")]
    Unknown(&'static str),
    /// charon answered `success = no`.
    #[error("charon refused `{command}`: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// charon's error message.
        reason: String,
    },
    /// VICI cannot express the value, or charon would interpret it differently. Nothing was sent.
    #[error("invalid {field} `{value}`: expected {expected}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The rejected value, shortened.
        value: String,
        /// A description of valid values.
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
