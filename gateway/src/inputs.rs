//! The policies and credentials that the daemon works with.
use std::path::Path;

use time::OffsetDateTime;

use crate::{
    control::desired::{Credentials, connection},
    policy::{self, CredentialCheck, Faults, Policy},
    session::Setup,
};

/// A policy and the credentials it names.
#[derive(Clone)]
pub struct Inputs {
    /// The policy.
    pub policy: Policy,
    /// The gateway's certificates and key.
    pub credentials: Credentials,
    /// Faults with which gatewayd starts all the same: a certificate outside its period of validity.
    pub faults: Faults,
}

impl Inputs {
    /// Reads policies and secrets. Reports all faults at once.
    pub fn load(folder: &Path) -> Result<Self, Faults> {
        let policy = policy::load(folder)?;
        let CredentialCheck { credentials, faults } =
            policy::read_credentials(&policy.gateway, OffsetDateTime::now_utc());
        match credentials {
            Some(read) => Ok(Self { policy, credentials: loadable(read), faults }),
            None => Err(faults),
        }
    }

    /// Returns the numbers of customers and sites as text.
    pub fn describe(&self) -> String {
        self.policy.describe()
    }

    /// Returns what charon gets.
    pub fn setup(&self) -> Setup {
        Setup {
            credentials: self.credentials.clone(),
            connection: connection(&self.policy.gateway, &self.credentials),
        }
    }
}

/// Returns the credentials in the form that the connection takes.
pub fn loadable(read: policy::Credentials) -> Credentials {
    let policy::Credentials { certificate, private_key, authority } = read;
    Credentials { certificate: certificate.into(), private_key, authority: authority.into() }
}
