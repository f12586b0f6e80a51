//! An array map in this process's memory (BPF_F_MMAPABLE, Linux 5.5). Its entries are read and written without
//! system calls, which cost 200 ns an entry even in batches.
use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr, slice,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{MapData, MapError},
};

const WORD_BYTES: usize = size_of::<AtomicU64>();

/// An array map whose values consist of whole words.
pub struct Mapped<V> {
    words: &'static [AtomicU64],
    value: PhantomData<V>,
}

impl<V: Pod + Default> Mapped<V> {
    const WORDS: usize = size_of::<V>() / WORD_BYTES;

    /// Maps an array. Fails unless it is mappable and its values have the size of this type.
    pub fn new(map: &MapData) -> Result<Self, MapError> {
        const { assert!(size_of::<V>() > 0 && size_of::<V>().is_multiple_of(WORD_BYTES)) };
        let info = map.info()?;
        let size = info.value_size() as usize;
        if size != size_of::<V>() {
            return Err(MapError::InvalidValueSize { size: size_of::<V>(), expected: size });
        }
        let bytes = size * info.max_entries() as usize;
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.fd().as_fd().as_raw_fd());
        // SAFETY: new memory, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(MapError::IoError(io::Error::last_os_error()));
        }
        // SAFETY: page-aligned memory of that many bytes, valid until this is dropped; the eBPF programs access
        // it like atomics.
        let words = unsafe { slice::from_raw_parts(start.cast::<AtomicU64>(), bytes / WORD_BYTES) };
        Ok(Self { words, value: PhantomData })
    }

    /// Returns the number of entries.
    pub fn len(&self) -> u32 {
        (self.words.len() / Self::WORDS) as u32
    }

    /// Returns one entry, or None beyond the end. Each word is read atomically, as when the kernel copies a value.
    pub fn get(&self, index: u32) -> Option<V> {
        let words = self.entry(index)?;
        let mut value = V::default();
        // SAFETY: the value's own bytes; any bytes are a valid V, which is Pod.
        let bytes = unsafe { slice::from_raw_parts_mut((&raw mut value).cast::<u8>(), size_of::<V>()) };
        for (bytes, word) in bytes.as_chunks_mut::<WORD_BYTES>().0.iter_mut().zip(words) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        Some(value)
    }

    /// Writes one entry, ordered after all earlier writes. Returns None beyond the end.
    pub fn set(&mut self, index: u32, value: &V) -> Option<()> {
        let words = self.entry(index)?;
        // SAFETY: the value's own bytes; V is Pod and has no padding.
        let bytes = unsafe { slice::from_raw_parts(ptr::from_ref(value).cast::<u8>(), size_of::<V>()) };
        for (bytes, word) in bytes.as_chunks::<WORD_BYTES>().0.iter().zip(words) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Release);
        }
        Some(())
    }

    fn entry(&self, index: u32) -> Option<&[AtomicU64]> {
        let first = (index as usize).checked_mul(Self::WORDS)?;
        self.words.get(first..first.checked_add(Self::WORDS)?)
    }
}

impl<V> Drop for Mapped<V> {
    fn drop(&mut self) {
        // SAFETY: the memory that `new` mapped; `get` returns copies, so nothing refers to it.
        unsafe { libc::munmap(self.words.as_ptr().cast_mut().cast(), size_of_val(self.words)) };
    }
}
