//! Keeps the kernel's code as it is while the lab is up.
//!
//! TC hooks that no program is attached to cost nothing, since the kernel patches the calls into its own
//! code when the first one comes and out when the last one goes (`tcx_needed_key`, `ingress_needed_key`,
//! `egress_needed_key` in net/core/dev.c). QEMU's emulation of several processors (7.2, TCG) does not
//! always get that right: a processor that is running this very code may die of "Oops: int3". So programs
//! that do nothing hold those hooks in use while gatewayd's come and go under traffic.
use anyhow::{Context, Result};
use gateway_tests_kit::{
    bpf::{Classifier, Link, Way},
    namespace::Namespace,
};

/// The links of two programs on an interface that has no traffic.
#[derive(Debug)]
pub struct StaticKeys {
    _links: [Link; 2],
    _namespace: Namespace,
}

impl StaticKeys {
    /// Holds the TC hooks of both directions in use, in a namespace of its own.
    pub fn hold() -> Result<Self> {
        let namespace = Namespace::create("static-keys", false)?;
        let links = namespace.enter(|| {
            let program = Classifier::nothing()?;
            Ok([program.attach("lo", Way::Ingress)?, program.attach("lo", Way::Egress)?])
        });
        Ok(Self { _links: links.context("cannot hold the TC hooks in use")?, _namespace: namespace })
    }
}
