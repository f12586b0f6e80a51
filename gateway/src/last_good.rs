//! The last good policy, kept on disk for the next start: one customer's fault must not keep the others down then.
//!
//! The file holds the texts of the policy files as they were when they came into force, and which credentials were in
//! force, by path: it has no secrets. Nothing in it is trusted more than a policy file: texts are checked again, and what
//! is not valid is as if it were not there.
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    atomic,
    policy::{Identity, Ipsec, MAX_FILE_BYTES, Texts, parse_path, read_regular},
};

/// Name of the file in the state directory.
pub const FILE: &str = "last-good.json";
/// Largest file in bytes: above a million customers with files of 300 bytes.
const MAX_BYTES: u64 = 512 << 20;
const VERSION: u32 = 1;
/// Permission bits of everyone but the owner.
const OTHERS: u32 = 0o077;

/// The files that a policy in force was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastGood {
    /// The texts of its files.
    pub texts: Texts,
    /// The gateway's identity and the paths of its credentials. `gateway.toml` may name others that had faults.
    pub ipsec: Option<Ipsec>,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    version: u32,
    ipsec: Option<IpsecPaths>,
    gateway: Option<T>,
    customers: BTreeMap<String, T>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IpsecPaths {
    identity: String,
    certificate: PathBuf,
    private_key: PathBuf,
    authority: PathBuf,
}

impl LastGood {
    /// Reads the file of the state directory. Returns `None` if there is none, or if it cannot be used, which the log
    /// tells.
    pub fn read(state: &Path) -> Option<Self> {
        let path = state.join(FILE);
        match read(&path) {
            Ok(last_good) => last_good,
            Err(error) => {
                warn!("the last good policy cannot be used: {}: {error:#}", path.display());
                None
            }
        }
    }

    /// Replaces the file of the state directory. If that fails no file is left: an older policy than the last good one
    /// may allow what is forbidden since.
    pub fn write(&self, state: &Path) -> Result<()> {
        let path = state.join(FILE);
        let written = self.to_json().and_then(|json| Ok(atomic::write(&path, &json)?));
        if written.is_err() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return written.with_context(|| {
                        format!("write {}, where an older policy is left ({error})", path.display())
                    });
                }
                _ => {}
            }
        }
        written.with_context(|| format!("write {}", path.display()))
    }

    fn to_json(&self) -> Result<Vec<u8>> {
        let Self { texts, ipsec } = self;
        let customers = texts.customers.iter().map(|(name, text)| (name.to_string(), &**text)).collect();
        let ipsec = ipsec.as_ref().map(IpsecPaths::of);
        let document = Document { version: VERSION, ipsec, gateway: texts.gateway.as_deref(), customers };
        let json = serde_json::to_vec(&document)?;
        ensure!(json.len() as u64 <= MAX_BYTES, "{} bytes are too many", json.len());
        Ok(json)
    }

    /// Parses the file's content. A customer whose name or size no policy file could have is left out.
    fn parse(json: &[u8]) -> Result<Self> {
        // The error's own text may quote the file.
        let document: Document<String> = serde_json::from_slice(json)
            .map_err(|error| anyhow!("unexpected at line {}, column {}", error.line(), error.column()))?;
        ensure!(document.version == VERSION, "version is {}, expected {VERSION}", document.version);
        let fits = |text: &String| text.len() as u64 <= MAX_FILE_BYTES;
        let customers = document.customers.into_iter().filter(|(_, text)| fits(text));
        let customers = customers.filter_map(|(name, text)| Some((name.parse().ok()?, Arc::from(text))));
        let texts =
            Texts { gateway: document.gateway.filter(fits).map(Arc::from), customers: customers.collect() };
        Ok(Self { texts, ipsec: document.ipsec.and_then(IpsecPaths::parse) })
    }
}

