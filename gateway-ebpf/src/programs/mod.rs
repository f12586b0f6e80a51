//! The programs, by the interface they serve.
mod expiry;
mod internet;
mod lan;
mod next;
