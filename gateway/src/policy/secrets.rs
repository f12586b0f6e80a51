//! Whether the files that the policy names are there.
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::fault::{Faults, Source};
use super::{Gateway, Ipsec};

/// Permission bits of anybody but the owner and the group.
const OTHERS: u32 = 0o007;
/// Permission bits of the group that let it write.
const GROUP_WRITE: u32 = 0o020;

/// Whether certificate, key and authority can be read, and the key by nobody it is not meant for.
/// Their content is strongSwan's to judge.
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
            faults.insert(source.fault(format!("{what} cannot be read: {error}"), "a PEM file"));
            return;
        }
    };
    if !metadata.is_file() || metadata.len() == 0 {
        faults.insert(source.fault(format!("{what} is not a file, or is empty"), "a PEM file"));
        return;
    }
    let mode = metadata.mode() & 0o7777;
    if let Some(forbidden) = forbidden
        && mode & forbidden != 0
    {
        let message = format!("{what} is open to others: its mode is {mode:04o}");
        faults.insert(source.fault(message, format!("`chmod 600 {}`", path.display())));
    }
}

/// A secret that could be looked at but not read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Faults {
    let mut faults = Faults::default();
    let source = Source { path: path.to_owned(), text: None };
    faults.insert(source.fault(format!("cannot be read: {error}"), "a PEM file"));
    faults
}
