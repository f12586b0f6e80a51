//! Copies of a certificate and what belongs to it, for a gateway or site.
use std::{
    fs::DirBuilder,
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gateway_pki::{Name, Pki, Record, export};

/// Largest certificate or key in bytes.
const MAX_FILE: u64 = 0xffff;

/// Fails if a delivery of this name would overwrite anything.
pub fn check(pki: &Pki, folder: &Path, name: &Name, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    let own = ["crt", "key"].map(|extension| folder.join(format!("{name}.{extension}")));
    if let Some(path) = own.iter().find(|path| path.symlink_metadata().is_ok()) {
        bail!("{} exists: nothing is overwritten without --force", path.display());
    }
    for (path, certificate) in authorities(pki, folder) {
        let present = gateway_pki::read_file(&path, MAX_FILE)?;
        if present.is_some_and(|present| present != certificate.as_bytes()) {
            bail!("{} exists and is another one: nothing is overwritten without --force", path.display());
        }
    }
    Ok(())
}

/// Writes certificate, key and the authorities' certificates into a folder, which is made if there is none. Returns the
/// files.
pub fn write(pki: &Pki, folder: &Path, record: &Record, force: bool) -> Result<Vec<PathBuf>> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("make {}", folder.display()));
        }
        _ => {}
    }
    let mut files = Vec::new();
    let path = folder.join(format!("{}.crt", record.name));
    export(&path, pki.certificate_pem(record)?.as_bytes(), force)?;
    files.push(path);
    if let Some(pem) = pki.key_pem(record)? {
        let path = folder.join(format!("{}.key", record.name));
        export(&path, &pem, force)?;
        files.push(path);
    }
    for (path, certificate) in authorities(pki, folder) {
        if gateway_pki::read_file(&path, MAX_FILE)?.as_deref() != Some(certificate.as_bytes()) {
            export(&path, certificate.as_bytes(), force)?;
        }
        files.push(path);
    }
    Ok(files)
}

fn authorities(pki: &Pki, folder: &Path) -> Vec<(PathBuf, String)> {
    let file = |authority: &gateway_pki::AuthorityRecord| {
        (folder.join(format!("{}.crt", authority.role)), authority.certificate.clone())
    };
    pki.authorities().iter().map(file).collect()
}
