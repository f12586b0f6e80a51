//! Opening a flow.
use super::{
    identity::Site,
    quota::{self, Charge},
    tables::{FamilyTables, FlowCell, NotInserted, Scratch, Tables},
};
use crate::{
    layout::family::LayoutFamily,
    packet::segment::Segment,
    reason::Reason,
    tcp::{
        flow::{Flow, FlowKey, status},
        state::{Direction, State},
        track::{self, Tracked},
    },
    time::Ticks,
};

/// How a flow is to be opened.
pub(super) struct Opening {
    /// A [`Met`] number.
    pub(super) met: u8,
    pub(super) now_ns: u64,
}

/// Opens a flow, if the segment opens one and the customer's quota has room for it. In eBPF a function of
/// its own, so that it takes no room on the caller's stack.
#[inline(never)]
pub(super) fn open<A, T>(
    tables: &T,
    site: &Site,
    key: &FlowKey<A>,
    segment: &Segment,
    opening: Opening,
) -> Result<(), Reason>
where
    A: LayoutFamily,
    T: Tables + FamilyTables<A>,
{
    let Site { settings, id, tunnel } = *site;
    let Opening { met, now_ns } = opening;
    let now = Ticks::from_ns(now_ns);
    let mut place = tables.flow_scratch().ok_or(Reason::NotConfigured)?;
    let flow = place.put(Flow::default());
    if !track::open(flow, segment, settings, now) {
        return Err(Reason::NoConnection);
    }
    // A server's answer to an address of ours would end at the gateway itself.
    if key.lan_address.is_own(settings) {
        return Err(Reason::InnerSourceNotInSite);
    }
    if met == Met::Ending as u8 {
        return Err(Reason::FlowChanging);
    }
    flow.tunnel = id.get();
    flow.generation = tunnel.generation;
    let charge = Charge {
        flows: u32::from(met == Met::None as u8),
        half_open: u32::from(met != Met::OverHalfOpen as u8),
    };
    quota::take(tables, tunnel, charge, now_ns)?;
    if met == Met::None as u8 {
        let why = match tables.insert_flow(key, flow, now) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        quota::give_back(tables, tunnel.customer, charge);
        return match why {
            NotInserted::Full => Err(Reason::FlowTableFull),
            NotInserted::Exists => Err(Reason::FlowChanging),
        };
    }
    let replaced = tables.flow(key).is_some_and(|cell| {
        cell.locked(|old| {
            // Another CPU may have been faster, with a copy of this SYN.
            let over = !old.is_live(tunnel.generation, now) || is_replaceable(old.state());
            let unchanged =
                old.state() != 0 && over && u32::from(!old.has(status::HALF_OPEN)) == charge.half_open;
            if unchanged {
                old.replace(*flow);
            }
            unchanged
        })
    });
    if !replaced {
        quota::give_back(tables, tunnel.customer, charge);
        return Err(Reason::FlowChanging);
    }
    Ok(())
}

/// A state in which [`track::track`] may find that a SYN opens another connection.
#[inline(always)]
fn is_replaceable(state: u8) -> bool {
    state == State::TimeWait as u8 || state == State::Close as u8
}

/// What a segment from the site found in the table.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Met {
    /// Nothing.
    None = 0,
    /// A connection that it belongs to.
    GoesOn = 1,
    /// Such a one, whose handshake it completes.
    Confirmed = 2,
    /// One that is over.
    Over = 3,
    /// One that is over, and was half-open.
    OverHalfOpen = 4,
    /// One that is being removed.
    Ending = 5,
}

#[inline(always)]
pub(super) fn meet(flow: &mut Flow, segment: &Segment, site: &Site, now: Ticks) -> Result<Met, Reason> {
    if flow.state() == 0 {
        return Ok(Met::Ending);
    }
    let half_open = flow.has(status::HALF_OPEN);
    let over = if half_open { Met::OverHalfOpen } else { Met::Over };
    // A flow whose time is over is no flow, whatever tunnel it belonged to.
    if flow.expires.has_come(now) || flow.generation != site.tunnel.generation {
        return Ok(over);
    }
    if flow.tunnel != site.id.get() {
        return Err(Reason::FlowOwnedByOtherTunnel);
    }
    let tracked = track::track(flow, segment, Direction::ToServer, site.settings, now)?;
    if tracked as u8 != Tracked::On as u8 {
        // Not over by the clock, but the SYN may open another one in its place if there is room for it.
        return Ok(over);
    }
    Ok(if half_open && !flow.has(status::HALF_OPEN) { Met::Confirmed } else { Met::GoesOn })
}
