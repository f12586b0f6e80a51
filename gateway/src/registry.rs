//! Ids of customers and tunnels that stay the same from one start to the next.
//!
//! An id names a tunnel in strongSwan, in the kernel and in pinned maps, which all outlive the
//! daemon. So an id that was somebody's is given to somebody else only when every other has been
//! given out, and then the one whose owner has been gone the longest.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gateway_common::ids::{CustomerId, TunnelId};
use serde::{Deserialize, Serialize};

use crate::policy::{CustomerName, Policy, SiteName};

const VERSION: u32 = 1;
const HEADER: &str = "# Ids of customers and tunnels, written by gatewayd. Live tunnels and pinned maps depend on it:\n\
                      # do not change or remove it while the gateway is attached.\n";

/// What every customer and tunnel is called, kept in a file.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    ids: Ids,
}

/// The ids of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    customers: BTreeMap<CustomerName, CustomerIds>,
}

/// The ids of one customer and its tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerIds {
    /// 1 to `limits.customers`.
    pub id: CustomerId,
    /// 1 to `limits.tunnels`: a map indexed by tunnel id has one entry more than that.
    pub tunnels: BTreeMap<SiteName, TunnelId>,
}

/// Why there are no ids.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file is there but is not what was written.
    #[error(
        "{}: the registry of ids is damaged: {reason}. Restore it from a backup; or, only after `gatewayctl detach`, \
         remove it, and every customer and tunnel gets a new id", path.display()
    )]
    Damaged {
        /// The registry's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read or written.
    #[error("{}: the registry of ids cannot be {action}: {source}", path.display())]
    Io {
        /// The registry's file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A limit was lowered below an id that is in use.
    #[error("{owner} has {what} id {id}: [limits] {what}s must be at least {id}, not {limit}")]
    BeyondLimit {
        /// `tunnel` or `customer`.
        what: &'static str,
        /// Whose id it is.
        owner: String,
        /// The id.
        id: u32,
        /// The limit.
        limit: u32,
    },
    /// More owners than ids.
    #[error("no {what} id is left for {owner}: all {limit} of [limits] {what}s are in use")]
    Exhausted {
        /// `tunnel` or `customer`.
        what: &'static str,
        /// Who gets none.
        owner: String,
        /// The limit.
        limit: u32,
    },
}

impl Registry {
    /// Reads the registry; a file that is not there yet is one without ids.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], [`RegistryError::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RegistryError> {
        let path = path.into();
        let ids = match fs::read_to_string(&path) {
            Ok(text) => match Ids::parse(&text) {
                Ok(ids) => ids,
                Err(reason) => return Err(RegistryError::Damaged { path, reason }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ids::default(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(RegistryError::Damaged { path, reason: error.to_string() });
            }
            Err(source) => {
                return Err(RegistryError::Io { path, action: "read", source });
            }
        };
        Ok(Self { path, ids })
    }

    /// Ids for all that is in the policy; what is not is retired, and gets its old id should it come
    /// back in time. The file is written before this returns, if anything changed.
    ///
    /// A retired id may be given out at once when no other is left, so the caller has to remove
    /// what is gone before it adds what is new.
    ///
    /// # Errors
    /// All but [`RegistryError::Damaged`]; then nothing has changed.
    pub fn assign(&mut self, policy: &Policy) -> Result<Assignment, RegistryError> {
        let mut ids = self.ids.clone();
        let limits = policy.gateway.limits;
        let customers: BTreeSet<CustomerName> = policy.customers.keys().cloned().collect();
        let tunnels: BTreeSet<TunnelName> = policy
            .customers
            .values()
            .flat_map(|customer| {
                customer.sites.iter().map(|site| TunnelName(customer.name.clone(), site.name.clone()))
            })
            .collect();
        ids.customers.assign(&customers, limits.customers)?;
        ids.tunnels.assign(&tunnels, limits.tunnels)?;
        if ids != self.ids {
            let io = |source| RegistryError::Io { path: self.path.clone(), action: "written", source };
            replace(&self.path, &ids.to_text()).map_err(io)?;
            self.ids = ids;
        }
        Ok(self.assignment())
    }

    /// The ids that are in use.
    pub fn assignment(&self) -> Assignment {
        let mut assignment = Assignment::default();
        for (name, id) in self.ids.customers.in_use() {
            let Some(id) = CustomerId::new(id) else {
                continue;
            };
            assignment.customers.insert(name.clone(), CustomerIds { id, tunnels: BTreeMap::new() });
        }
        for (TunnelName(customer, site), id) in self.ids.tunnels.in_use() {
            let Some(id) = TunnelId::new(id) else {
                continue;
            };
            if let Some(customer) = assignment.customers.get_mut(customer) {
                customer.tunnels.insert(site.clone(), id);
            }
        }
        assignment
    }
}

impl Assignment {
    /// The customer's id.
    pub fn customer(&self, customer: &CustomerName) -> Option<CustomerId> {
        self.customers.get(customer).map(|customer| customer.id)
    }

    /// The id of the tunnel to this site.
    pub fn tunnel(&self, customer: &CustomerName, site: &SiteName) -> Option<TunnelId> {
        self.customers.get(customer)?.tunnels.get(site).copied()
    }

    /// All, in order of the customers' names.
    pub fn iter(&self) -> impl Iterator<Item = (&CustomerName, &CustomerIds)> {
        self.customers.iter()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ids {
    customers: Pool<CustomerName>,
    tunnels: Pool<TunnelName>,
}

/// A tunnel's customer and site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TunnelName(CustomerName, SiteName);

/// Ids of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool<K> {
    what: &'static str,
    entries: BTreeMap<K, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: u32,
    /// When the owner went, in retirements; `None`: in use. Not a time of day, which can go back.
    retired: Option<u32>,
}

impl<K: Ord + Clone + ToString> Pool<K> {
    fn in_use(&self) -> impl Iterator<Item = (&K, u32)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.retired.is_none())
            .map(|(owner, entry)| (owner, entry.id))
    }

    fn assign(&mut self, owners: &BTreeSet<K>, limit: u32) -> Result<(), RegistryError> {
        self.retire_others(owners);
        let mut free = self.free(owners, limit);
        for owner in owners {
            if let Some(entry) = self.entries.get_mut(owner) {
                if entry.id > limit {
                    let owner = owner.to_string();
                    return Err(RegistryError::BeyondLimit { what: self.what, owner, id: entry.id, limit });
                }
                entry.retired = None;
                continue;
            }
            let Some((id, former)) = free.next() else {
                return Err(RegistryError::Exhausted { what: self.what, owner: owner.to_string(), limit });
            };
            if let Some(former) = former {
                self.entries.remove(&former);
            }
            self.entries.insert(owner.clone(), Entry { id, retired: None });
        }
        Ok(())
    }

    fn retire_others(&mut self, owners: &BTreeSet<K>) {
        let latest = self.entries.values().filter_map(|entry| entry.retired).max().unwrap_or(0);
        for (owner, entry) in &mut self.entries {
            if entry.retired.is_none() && !owners.contains(owner) {
                entry.retired = Some(latest.saturating_add(1));
            }
        }
    }

    /// Ids to give out, in this order: those that nobody has had, then those of former owners who
    /// do not come back now, the one longest gone first.
    fn free(&self, owners: &BTreeSet<K>, limit: u32) -> impl Iterator<Item = (u32, Option<K>)> + use<K> {
        let given: BTreeSet<u32> = self.entries.values().map(|entry| entry.id).collect();
        let mut former: Vec<(u32, u32, K)> = self
            .entries
            .iter()
            .filter(|(owner, entry)| entry.id <= limit && !owners.contains(owner))
            .filter_map(|(owner, entry)| Some((entry.retired?, entry.id, owner.clone())))
            .collect();
        former.sort();
        let never = (1..=limit).filter(move |id| !given.contains(id)).map(|id| (id, None));
        never.chain(former.into_iter().map(|(_, id, owner)| (id, Some(owner))))
    }

    /// Adds what was read; an id or an owner twice is an error.
    fn restore(&mut self, entries: impl Iterator<Item = (K, Entry)>) -> Result<(), String> {
        let mut given = BTreeSet::new();
        for (owner, entry) in entries {
            let what = self.what;
            if entry.id == 0 {
                return Err(format!("{what} {} has id 0", owner.to_string()));
            }
            if !given.insert(entry.id) {
                return Err(format!("two {what}s have id {}", entry.id));
            }
            if self.entries.contains_key(&owner) {
                return Err(format!("{what} {} has two ids", owner.to_string()));
            }
            self.entries.insert(owner, entry);
        }
        Ok(())
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            customers: Pool { what: "customer", entries: BTreeMap::new() },
            tunnels: Pool { what: "tunnel", entries: BTreeMap::new() },
        }
    }
}

