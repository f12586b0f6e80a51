//! The credential files that the policy names.
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::fault::{Faults, Source};
use super::gateway::{Gateway, Ipsec};

/// Permission bits of everyone but the owner and the group.
const OTHERS: u32 = 0o007;
/// Permission bit that lets the group write.
const GROUP_WRITE: u32 = 0o020;

/// Checks that certificate, key and authority exist and that other users cannot access the key.
/// strongSwan checks their content.
pub fn check_secrets(gateway: &Gateway) -> Faults {
    let Ipsec { identity: _, certificate, private_key, authority } = &gateway.ipsec;
    let mut faults = Faults::default();
    check(certificate, "the gateway's certificate", None, &mut faults);
    check(private_key, "the gateway's private key", Some(OTHERS | GROUP_WRITE), &mut faults);
    check(authority, "the certificate authority's certificate", None, &mut faults);
    faults
}

fn check(path: &Path, what: &str, forbidden: Option<u32>, faults: &mut Faults) {
    let source = Source { path: path.to_owned(), text: None };
    let metadata = match File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) => metadata,
        Err(error) => {
            faults.insert(source.fault(format!("cannot read {what}: {error}"), "a PEM file"));
            return;
        }
    };
    if !metadata.is_file() || metadata.len() == 0 {
        faults.insert(source.fault(format!("{what} is not a regular file, or is empty"), "a PEM file"));
        return;
    }
    let mode = metadata.mode() & 0o7777;
    if let Some(forbidden) = forbidden
        && mode & forbidden != 0
    {
        let message = format!("{what} is accessible to other users: its mode is {mode:04o}");
        faults.insert(source.fault(message, format!("`chmod 600 {}`", path.display())));
    }
}

/// Returns the fault of a credential file that passed [`check_secrets`] but could not be read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Faults {
    let mut faults = Faults::default();
    let source = Source { path: path.to_owned(), text: None };
    faults.insert(source.fault(format!("cannot read this file: {error}"), "a PEM file"));
    faults
}
