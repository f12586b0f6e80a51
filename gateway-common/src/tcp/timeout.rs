//! How long a connection may be silent.
use super::{
    flow::{Flow, status},
    state::{Direction, STATE_SLOTS, UNACKNOWLEDGED_SLOT},
};
use crate::{
    index::slot,
    layout::settings::Settings,
    packet::segment::{Kind, Segment},
    time::Ticks,
};

const FIN: u8 = Kind::Fin as u8;
const RST: u8 = Kind::Rst as u8;

/// `nf_tcp_handle_invalid`: a connection that ends sooner than this is left to end.
const SOON: Ticks = Ticks::from_seconds(120);

#[inline(always)]
pub(super) fn timeout(settings: &Settings, number: u8) -> Ticks {
    settings.timeouts[slot::<STATE_SLOTS>(number)]
}

/// `nf_tcp_handle_invalid`: FINs or RSTs outside the windows from both ends say that the connection
/// is over for them: do not keep it for hours.
#[inline(always)]
pub(super) fn doubt(
    flow: &mut Flow,
    segment: &Segment,
    direction: Direction,
    settings: &Settings,
    now: Ticks,
) {
    let ends = |kind: u8| kind == FIN || kind == RST;
    if !flow.has(status::ASSURED) || !ends(segment.kind as u8) {
        return;
    }
    if flow.last_direction() == direction as u8 || !ends(flow.last_kind()) {
        flow.set_last(segment.kind as u8, direction as u8);
        return;
    }
    let left = flow.expires.since(now);
    let unacknowledged = timeout(settings, UNACKNOWLEDGED_SLOT);
    if left >= SOON && left > unacknowledged {
        flow.expires = now.plus(unacknowledged);
    }
}
