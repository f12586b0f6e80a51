//! Reads and writes many map entries in one system call, by BPF_MAP_LOOKUP_BATCH and BPF_MAP_UPDATE_BATCH
//! (Linux 5.6), which aya does not offer. 65,536 entries take 34 ms instead of 300
//! (docs/facts.md: batched-map-loading).
use std::{
    io,
    marker::PhantomData,
    ops::ControlFlow,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    Pod,
    maps::{MapData, MapError},
};

// enum bpf_cmd, linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// Entries that one call reads. The kernel allocates nothing of this size; one hash bucket has to fit.
const CHUNK: usize = 4096;

/// The member `batch` of `union bpf_attr`, linux/bpf.h.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// In: room for entries, or entries to write. Out: entries done.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A hash or array map whose keys have at least four bytes: the kernel writes its position as four.
pub struct Bulk<K, V> {
    map: MapData,
    entry: PhantomData<(K, V)>,
}

impl<K: Pod + Default, V: Pod + Default> Bulk<K, V> {
    /// Wraps a map. Fails unless its keys and values have the sizes of these types.
    pub fn new(map: MapData) -> Result<Self, MapError> {
        const { assert!(size_of::<K>() >= 4) };
        let info = map.info()?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        if key != size_of::<K>() {
            return Err(MapError::InvalidKeySize { size: size_of::<K>(), expected: key });
        }
        if value != size_of::<V>() {
            return Err(MapError::InvalidValueSize { size: size_of::<V>(), expected: value });
        }
        Ok(Self { map, entry: PhantomData })
    }

    /// Inserts or replaces these entries, in this order. After an error some may be written.
    pub fn update(&mut self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        if keys.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(keys.len()).map_err(io::Error::other)?;
        let mut batch =
            Batch { keys: keys.as_ptr() as u64, values: values.as_ptr() as u64, count, ..self.batch() };
        // SAFETY: the kernel reads `count` keys and values, of the sizes that `new` checked, from two
        // slices of that length.
        unsafe { call(BPF_MAP_UPDATE_BATCH, &mut batch) }
    }

    /// Returns all entries. If a hash map changes meanwhile, an entry may be missed or returned twice.
    pub fn entries(&self) -> io::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.each(|key, value| {
            entries.push((*key, *value));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Calls `take` with each entry until it breaks, and holds a part of the entries only. If a hash map changes meanwhile,
    /// an entry may be missed or come twice, but there is an end: the kernel goes from bucket to bucket.
    pub fn each(&self, mut take: impl FnMut(&K, &V) -> ControlFlow<()>) -> io::Result<()> {
        let (mut keys, mut values) = (vec![K::default(); CHUNK], vec![V::default(); CHUNK]);
        // The kernel's position: a key, or the number of a hash bucket, which is shorter.
        let (mut position, mut begun) = (K::default(), false);
        loop {
            let mut next = position;
            let mut batch = Batch {
                in_batch: if begun { (&raw const position) as u64 } else { 0 },
                out_batch: (&raw mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: CHUNK as u32,
                ..self.batch()
            };
            // SAFETY: the kernel writes at most `count` keys and values, of the sizes that `new` checked,
            // into two vectors of that length, reads its position from one key and writes it to another;
            // any bytes are a valid K or V, which are Pod.
            let result = unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut batch) };
            let at_end = match &result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(_) => return result,
                Ok(()) => false,
            };
            for (key, value) in keys.iter().zip(&values).take(batch.count as usize) {
                if take(key, value).is_break() {
                    return Ok(());
                }
            }
            if at_end {
                return Ok(());
            }
            (position, begun) = (next, true);
        }
    }

    fn batch(&self) -> Batch {
        Batch { map_fd: self.map.fd().as_fd().as_raw_fd() as u32, ..Batch::default() }
    }
}

/// Runs a batch command.
///
/// # Safety
/// Pointers and count in `batch` must be what `command` expects for the map.
unsafe fn call(command: libc::c_long, batch: &mut Batch) -> io::Result<()> {
    // SAFETY: guaranteed by the caller; `batch` is a prefix of bpf_attr and its size is given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, batch as *mut Batch, size_of::<Batch>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
