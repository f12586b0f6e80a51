//! The gateway's control plane: reads policies, drives strongSwan and fills eBPF maps.
//!
//! A policy passes through [`policy`] → [`registry`] → [`control`] → [`kernel`] and [`strongswan`];
//! [`daemon`] repeats this whenever something changes.
pub mod adoption;
pub mod approval;
pub mod atomic;
pub mod control;
pub mod cookies;
pub mod daemon;
pub mod dataplane;
pub mod events;
pub mod failures;
pub mod fingerprint;
pub mod fit;
pub mod health;
pub mod held_back;
pub mod inputs;
pub mod kernel;
pub mod last_good;
pub mod lock;
pub mod log_budget;
pub mod policy;
pub mod process;
pub mod registry;
pub mod session;
pub mod snapshot;
pub mod status;
pub mod strongswan;
pub mod systemd;
