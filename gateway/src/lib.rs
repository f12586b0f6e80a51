//! gatewayd's parts.

pub mod pki;
pub mod strongswan;
