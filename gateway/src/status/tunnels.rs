//! The state of each site's tunnel, in a file with a record for each number of a site: a change writes one record, however
//! many sites there are.
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// Name of the file in the state directory.
pub const FILE: &str = "tunnels";

/// Bytes of a record: the hash of its JSON, a space, the JSON, and spaces up to a final newline. The longest names,
/// addresses and ciphers of charon fit.
const RECORD_BYTES: usize = 512;
/// Hexadecimal digits of the hash: a reader who meets a writer must not take a half-written record.
const HASH_DIGITS: usize = 16;
/// Attempts to read a record, and the pause between them.
const ATTEMPTS: (u32, Duration) = (100, Duration::from_millis(1));

/// The state of one site's tunnel.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The customer's name.
    pub customer: String,
    /// The site's name.
    pub site: String,
    /// The site's number: its map key.
    pub id: u32,
    /// True if an SA with the site's authenticated identity is up.
    pub up: bool,
    /// The peer's outer address and port.
    pub peer: Option<String>,
    /// Names of the negotiated algorithms.
    pub cipher: Option<String>,
    /// True if ESP is encapsulated in UDP.
    pub encapsulated: bool,
    /// The MSS in IPv4 and IPv6, in bytes.
    #[serde(default)]
    pub mss: (u16, u16),
    /// The smallest path MTU in bytes that the kernel has learnt to a peer of the site; `None` if a router on the way has
    /// announced none.
    #[serde(default)]
    pub path_mtu_bytes: Option<u32>,
}

/// The file, open for changes.
#[derive(Debug)]
pub struct TunnelsFile(File);

impl TunnelsFile {
    /// Makes an empty file, which readers do not see before [`publish`](Self::publish).
    pub fn create(state: &Path) -> Result<Self> {
        let new = new_path(state);
        File::create(&new).map(Self).with_context(|| format!("write {}", new.display()))
    }

    /// Puts the file, which has all sites now, in the place of the former one.
    pub fn publish(&self, state: &Path) -> Result<()> {
        let path = state.join(FILE);
        fs::rename(new_path(state), &path).with_context(|| format!("write {}", path.display()))
    }

    /// Writes the record of one tunnel.
    pub fn set(&self, tunnel: &TunnelStatus) -> Result<()> {
        self.write(tunnel.id, &record(tunnel)?)
    }

    /// Removes the record of a site that is gone.
    pub fn remove(&self, id: u32) -> Result<()> {
        self.write(id, &[0; RECORD_BYTES])
    }

    fn write(&self, id: u32, record: &[u8; RECORD_BYTES]) -> Result<()> {
        self.0.write_all_at(record, u64::from(id) * RECORD_BYTES as u64).context("write a tunnel's status")
    }
}

fn new_path(state: &Path) -> PathBuf {
    state.join(format!("{FILE}.new"))
}

/// Reads what was last written, in order of customers and numbers; nothing if gatewayd has not written any yet.
pub fn read(state: &Path) -> Result<Vec<TunnelStatus>> {
    let path = state.join(FILE);
    let context = || format!("read {}", path.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.with_context(context)?,
    };
    let records = file.metadata().with_context(context)?.len() / RECORD_BYTES as u64;
    let mut tunnels = Vec::new();
    for index in 0..records {
        tunnels.extend(read_record(&file, index * RECORD_BYTES as u64).with_context(context)?);
    }
    tunnels.sort_by(|one, other| (&one.customer, one.id).cmp(&(&other.customer, other.id)));
    Ok(tunnels)
}

fn record(tunnel: &TunnelStatus) -> Result<[u8; RECORD_BYTES]> {
    const MOST: usize = RECORD_BYTES - HASH_DIGITS - " \n".len();
    let mut json = serde_json::to_string(tunnel).context("write a tunnel as JSON")?;
    if json.len() > MOST {
        // charon has sent something strange.
        json = serde_json::to_string(&TunnelStatus { cipher: None, peer: None, ..tunnel.clone() })?;
    }
    let mut record = [b' '; RECORD_BYTES];
    record[RECORD_BYTES - 1] = b'\n';
    record[..HASH_DIGITS].copy_from_slice(hash(&json).as_bytes());
    let text = record.get_mut(HASH_DIGITS + 1..HASH_DIGITS + 1 + json.len());
    text.context("a site's names are too long for a record")?.copy_from_slice(json.as_bytes());
    Ok(record)
}

