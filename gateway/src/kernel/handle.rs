//! Typed handles of pinned maps. Names and types come from the list in `gateway_common::layout::map_list`.
use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{self, Array, HashMap, MapData, PerCpuArray, RingBuf},
};
use gateway_common::layout::{DropEvent, map_list::Map};

use crate::kernel::{bulk::Bulk, mapped::Mapped, pins::Pins};

/// Opens an array.
pub fn array<V: Pod>(pins: &Pins, map: &Map<u32, V>) -> Result<Array<MapData, V>> {
    let name = map.description.name;
    Array::try_from(open(pins, name)?).with_context(|| format!("map {name}"))
}

/// Opens an array that has a value for each CPU.
pub fn per_cpu_array<V: Pod>(pins: &Pins, map: &Map<u32, V>) -> Result<PerCpuArray<MapData, V>> {
    let name = map.description.name;
    PerCpuArray::try_from(open(pins, name)?).with_context(|| format!("map {name}"))
}

/// Opens a hash table.
pub fn hash<K: Pod, V: Pod>(pins: &Pins, map: &Map<K, V>) -> Result<HashMap<MapData, K, V>> {
    let name = map.description.name;
    HashMap::try_from(open(pins, name)?).with_context(|| format!("map {name}"))
}

/// Opens the ring buffer of drop events.
pub fn ring_buffer(pins: &Pins, map: &Map<(), DropEvent>) -> Result<RingBuf<MapData>> {
    let name = map.description.name;
    RingBuf::try_from(open(pins, name)?).with_context(|| format!("map {name}"))
}

/// Opens an array and maps it into this process's memory.
pub fn mapped<V: Pod + Default>(pins: &Pins, map: &Map<u32, V>) -> Result<Mapped<V>> {
    let name = map.description.name;
    Mapped::new(&data(pins, name)?).with_context(|| format!("map {name}"))
}

/// Opens a map for reading and writing many entries at a time.
pub fn bulk<K: Pod + Default, V: Pod + Default>(pins: &Pins, map: &Map<K, V>) -> Result<Bulk<K, V>> {
    let name = map.description.name;
    Bulk::new(data(pins, name)?).with_context(|| format!("map {name}"))
}

/// Returns the bytes of kernel memory that a pinned map takes, by the kernel's account.
pub fn memory_bytes(pins: &Pins, name: &str) -> Result<u64> {
    let map = data(pins, name)?;
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let info = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0))
}

fn open(pins: &Pins, name: &str) -> Result<maps::Map> {
    maps::Map::from_map_data(data(pins, name)?).with_context(|| format!("map {name}"))
}

fn data(pins: &Pins, name: &str) -> Result<MapData> {
    let path = pins.map(name);
    MapData::from_pin(&path).with_context(|| {
        format!("open {} (the gateway has to be attached, and root is needed)", path.display())
    })
}
