//! The policies and credentials that the daemon works with.
use std::{fs, path::Path, path::PathBuf};

use crate::{
    control::desired::{Credentials, connection},
    policy::{self, Gateway, Policy},
    session::Setup,
};

/// A policy and the credentials it names.
#[derive(Clone)]
pub struct Inputs {
    /// The policy.
    pub policy: Policy,
    /// The gateway's certificates and key.
    pub credentials: Credentials,
}

impl Inputs {
    /// Reads policies and secrets. Reports all faults at once.
    pub fn load(folder: &Path) -> Result<Self, policy::Faults> {
        let policy = policy::load(folder)?;
        let credentials = read_credentials(&policy.gateway)?;
        Ok(Self { policy, credentials })
    }

    /// Returns the numbers of customers and sites as text.
    pub fn describe(&self) -> String {
        let (customers, sites) = (self.policy.customers.len(), self.policy.site_count());
        format!("{customers} customers with {sites} sites")
    }

    /// Returns what charon gets.
    pub fn setup(&self) -> Setup {
        Setup {
            credentials: self.credentials.clone(),
            connection: connection(&self.policy.gateway, &self.credentials),
        }
    }
}

/// Reads the certificates and the key that `gateway.toml` names.
pub fn read_credentials(gateway: &Gateway) -> Result<Credentials, policy::Faults> {
    let faults = policy::check_secrets(gateway);
    if !faults.is_empty() {
        return Err(faults);
    }
    let read = |path: &PathBuf| fs::read(path).map_err(|error| policy::unreadable(path, &error));
    Ok(Credentials {
        certificate: read(&gateway.ipsec.certificate)?.into(),
        private_key: read(&gateway.ipsec.private_key)?,
        authority: read(&gateway.ipsec.authority)?.into(),
    })
}
