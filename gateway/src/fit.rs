//! Bounds of a gateway part that is to come into force: interfaces and tables stay while they are in use, and credentials
//! stay until there are others without a fault.
use std::{
    mem,
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use crate::{
    control::desired::Credentials,
    policy::{self, CredentialCheck, Fault, Gateway, InterfaceName, Ipsec, Limits, read_credentials},
};

/// Bounds of a new gateway part.
pub struct Fit {
    /// `gateway.toml`, for faults.
    file: PathBuf,
    /// The interfaces that the programs are attached to, the internet first.
    pub interfaces: Option<(InterfaceName, InterfaceName)>,
    /// Sizes of the tables, if they exist.
    pub tables: Option<Limits>,
    /// The identity and the credentials' paths that were in force.
    former: Option<Ipsec>,
    /// The credentials that are in force.
    pub loaded: Option<Credentials>,
    /// The credentials for the gateway part that was last adopted.
    pub credentials: Option<Credentials>,
}

impl Fit {
    /// Bounds nothing. `former` names the credentials to fall back to if those of a gateway part have faults.
    pub fn new(folder: &Path, former: Option<Ipsec>) -> Self {
        let file = folder.join("gateway.toml");
        Self { file, interfaces: None, tables: None, former, loaded: None, credentials: None }
    }

    /// Replaces what cannot come into force, and returns the reasons and every fault of the credentials.
    pub fn adopt(&mut self, gateway: &mut Gateway) -> Vec<Fault> {
        let reasons = [self.keep_interfaces(gateway), self.keep_tables(gateway)];
        let mut faults: Vec<Fault> = reasons.into_iter().flatten().collect();
        self.adopt_credentials(gateway, &mut faults);
        faults
    }

    fn keep_interfaces(&self, gateway: &mut Gateway) -> Option<Fault> {
        let (internet, lan) = self.interfaces.as_ref()?;
        if (internet, lan) == (&gateway.internet, &gateway.lan) {
            return None;
        }
        let message = format!(
            "[interfaces] changed to `{}` and `{}`, but the programs are attached to others",
            gateway.internet, gateway.lan
        );
        (gateway.internet, gateway.lan) = (internet.clone(), lan.clone());
        let expected = format!("`{internet}` and `{lan}`, or a restart of gatewayd");
        Some(Fault::of_file(&self.file, message, expected))
    }

    fn keep_tables(&self, gateway: &mut Gateway) -> Option<Fault> {
        let tables = self.tables?;
        let stated = mem::replace(&mut gateway.limits, tables);
        let flows6 = stated.flows6.or(tables.flows6);
        if (Limits { flows6, ..stated }) == tables {
            return None;
        }
        let message = format!("[limits] changed to {}, but the tables exist", sizes(stated));
        let expected =
            format!("the tables' sizes, {}; `gatewayctl detach` and a restart make new ones", sizes(tables));
        Some(Fault::of_file(&self.file, message, expected))
    }

    /// Reads the credentials. Those with a fault are taken only if no others are in force and the fault is the period of
    /// validity: tunnels that are up live on without them, but would end at their next rekey.
    fn adopt_credentials(&mut self, gateway: &mut Gateway, faults: &mut Vec<Fault>) {
        let CredentialCheck { credentials, faults: found } = read(gateway);
        faults.extend(found.iter().cloned());
        self.credentials = credentials.filter(|_| found.is_empty() || self.loaded.is_none()).map(loadable);
        if self.credentials.is_some() {
            return;
        }
        if let Some(former) = self.former.as_ref().filter(|former| **former != gateway.ipsec) {
            let message = "[ipsec] changed, but its files have faults: the former one stays in force";
            faults.push(Fault::of_file(&self.file, message, "files without a fault"));
            gateway.ipsec = former.clone();
        }
        self.credentials = self.loaded.clone().or_else(|| read(gateway).credentials.map(loadable));
        if self.credentials.is_none() {
            let message = "there are no credentials to load: charon keeps those that it has";
            faults.push(Fault::of_file(&self.file, message, "files without a fault in [ipsec]"));
        }
    }
}

fn sizes(limits: Limits) -> String {
    let Limits { tunnels, customers, flows, flows6 } = limits;
    let flows6 = flows6.map(|flows6| format!(", {flows6} IPv6 flows")).unwrap_or_default();
    format!("{tunnels} tunnels, {customers} customers, {flows} flows{flows6}")
}

fn read(gateway: &Gateway) -> CredentialCheck {
    read_credentials(gateway, OffsetDateTime::now_utc())
}

/// Returns the credentials in the form that the connection takes.
fn loadable(read: policy::Credentials) -> Credentials {
    let policy::Credentials { certificate, private_key, authority } = read;
    Credentials { certificate: certificate.into(), private_key, authority: authority.into() }
}
