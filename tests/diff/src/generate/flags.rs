//! Short names of TCP's flags.
use gateway_common::packet::flag;

pub(super) const SYN: u8 = flag::SYN;
pub(super) const ACK: u8 = flag::ACK;
pub(super) const FIN: u8 = flag::FIN;
pub(super) const RST: u8 = flag::RST;
pub(super) const PSH: u8 = flag::PSH;
