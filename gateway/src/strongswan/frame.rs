//! The frame layer: a length of 32 bits in network byte order, then one packet.

use tokio_util::codec::LengthDelimitedCodec;

/// Largest frame either side may send, without its length field (README, "Transport protocol").
pub(super) const MAX_FRAME_BYTES: usize = 512 * 1024;

/// Returns the codec of frames.
pub(super) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u32>().max_frame_length(MAX_FRAME_BYTES).new_codec()
}
