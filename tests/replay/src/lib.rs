//! Packet replay: cases as data (`tests/cases/*.toml`), run through the real programs with BPF_PROG_TEST_RUN.
//! [`case`] documents the format of a case, [`gateway_tests_kit::packet`] that of a packet.
//!
//! The kernel's test run returns the program's action and the packet's bytes and skb->mark afterwards. It
//! does not return the neighbour to which `bpf_redirect_neigh` would send the packet; the lab tests that.
pub mod case;
pub mod change;
pub mod check;
pub mod describe;
pub mod drops;
pub mod expect;
pub mod machine;
pub mod sequence;