fn read(path: &Path) -> Result<Option<LastGood>> {
    let (json, metadata) = match read_regular(path, MAX_BYTES) {
        Ok(read) => read,
        Err(unread) if unread.is_missing() => return Ok(None),
        Err(unread) => return Err(unread.into()),
    };
    let owned = metadata.uid() == geteuid().as_raw() && metadata.mode() & OTHERS == 0;
    ensure!(owned, "others than its owner, gatewayd's user, may have written it");
    LastGood::parse(&json).map(Some)
}

impl IpsecPaths {
    fn of(ipsec: &Ipsec) -> Self {
        let Ipsec { identity, certificate, private_key, authority } = ipsec.clone();
        Self { identity: identity.to_string(), certificate, private_key, authority }
    }

    fn parse(self) -> Option<Ipsec> {
        let path = |path: PathBuf| parse_path(path.to_str()?).ok();
        Some(Ipsec {
            identity: self.identity.parse::<Identity>().ok()?,
            certificate: path(self.certificate)?,
            private_key: path(self.private_key)?,
            authority: path(self.authority)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use proptest::prelude::*;

    use super::*;

    fn example() -> LastGood {
        let customers = [("acme", "server = 1\n\"\\\u{e9}"), ("globex", "")];
        let customers = customers.map(|(name, text)| (name.parse().unwrap(), Arc::from(text)));
        LastGood {
            texts: Texts { gateway: Some("[interfaces]".into()), customers: customers.into() },
            ipsec: Some(Ipsec {
                identity: "gateway.example".parse().unwrap(),
                certificate: "/a.crt".into(),
                private_key: "/a.key".into(),
                authority: "/ca.crt".into(),
            }),
        }
    }

    #[test]
    fn what_is_written_is_read_and_its_owners_alone() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(LastGood::read(state.path()), None);
        for last_good in [example(), LastGood::default()] {
            last_good.write(state.path()).unwrap();
            assert_eq!(LastGood::read(state.path()), Some(last_good));
        }
        let path = state.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(LastGood::read(state.path()), None, "others may have written it");
    }

    #[test]
    fn failed_write_leaves_no_older_policy() {
        let state = tempfile::tempdir().unwrap();
        example().write(state.path()).unwrap();
        // A directory in the place of the temporary file.
        fs::create_dir(state.path().join(format!("{FILE}.new"))).unwrap();
        let error = format!("{:#}", LastGood::default().write(state.path()).unwrap_err());
        assert!(error.starts_with("write ") && error.contains(FILE), "{error}");
        assert_eq!(LastGood::read(state.path()), None);
    }

    #[test]
    fn entries_that_no_policy_could_have_are_left_out() {
        let long = "#".repeat(MAX_FILE_BYTES as usize + 1);
        let json = serde_json::json!({
            "version": 1,
            "ipsec": { "identity": "%any", "certificate": "/a", "private_key": "/b", "authority": "/c" },
            "gateway": long,
            "customers": { "acme": "x", "../../etc": "x", "Globex": "x", "long": long },
        });
        let read = LastGood::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!((read.ipsec, read.texts.gateway), (None, None));
        assert_eq!(read.texts.customers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["acme"]);
    }

    #[test]
    fn damaged_file_is_as_if_there_were_none() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(FILE);
        example().write(state.path()).unwrap();
        let good = fs::read(&path).unwrap();
        let newer = String::from_utf8(good.clone()).unwrap().replace("\"version\":1", "\"version\":2");
        for bad in [&b""[..], b"{", b"[]", &good[..good.len() - 1], newer.as_bytes()] {
            fs::write(&path, bad).unwrap();
            assert_eq!(LastGood::read(state.path()), None, "{}", String::from_utf8_lossy(bad));
        }
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        assert_eq!(LastGood::read(state.path()), None, "a device");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_change_of_the_file_is_read_or_refused(
            at in any::<prop::sample::Index>(), length in 0usize..8, piece in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut json = example().to_json().unwrap();
            let start = at.index(json.len());
            json.splice(start..(start + length).min(json.len()), piece);
            if let Ok(read) = LastGood::parse(&json) {
                prop_assert_eq!(LastGood::parse(&read.to_json().unwrap()).unwrap(), read);
            }
        }
    }
}
