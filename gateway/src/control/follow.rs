//! Follows charon: events one by one, and the list of all SAs now and then. Pure.
//!
//! The list is the truth, but charon builds it while SAs change. Events that come meanwhile are taken at once and, after
//! the list, once more, so that an older list does not undo them.
use std::mem;

use crate::{
    control::bindings::{Bindings, Order},
    strongswan::{Event, IkeSa},
};

/// Events kept while charon builds a list. With more than that, the list is asked for again.
const JOURNAL: usize = 4096;

/// Follows charon across connections to it.
#[derive(Debug)]
pub struct Follower {
    bindings: Bindings,
    /// True once the list of this connection to charon was taken: until then an event could be about anything.
    seeing: bool,
    /// True once the bindings say something: a list was taken, or charon is known to be new.
    begun: bool,
    /// True after a list that may be incomplete: the next one is taken as it is.
    asked_again: bool,
    journal: Option<Journal>,
}

/// Events that came while charon builds a list.
#[derive(Debug, Default)]
struct Journal {
    events: Vec<Event>,
    overflowed: bool,
}

/// The outcome of a list of all SAs.
#[derive(Debug, PartialEq, Eq)]
pub enum Audit {
    /// The list is taken.
    Done(Vec<Order>),
    /// The list may be incomplete: ask for another one.
    Again,
}

impl Follower {
    /// Starts without knowing any SA.
    pub fn new(bindings: Bindings) -> Self {
        Self { bindings, seeing: false, begun: false, asked_again: false, journal: None }
    }

    /// Returns the bindings.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// Returns the bindings, to change them.
    pub fn bindings_mut(&mut self) -> &mut Bindings {
        &mut self.bindings
    }

    /// Returns true if the bindings say something. Before, the maps may hold bindings of an earlier gatewayd.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Records that the connection to charon is gone. Bindings stay, since the kernel's SAs do.
    pub fn lose_sight(&mut self) {
        (self.seeing, self.asked_again) = (false, false);
        self.journal = None;
    }

    /// Records that charon is a new process: its predecessor's SAs are nobody's.
    pub fn start_anew(&mut self) {
        self.lose_sight();
        self.bindings.clear();
        self.begun = true;
    }

    /// Takes an event.
    pub fn event(&mut self, event: Event) -> Vec<Order> {
        let orders = if self.seeing { self.bindings.apply(&event) } else { Vec::new() };
        if let Some(journal) = &mut self.journal {
            journal.overflowed |= journal.events.len() >= JOURNAL;
            if !journal.overflowed {
                journal.events.push(event);
            }
        }
        orders
    }

    /// Records that charon is about to build a list of all SAs.
    pub fn begin_audit(&mut self) {
        self.journal = Some(Journal::default());
    }

    /// Takes the list of all SAs. If it may be incomplete, asks once for another one instead.
    pub fn end_audit(&mut self, list: &[IkeSa]) -> Audit {
        let journal = mem::take(&mut self.journal).unwrap_or_default();
        self.asked_again = !self.asked_again && (self.bindings.lacks(list) || journal.overflowed);
        if self.asked_again {
            return Audit::Again;
        }
        let mut orders = self.bindings.audit(list);
        for event in &journal.events {
            orders.extend(self.bindings.apply(event));
        }
        (self.seeing, self.begun) = (true, true);
        Audit::Done(orders)
    }
}
