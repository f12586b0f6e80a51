//! Looking up a flow for a segment from the site, and opening one.
use super::{
    identity::Site,
    quota::{self, Charge, Charges},
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

/// The circumstances of opening a flow.
pub(super) struct Opening {
    /// A [`Lookup`] number.
    pub lookup: u8,
    pub now_ns: u64,
}

/// Opens a flow if the segment opens one, and the site's share and the customer's quota have room. Out of
/// line: keeps its locals off the caller's 512-byte stack.
#[inline(never)]
pub(super) fn open_flow<A, T>(
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
    let Opening { lookup, now_ns } = opening;
    let now = Ticks::from_ns(now_ns);
    let mut scratch = tables.flow_scratch().ok_or(Reason::NotConfigured)?;
    let flow = scratch.put(Flow::default());
    if !track::open(flow, segment, settings, now) {
        return Err(Reason::NoConnection);
    }
    // A server's answer to one of the gateway's own addresses would never leave the gateway.
    if key.lan_address.is_own(settings) {
        return Err(Reason::InnerSourceNotInSite);
    }
    if Lookup::Ending.is(lookup) {
        return Err(Reason::FlowChanging);
    }
    flow.tunnel = id.get();
    flow.generation = tunnel.generation;
    let former = match Lookup::Nothing.is(lookup) {
        true => id.get(),
        // A flow that is gone meanwhile is not replaced below, either.
        false => tables.flow(key).map_or(id.get(), |cell| cell.tunnel()),
    };
    let charge = Charge {
        flows: u32::from(Lookup::Nothing.is(lookup)),
        half_open: u32::from(!Lookup::OverHalfOpen.is(lookup)),
    };
    // The flow of a site whose prefix is this one's now is charged to that site.
    let whole = Charge { flows: 1, half_open: 1 };
    let charges = Charges { customer: charge, site: if former == id.get() { charge } else { whole } };
    quota::take(tables, site, charges, now_ns)?;
    if Lookup::Nothing.is(lookup) {
        let why = match tables.insert_flow(key, flow, now) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        quota::give_back(tables, tunnel.customer, id.get(), charges);
        return match why {
            NotInserted::Full => Err(Reason::FlowTableFull),
            NotInserted::Exists => Err(Reason::FlowChanging),
        };
    }
    let replaced = tables.flow(key).is_some_and(|cell| {
        cell.locked(|old| {
            // Another CPU may have been faster with a copy of this SYN.
            let over = !old.is_live(tunnel.generation, now) || is_replaceable(old.state());
            let same_charge =
                old.tunnel == former && u32::from(!old.has(status::HALF_OPEN)) == charge.half_open;
            let unchanged = old.state() != 0 && over && same_charge;
            if unchanged {
                old.replace(*flow);
            }
            unchanged
        })
    });
    if !replaced {
        quota::give_back(tables, tunnel.customer, id.get(), charges);
        return Err(Reason::FlowChanging);
    }
    if former != id.get() {
        let theirs = Charge { flows: 1, half_open: 1 - charge.half_open };
        quota::give_back_share(tables, tunnel.customer, former, theirs);
    }
    Ok(())
}

/// Returns true for a state in which [`track::track`] may find that a SYN opens another connection.
#[inline(always)]
fn is_replaceable(state: u8) -> bool {
    State::TimeWait.is(state) || State::Close.is(state)
}

/// The state of the flow table for a segment from the site.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Lookup {
    /// No flow.
    Nothing = 0,
    /// A connection that the segment belongs to.
    Continues = 1,
    /// A connection whose handshake the segment completes.
    Confirmed = 2,
    /// A connection that is over.
    Over = 3,
    /// A half-open connection that is over.
    OverHalfOpen = 4,
    /// A connection that is being removed.
    Ending = 5,
}

impl Lookup {
    /// Returns true if a number is this one's. Numbers keep the verifier from exploring a path for each
    /// variant.
    #[inline(always)]
    pub const fn is(self, number: u8) -> bool {
        number == self as u8
    }
}

/// Tracks a segment of the flow that the table holds for it.
#[inline(always)]
pub(super) fn look_up(flow: &mut Flow, segment: &Segment, site: &Site, now: Ticks) -> Result<Lookup, Reason> {
    if flow.state() == 0 {
        return Ok(Lookup::Ending);
    }
    let half_open = flow.has(status::HALF_OPEN);
    let over = if half_open { Lookup::OverHalfOpen } else { Lookup::Over };
    // An expired flow is no flow, whatever tunnel it belonged to.
    if flow.expires.has_come(now) || flow.generation != site.tunnel.generation {
        return Ok(over);
    }
    if flow.tunnel != site.id.get() {
        return Err(Reason::FlowOwnedByOtherTunnel);
    }
    let tracked = track::track(flow, segment, Direction::ToServer, site.settings, now)?;
    if tracked != Tracked::Continues {
        // Not expired, but the SYN may open another connection in its place if the quota has room.
        return Ok(over);
    }
    Ok(if half_open && !flow.has(status::HALF_OPEN) { Lookup::Confirmed } else { Lookup::Continues })
}
