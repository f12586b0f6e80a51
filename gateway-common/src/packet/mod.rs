//! The inner packet: decapsulated from a tunnel, or sent by a server. Parsed once, checked here.
pub(crate) mod fast;
pub(crate) mod inner;
pub(crate) mod options;
pub(crate) mod quote;
pub(crate) mod segment;

pub use self::{
    fast::{FastFamily, FastHeader, FastPacket, FastSegment},
    inner::Inner,
    options::{MAX_OPTIONS_BYTES, Mss, Options, TIMESTAMP_ALONE},
    quote::Quote,
    segment::{Kind, Segment, flag},
};
