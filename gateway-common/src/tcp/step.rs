//! One segment of a flow on its way through tracking.
use super::{
    flow::{Flow, status},
    state::Direction,
};
use crate::{layout::settings::Settings, packet::segment::Segment, time::Ticks};

/// One segment, and everything that tracking it needs.
pub(super) struct Step<'a> {
    pub flow: &'a mut Flow,
    pub segment: &'a Segment,
    pub direction: Direction,
    pub settings: &'a Settings,
    pub now: Ticks,
}

/// Records that the server has answered.
#[inline(always)]
pub(super) fn note_reply(flow: &mut Flow, direction: Direction) {
    if direction == Direction::ToSite {
        flow.set(status::REPLY_SEEN);
    }
}
