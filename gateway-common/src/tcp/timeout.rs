//! How long a connection may stay silent.
use super::{
    flow::status,
    state::{STATE_SLOTS, UNACKNOWLEDGED_SLOT},
    step::Step,
};
use crate::{index::masked_index, layout::settings::Settings, packet::segment::Kind, time::Ticks};

const FIN: u8 = Kind::Fin as u8;
const RST: u8 = Kind::Rst as u8;

/// A connection with less time left than this keeps it (`nf_tcp_handle_invalid`).
const MIN_SHORTENED: Ticks = Ticks::from_seconds(120);

/// Returns the timeout of this state number or slot.
#[inline(always)]
pub(super) fn timeout(settings: &Settings, number: u8) -> Ticks {
    settings.timeouts[masked_index::<STATE_SLOTS>(number)]
}

/// Shortens the timeout after out-of-window FINs or RSTs from both ends: for them the connection is over,
/// so the flow is not kept for hours (`nf_tcp_handle_invalid`).
#[inline(always)]
pub(super) fn shorten_timeout(step: Step) {
    let Step { flow, segment, direction, settings, now } = step;
    let ends = |kind: u8| kind == FIN || kind == RST;
    if !flow.has(status::ASSURED) || !ends(segment.kind as u8) {
        return;
    }
    if direction.is(flow.last_direction()) || !ends(flow.last_kind()) {
        flow.set_last(segment.kind as u8, direction as u8);
        return;
    }
    let left = flow.expires.since(now);
    let unacknowledged = timeout(settings, UNACKNOWLEDGED_SLOT);
    if left >= MIN_SHORTENED && left > unacknowledged {
        flow.expires = now.plus(unacknowledged);
    }
}