/// Reads one record; None where no site has this number.
fn read_record(file: &File, offset: u64) -> Result<Option<TunnelStatus>> {
    let mut record = [0; RECORD_BYTES];
    for _ in 0..ATTEMPTS.0 {
        file.read_exact_at(&mut record, offset)?;
        if record == [0; RECORD_BYTES] {
            return Ok(None);
        }
        let text = std::str::from_utf8(&record).ok().and_then(|text| text.trim_end().split_once(' '));
        if let Some((written, json)) = text
            && written == hash(json)
        {
            return Ok(Some(serde_json::from_str(json)?));
        }
        thread::sleep(ATTEMPTS.1);
    }
    bail!("the record at byte {offset} is damaged")
}

fn hash(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin(id: u32) -> TunnelStatus {
        TunnelStatus { customer: "acme".into(), site: "berlin".into(), id, ..TunnelStatus::default() }
    }

    fn create<const N: usize>(state: &Path, tunnels: [TunnelStatus; N]) -> TunnelsFile {
        let file = TunnelsFile::create(state).unwrap();
        tunnels.iter().for_each(|tunnel| file.set(tunnel).unwrap());
        file.publish(state).unwrap();
        file
    }

    #[test]
    fn file_that_is_not_whole_is_not_read() {
        let state = tempfile::tempdir().unwrap();
        create(state.path(), [berlin(1)]);
        TunnelsFile::create(state.path()).unwrap();
        assert_eq!(read(state.path()).unwrap(), [berlin(1)]);
    }

    #[test]
    fn tunnels_are_read_as_written_by_customer_and_number() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path()).unwrap(), []);
        let longest = TunnelStatus {
            customer: "a".repeat(32),
            site: "s".repeat(32),
            id: 7,
            peer: Some("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into()),
            cipher: Some("AES_CBC_256/HMAC_SHA2_512_256/CURVE_25519".into()),
            up: true,
            encapsulated: true,
            mss: (u16::MAX, u16::MAX),
            path_mtu_bytes: Some(u32::MAX),
        };
        let file = create(state.path(), [berlin(300), longest.clone(), berlin(2)]);
        assert_eq!(read(state.path()).unwrap(), [longest.clone(), berlin(2), berlin(300)]);
        let up = TunnelStatus { up: true, ..berlin(2) };
        file.set(&up).unwrap();
        assert_eq!(read(state.path()).unwrap(), [longest.clone(), up, berlin(300)]);
        file.remove(2).unwrap();
        assert_eq!(read(state.path()).unwrap(), [longest, berlin(300)]);
        create(state.path(), []);
        assert_eq!(read(state.path()).unwrap(), []);
    }

    #[test]
    fn text_that_does_not_fit_is_left_out() {
        let state = tempfile::tempdir().unwrap();
        let strange = TunnelStatus { cipher: Some("x".repeat(1000)), ..berlin(1) };
        create(state.path(), [strange]);
        assert_eq!(read(state.path()).unwrap(), [berlin(1)]);
    }

    #[test]
    fn half_written_record_is_not_taken() {
        let state = tempfile::tempdir().unwrap();
        let file = create(state.path(), [berlin(1)]);
        let other = record(&TunnelStatus { up: true, ..berlin(1) }).unwrap();
        file.0.write_all_at(&other[..100], RECORD_BYTES as u64).unwrap();
        let error = format!("{:#}", read(state.path()).unwrap_err());
        assert!(error.contains("the record at byte 512 is damaged"), "{error}");
    }

    #[test]
    fn reader_beside_a_writer_sees_whole_records() {
        let state = tempfile::tempdir().unwrap();
        let file = create(state.path(), [berlin(1)]);
        let other = TunnelStatus { peer: Some("203.0.113.200:4500".into()), up: true, ..berlin(1) };
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..2000 {
                    file.set(&other).unwrap();
                    file.set(&berlin(1)).unwrap();
                }
            });
            while !writer.is_finished() {
                let tunnels = read(state.path()).unwrap();
                assert!(tunnels == [berlin(1)] || tunnels == [other.clone()], "{tunnels:?}");
            }
        });
    }
}
