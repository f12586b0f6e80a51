//! Checks of values before charon gets them.
//!
//! charon gives some characters a meaning (`%any`, `*`, `#…`), so names and identities are limited to plain
//! ones.
use std::{borrow::Cow, time::Duration};

use super::{error::Error, message::MAX_VALUE_BYTES};

/// Keys that stand beside the connection's name in event messages (see `events`).
const RESERVED_NAMES: [&str; 5] = ["up", "local-host", "local-port", "remote-host", "remote-port"];

/// Checks the name of a connection or child: no character that VICI, charon or a terminal interprets.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
        return Err(Error::invalid(field, name, "1 to 128 letters, digits, `.`, `_`, `-`"));
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(Error::invalid(field, name, "a name that is not a key of VICI events"));
    }
    Ok(())
}

/// Checks that raw bytes fit into a value.
pub(super) fn check_blob(field: &'static str, blob: &[u8]) -> Result<(), Error> {
    if blob.is_empty() || blob.len() > MAX_VALUE_BYTES {
        return Err(Error::invalid(field, &format!("{} bytes", blob.len()), "1 to 65535 bytes"));
    }
    Ok(())
}

/// Checks for a host name: charon takes `*` and `%any` for wildcards and `#` for hex.
pub(super) fn check_identity(field: &'static str, identity: &str) -> Result<(), Error> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if identity.len() > 253 || !identity.split('.').all(label) {
        return Err(Error::invalid(field, identity, "a host name without wildcards"));
    }
    Ok(())
}

/// Checks the form of proposals. charon checks the algorithms.
pub(super) fn check_proposals(field: &'static str, proposals: &[Cow<'_, str>]) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let bad = |proposal: &&Cow<'_, str>| {
        proposal.is_empty() || proposal.len() > 256 || !proposal.bytes().all(plain)
    };
    if proposals.is_empty() || proposals.len() > 16 {
        return Err(Error::invalid(field, "", "1 to 16 proposals"));
    }
    match proposals.iter().find(bad) {
        Some(proposal) => Err(Error::invalid(field, proposal, "algorithms joined by `-`")),
        None => Ok(()),
    }
}

/// Checks an interval: charon takes 0 for never.
pub(super) fn check_time(field: &'static str, time: Duration) -> Result<(), Error> {
    if time < Duration::from_secs(1) {
        return Err(Error::invalid(field, &format!("{time:?}"), "at least 1 s"));
    }
    Ok(())
}
