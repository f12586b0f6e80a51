//! A contender set up on a ground.
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests_kit::{namespace::Namespace, process::run_with_input};

use super::{
    contender::{Contender, Passes, Setup},
    firewall::{Attached, Firewall},
    frames::{Batch, Side},
    ground::Ground,
    rules::{Policy, Ruleset},
};

/// A contender at work.
pub struct Working {
    /// The gateway's surroundings.
    pub ground: Ground,
    /// The contender.
    pub contender: Contender,
    _attached: Vec<Attached>,
}

impl Working {
    /// Makes a ground and sets the contender up on it. `identities` knows the marks of all customers and has
    /// the purpose that the contender needs. `known` lists the customers that packets will belong to.
    pub fn start(
        contender: Contender,
        name: &str,
        policy: &Policy,
        known: &[u32],
        identities: &mut Firewall,
    ) -> Result<Self> {
        let mut ground = Ground::create(name, known)?;
        let mut attached = vec![identities.identify(&ground)?];
        match contender.row().setup {
            Setup::DropAtIngress => ground.drop_at_ingress()?,
            Setup::Nothing => {}
            Setup::CallsOnly => attached.push(identities.call_only(&ground)?),
            Setup::Gateway(_) => attached.push(identities.protect(&ground, known)?),
            Setup::Ruleset(ruleset) => load_ruleset(&ground.namespace, ruleset, contender, policy)?,
        }
        Ok(Self { ground, contender, _attached: attached })
    }

    /// Sends a batch, checks that exactly the expected packets arrive, and returns the time it took.
    pub fn send(&self, batch: &Batch) -> Result<Duration> {
        let passed = self.ground.send(batch)?;
        for from in [Side::Site, Side::Lan] {
            let expected = match self.contender.row().passes {
                Passes::All => batch.sent(from),
                Passes::Policy | Passes::Roughly => batch.passing(from),
            };
            let (arrived, sent) = (passed.arrived[from as usize], batch.sent(from));
            ensure!(
                arrived == expected,
                "{}: {arrived} of {sent} packets from {from:?} arrived, expected {expected}",
                self.contender
            );
        }
        Ok(passed.lasted)
    }

    /// Removes the ground.
    pub fn stop(self) -> Result<()> {
        self.ground.remove()
    }
}

/// Loads a contender's ruleset in a gateway's namespace.
pub fn load_ruleset(
    gateway: &Namespace,
    ruleset: Ruleset,
    contender: Contender,
    policy: &Policy,
) -> Result<()> {
    let loader = ruleset.loader();
    run_with_input(gateway.command(loader.program).args(loader.arguments), &ruleset.text(policy))?;
    if contender.uses_conntrack() {
        // Only a SYN opens a connection, as with this project.
        gateway.set_sysctl("netfilter/nf_conntrack_tcp_loose", "0")?;
    }
    Ok(())
}