impl std::fmt::Display for TunnelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    customer: Vec<CustomerRow>,
    #[serde(default)]
    tunnel: Vec<TunnelRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomerRow {
    id: u32,
    customer: CustomerName,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelRow {
    id: u32,
    customer: CustomerName,
    site: SiteName,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<u32>,
}

impl Ids {
    fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if document.version != VERSION {
            return Err(format!("its version is {}, not {VERSION}", document.version));
        }
        let mut ids = Self::default();
        let entry = |id, retired| Entry { id, retired };
        ids.customers
            .restore(document.customer.into_iter().map(|row| (row.customer, entry(row.id, row.retired))))?;
        let tunnels = document.tunnel.into_iter();
        ids.tunnels
            .restore(tunnels.map(|row| (TunnelName(row.customer, row.site), entry(row.id, row.retired))))?;
        if let Some((tunnel, _)) = ids.tunnels.in_use().find(|(tunnel, _)| !ids.customers.has(&tunnel.0)) {
            return Err(format!("tunnel {tunnel} is in use, but its customer is not"));
        }
        Ok(ids)
    }

    fn to_text(&self) -> String {
        let mut document = Document { version: VERSION, customer: Vec::new(), tunnel: Vec::new() };
        for (customer, &Entry { id, retired }) in &self.customers.entries {
            document.customer.push(CustomerRow { id, customer: customer.clone(), retired });
        }
        for (TunnelName(customer, site), &Entry { id, retired }) in &self.tunnels.entries {
            let (customer, site) = (customer.clone(), site.clone());
            document.tunnel.push(TunnelRow { id, customer, site, retired });
        }
        document.customer.sort_by_key(|row| row.id);
        document.tunnel.sort_by_key(|row| row.id);
        let text = toml::to_string(&document).expect("numbers and names are TOML");
        format!("{HEADER}{text}")
    }
}

impl Pool<CustomerName> {
    fn has(&self, customer: &CustomerName) -> bool {
        self.entries.get(customer).is_some_and(|entry| entry.retired.is_none())
    }
}

/// Puts a new file in the old one's place: after a crash there is one or the other, whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = path.with_added_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
