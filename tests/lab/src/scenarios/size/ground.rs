//! Sizes and steps that these scenarios share.
use anyhow::{Context, Result, ensure};
use gateway_tests_kit::namespace::Namespace;

use crate::{
    device::Connection,
    gateway::{Drops, increase},
    lab::{Lab, Site},
    site::{Ends, Spec, Suite},
};

/// MTU of every link of the lab, in bytes.
pub const LINK_MTU: usize = 1500;
pub const TCP_HEADER_BYTES: usize = 20;
/// Size of a bulk transfer: more than a thousand packets.
pub const BULK_BYTES: usize = 2 << 20;

pub fn transfer(site: Site<'_>, ends: Ends) -> Result<()> {
    let mut connection = Connection::open(site.device, ends.server)?;
    connection.upload(BULK_BYTES).with_context(|| format!("{} uploads", site.spec.full_name()))?;
    connection.download(BULK_BYTES).with_context(|| format!("{} downloads", site.spec.full_name()))
}

pub fn ensure_no_drops(lab: &Lab, before: &Drops) -> Result<()> {
    let dropped = increase(before, &lab.drops()?);
    ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    Ok(())
}

/// Runs `change` and `work`, then `undo`, whatever fails.
pub fn with_change(
    change: impl FnOnce() -> Result<()>,
    work: impl FnOnce() -> Result<()>,
    undo: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let done = change().and_then(|()| work());
    match (done, undo().context("cannot undo the change")) {
        (Err(error), Err(also)) => Err(error.context(format!("{also:#}"))),
        (done, undone) => done.and(undone),
    }
}

/// Returns the largest inner packet of a tunnel over a path of `path_mtu` bytes: RFC 4303 section 2 (SPI,
/// sequence number, IV, padding and two bytes after it, ICV), RFC 3948 section 2.1 for ESP in UDP.
pub fn tunnel_mtu(site: &Spec, path_mtu: usize) -> usize {
    let (iv, icv, block) = match site.suite {
        Suite::Gcm => (8, 16, 4),
        Suite::Cbc => (16, 32, 16),
    };
    let ip = if site.uplink_v6 { 40 } else { 20 };
    let udp = if site.behind_nat { 8 } else { 0 };
    (path_mtu - ip - udp - 8 - iv - icv) / block * block - 2
}

pub fn server_of<'a>(lab: &'a Lab, site: Site<'_>) -> Result<&'a Namespace> {
    lab.topology.server(site.spec.customer)
}
