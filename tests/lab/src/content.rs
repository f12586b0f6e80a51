//! Long bodies whose every byte is known, so that it shows if one is lost, doubled or moved.

/// The path under which servers serve and take content.
pub const PATH: &str = "/content/";

/// The longest content there is.
pub const MAX_BYTES: usize = 16 << 20;

/// This many bytes: the numbers 0, 1, 2, … of 4 bytes each, big-endian.
pub fn content(bytes: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(bytes).collect()
}

/// What a server says of a body that it was sent.
pub fn judgement(body: &[u8]) -> String {
    let expected = content(body.len());
    match body.iter().zip(&expected).position(|(is, should_be)| is != should_be) {
        None => format!("{} bytes, all right\n", body.len()),
        Some(at) => format!("{} bytes, wrong from byte {at} on\n", body.len()),
    }
}
