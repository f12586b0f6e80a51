//! gatewayd's parts.

pub mod strongswan;
