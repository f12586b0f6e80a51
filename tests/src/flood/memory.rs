//! Kernel memory for one flow: what the kernel says that a table and its nodes take, all overhead
//! included, divided by the flows there is room for.
use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
};

use anyhow::{Context, Result};
use aya::maps::MapData;
use gateway::kernel::{
    pins::Pins,
    programs::{self, Purpose, Sizes},
};

/// Flows of each family.
const FLOWS: u32 = 1 << 20;
/// The most that one IPv4 flow may take.
pub const MOST_BYTES_V4: f64 = 160.0;

/// Bytes for one IPv4 flow and for one IPv6 flow.
pub fn bytes_per_flow() -> Result<[f64; 2]> {
    let pins = Pins::new(PathBuf::from("/run/gateway-flood/memory"));
    pins.prepare()?;
    let sizes = Sizes { tunnels: 1, customers: 1, flows: FLOWS, flows6: FLOWS };
    let measured = programs::load(&pins, sizes, Purpose::Gateway).and_then(|_ebpf| {
        let each = |maps: [&str; 2]| -> Result<f64> {
            Ok((memory(&pins, maps[0])? + memory(&pins, maps[1])?) as f64 / f64::from(FLOWS))
        };
        Ok([each(["FLOWS", "NODES"])?, each(["FLOWS6", "NODES6"])?])
    });
    pins.remove()?;
    measured
}

/// Bytes of one pinned map, as `map_mem_usage` of the kernel counts them.
fn memory(pins: &Pins, name: &str) -> Result<u64> {
    let map = MapData::from_pin(pins.map(name)).with_context(|| format!("open {name}"))?;
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let info = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).with_context(|| format!("{path} has no memlock"))
}
