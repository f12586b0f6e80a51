//! Packet replay: cases as data (`tests/cases/*.toml`), run through the real programs with
//! BPF_PROG_TEST_RUN. How a case is written stands in [`case`], how a packet is in [`gateway_tests_kit::packet`].
//!
//! The kernel's test run tells the program's action, the bytes and skb->mark afterwards. It does
//! not tell where `bpf_redirect_neigh` would send the packet; the lab shows that.
pub mod case;
pub mod change;
pub mod check;
pub mod describe;
pub mod expect;
pub mod machine;
pub mod sequence;
