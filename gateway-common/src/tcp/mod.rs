//! TCP connections as nf_conntrack tracks them.
pub(crate) mod flow;
pub(crate) mod predict;
pub(crate) mod state;
pub(crate) mod timeout;
pub(crate) mod track;
pub(crate) mod window;

pub use self::{
    flow::{Flow, FlowKey, Peer, ignored, peer_flag, status},
    predict::predict,
    state::{
        DOUBTFUL_TIMEOUT_SECONDS, Direction, RETRANSMISSION_SLOT, STATE_SLOTS, State, Transition,
        UNACKNOWLEDGED_SLOT, transition,
    },
    track::{Tracked, open, track},
};
