//! The shared parts of the test tools. Each tool (`tests/replay`, `tests/diff`, `tests/flood`, `tests/lab`,
//! `tests/bench`) is a crate that uses this one and none of the others.
//!
//! - Machine: [`namespace`], [`process`], [`mounts`], [`interrupt`], [`program`], [`cpu`], [`test_run`], [`flow_memory`].
//! - Packets: [`packet`] describes one, [`frame`] builds it, [`raw`] sends it; [`text`] and [`random`].
//! - Programs and maps: [`bpf`] holds small programs of the tests' own, [`world`] and [`settings`] the
//!   contents of the gateway's maps, [`flow`] the names of flows.
//! - Certificates: [`pki`].
pub mod bpf;
pub mod cpu;
pub mod flow;
pub mod flow_memory;
pub mod frame;
pub mod interrupt;
pub mod mounts;
pub mod namespace;
pub mod packet;
pub mod pki;
pub mod process;
pub mod program;
pub mod random;
pub mod raw;
pub mod settings;
pub mod test_run;
pub mod text;
pub mod world;
