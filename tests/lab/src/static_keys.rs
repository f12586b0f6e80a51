//! Keeps the kernel from patching its own code while the lab is up.
//!
//! An unused TC hook costs nothing: the kernel patches the call into its code when the first program is
//! attached and out when the last one is detached (`tcx_needed_key`, `ingress_needed_key`,
//! `egress_needed_key` in net/core/dev.c). QEMU's emulation of several processors (7.2, TCG) does not
//! always get that right: a processor running this very code may die of "Oops: int3". Programs that do
//! nothing therefore keep those hooks in use while gatewayd's come and go under traffic.
use anyhow::{Context, Result};
use gateway_tests_kit::{
    bpf::{Classifier, Link, Way},
    namespace::Namespace,
};

/// The links of two no-op programs on an interface without traffic.
#[derive(Debug)]
pub struct StaticKeys {
    _links: [Link; 2],
    _namespace: Namespace,
}

impl StaticKeys {
    /// Keeps the TC hooks of both directions in use, in a namespace of its own.
    pub fn hold() -> Result<Self> {
        let namespace = Namespace::create("static-keys", false)?;
        let links = namespace.enter(|| {
            let program = Classifier::nothing()?;
            Ok([program.attach("lo", Way::Ingress)?, program.attach("lo", Way::Egress)?])
        });
        Ok(Self { _links: links.context("cannot keep the TC hooks in use")?, _namespace: namespace })
    }
}
