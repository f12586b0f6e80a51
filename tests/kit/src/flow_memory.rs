//! Kernel memory for one flow: the kernel's figure for a table and its nodes, all overhead included, divided
//! by the table's capacity.
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

/// Capacity of each family's table.
pub const FLOWS: u32 = 1 << 20;
/// Largest allowed size of one IPv4 flow.
pub const MOST_BYTES_V4: f64 = 160.0;

/// Memory of one family's maps.
pub struct Memory {
    /// Bytes for [`FLOWS`] flows.
    all: u64,
    /// Bytes for each additional flow.
    pub each: f64,
}

impl Memory {
    /// Returns all bytes divided by the capacity.
    pub fn per_flow(&self) -> f64 {
        self.all as f64 / f64::from(FLOWS)
    }

    /// Returns the bytes of the maps' own structures, independent of the capacity.
    pub fn fixed(&self) -> f64 {
        self.all as f64 - self.each * f64::from(FLOWS)
    }
}

/// Measures the maps of IPv4 and of IPv6.
pub fn measure() -> Result<[Memory; 2]> {
    let [half, all] = [tables(FLOWS / 2)?, tables(FLOWS)?];
    let memory = |family: usize| Memory {
        all: all[family],
        each: (all[family] - half[family]) as f64 / f64::from(FLOWS / 2),
    };
    Ok([memory(0), memory(1)])
}

/// Returns the bytes of tables with the given capacity, for IPv4 and IPv6.
fn tables(flows: u32) -> Result<[u64; 2]> {
    let pins = Pins::new(PathBuf::from("/run/gateway-flood/memory"));
    pins.prepare()?;
    let sizes = Sizes { tunnels: 1, customers: 1, flows, flows6: flows };
    let measured = programs::load(&pins, sizes, Purpose::Gateway).and_then(|_ebpf| {
        Ok([
            memory(&pins, "FLOWS")? + memory(&pins, "NODES")?,
            memory(&pins, "FLOWS6")? + memory(&pins, "NODES6")?,
        ])
    });
    pins.remove()?;
    measured
}

/// Returns the bytes of one pinned map, as counted by the kernel's `map_mem_usage`.
fn memory(pins: &Pins, name: &str) -> Result<u64> {
    let map = MapData::from_pin(pins.map(name)).with_context(|| format!("open {name}"))?;
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let info = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).with_context(|| format!("{path} has no memlock"))
}
