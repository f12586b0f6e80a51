//! TCP connections as nf_conntrack tracks them: states, sequence windows, timeouts.
pub(crate) mod flow;
pub(crate) mod predict;
pub(crate) mod state;
mod step;
mod timeout;
pub(crate) mod track;
mod window;

pub use self::{
    flow::{Flow, FlowKey, Peer, ignored, peer_flag, status},
    predict::predict,
    state::{
        DOUBTFUL_TIMEOUT_SECONDS, Direction, RETRANSMISSION_SLOT, STATE_SLOTS, State, Transition,
        UNACKNOWLEDGED_SLOT, transition,
    },
    track::{Tracked, open, track},
};
