//! Long bodies of known bytes, which reveal any byte that was lost, duplicated or moved.

/// The URL path under which servers send and receive content.
pub const PATH: &str = "/content/";

/// The longest content that a server handles.
pub const MAX_BYTES: usize = 16 << 20;

/// Returns `bytes` bytes of content: the numbers 0, 1, 2, …, each as 4 bytes, big-endian.
pub fn content(bytes: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(bytes).collect()
}

/// Describes a received body: its length, and the first wrong byte if there is one.
pub fn verdict(body: &[u8]) -> String {
    let expected = content(body.len());
    match body.iter().zip(&expected).position(|(is, should_be)| is != should_be) {
        None => format!("{} bytes, all correct\n", body.len()),
        Some(at) => format!("{} bytes, wrong from byte {at} onwards\n", body.len()),
    }
}
