//! The running lab: brings it up, restores its normal state, answers questions about it.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use ::gateway::{control::observed::Observed, status::Status, strongswan::Local};
use anyhow::{Context, Result, anyhow, ensure};
use gateway_common::{ids::TunnelId, layout::NO_PREFIX};
use gateway_tests_kit::{
    namespace::Namespace,
    pki::{write_private, write_public},
    process::wait_for,
};
use nix::sys::signal::Signal;

use crate::{
    charon::{Charon, Sa},
    gateway::{Drops, Gateway, Programs},
    pki::{Authority, Issued},
    server::{Requests, Server},
    site::{CONNECTION, GATEWAY_IDENTITY, SITES, Spec, connection},
    static_keys::StaticKeys,
    topology::{Topology, customers, gateway_address, router_wan},
};

/// Folder of all files of the lab, a tmpfs of its own.
const DIR: &str = "/run/lab";
/// Folder of the gateway's keys, as `policies/gateway.toml` names it.
const GATEWAY_PKI: &str = "/etc/gateway/pki";
const TUNNEL_UP: Duration = Duration::from_secs(60);

/// A running lab. Fields drop in declaration order, so processes end first.
pub struct Lab {
    gateway: Gateway,
    routers: Vec<Charon>,
    /// Every customer's server.
    pub servers: Vec<Server>,
    /// The requests that the servers received.
    pub requests: Arc<Requests>,
    /// The namespaces.
    pub topology: Arc<Topology>,
    /// The CA that the gateway and the sites trust.
    pub authority: Authority,
    /// The gateway's certificate and key.
    pub credentials: Issued,
    dir: PathBuf,
    _static_keys: StaticKeys,
}

/// One site of a running lab.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The site's fixed description.
    pub spec: &'static Spec,
    /// The router's namespace.
    pub router: &'a Namespace,
    /// The device's namespace.
    pub device: &'a Namespace,
    /// The router's IKE daemon.
    pub charon: &'a Charon,
}

impl Lab {
    /// Builds namespaces and keys, and starts servers, charons and gatewayd. Tunnels are still down.
    /// The process must be in a mount namespace of its own: [`gateway_tests_kit::mounts::isolate`].
    pub fn up(programs: Programs) -> Result<Self> {
        let dir = PathBuf::from(DIR);
        let static_keys = StaticKeys::hold()?;
        let topology = Arc::new(Topology::build(&dir).context("cannot build the topology")?);

        let gateway = Gateway::start(programs, &topology.gateway, &dir.join("gateway"))?;
        let routers = start_routers(&topology, &dir)?;
        let requests = Arc::new(Requests::default());
        let mut servers = Vec::new();
        for ((customer, addresses), (_, namespace)) in customers().zip(&topology.servers) {
            for address in addresses {
                servers.push(Server::start(customer, address, namespace, requests.clone())?);
            }
        }
        let authority = Authority::new("Lab root")?;
        let credentials = authority.issue(GATEWAY_IDENTITY)?;
        place_gateway_keys(&authority, &credentials)?;

        let mut lab = Self {
            gateway,
            routers,
            servers,
            requests,
            topology,
            authority,
            credentials,
            dir,
            _static_keys: static_keys,
        };
        lab.start_daemon()?;
        lab.load_routers()?;
        Ok(lab)
    }

    /// Has all routers initiate their tunnels at once and waits until every tunnel is up.
    pub fn initiate_all(&self) -> Result<Vec<Sa>> {
        in_parallel(self.sites(), |site| site.initiate())?;
        self.wait_for_tunnels()
    }

    /// Waits until every site's tunnel is up in charon and in the programs. Returns the tunnels in the
    /// order of [`SITES`].
    pub fn wait_for_tunnels(&self) -> Result<Vec<Sa>> {
        wait_for("all tunnels", TUNNEL_UP, || {
            let sas = self.gateway_sas()?;
            let of_site = |site: &Spec| sas.iter().find(|sa| sa.remote_identity == site.identity).cloned();
            let Some(found) = SITES.iter().map(of_site).collect::<Option<Vec<_>>>() else { return Ok(None) };
            let open = match self.gateway.tunnels_up(&self.topology.gateway)? {
                Some(ids) => found.iter().all(|sa| ids.contains(&sa.reqid)),
                None => true,
            };
            Ok(open.then_some(found))
        })
    }

    /// Returns the lab to its normal state after a failed test. Cheap if nothing was left behind.
    pub fn restore(&mut self) -> Result<()> {
        if !self.gateway.charon_is_running() {
            self.start_charon()?;
        }
        let changed = self.gateway.restore_policies()?;
        if !self.gateway.is_running() {
            self.start_daemon()?;
        } else if self.gateway.has_failed(&self.topology.gateway) {
            self.kill_daemon()?;
            self.start_daemon()?;
        } else if changed {
            self.reload_example()?;
        }
        let of_gateway = self.gateway_sas()?;
        in_parallel(self.sites(), |site| {
            let known = of_gateway.iter().any(|sa| sa.remote_identity == site.spec.identity);
            let own = site.charon.list_sas()?;
            if known && own.len() == 1 {
                return Ok(());
            }
            for sa in own {
                // Terminating an SA that the gateway has forgotten takes a while, but succeeds.
                site.charon.terminate(sa.ike_id)?;
            }
            site.initiate()
        })?;
        self.wait_for_tunnels().map(drop)
    }

    /// Waits until the gateway's maps hold exactly one SA in each direction of each tunnel, and returns
    /// them. SAs that a rekey replaced stay for a while (docs/facts.md: order-of-rekey-events).
    pub fn settled_maps(&self) -> Result<Observed> {
        self.wait_for_maps("the maps to have one SA in each direction of each tunnel", |maps| {
            (maps.inbound.len(), maps.outbound.len()) == (SITES.len(), SITES.len())
        })
    }

    /// Waits until the CHILD_SA with this reqid is gone in charon and in the programs.
    pub fn wait_until_down(&self, reqid: u32) -> Result<()> {
        wait_for("the tunnel to go down", TUNNEL_UP, || {
            let in_charon = self.gateway_sas()?.iter().any(|sa| sa.reqid == reqid);
            let in_programs =
                self.gateway.tunnels_up(&self.topology.gateway)?.is_some_and(|up| up.contains(&reqid));
            Ok((!in_charon && !in_programs).then_some(()))
        })
    }

    /// Returns a site's number in the maps, as gatewayd tells it.
    pub fn site_number(&self, site: &Spec) -> Result<TunnelId> {
        let tunnels = self.status()?.tunnels.into_iter();
        let number = tunnels
            .filter(|told| (&*told.customer, &*told.site) == (site.customer, site.name))
            .map(|told| told.id)
            .next();
        number.and_then(TunnelId::new).with_context(|| format!("no number for {}", site.full_name()))
    }

    /// The gateway's SAs.
    pub fn gateway_sas(&self) -> Result<Vec<Sa>> {
        self.gateway.charon().list_sas()
    }

    /// The gateway's SA with a site.
    ///
    /// # Errors
    /// Fails if the gateway has no tunnel with the site.
    pub fn gateway_sa(&self, site: &Spec) -> Result<Sa> {
        let sas = self.gateway_sas()?;
        let found = sas.into_iter().find(|sa| sa.remote_identity == site.identity);
        found.with_context(|| format!("the gateway has no tunnel with {}", site.full_name()))
    }

    /// Every site, in the order of [`SITES`].
    pub fn sites(&self) -> Vec<Site<'_>> {
        let parts = self.topology.routers.iter().zip(&self.topology.devices).zip(&self.routers);
        let with = |(spec, ((router, device), charon))| Site { spec, router, device, charon };
        SITES.iter().zip(parts).map(with).collect()
    }

    /// Returns a site by its name.
    pub fn site(&self, name: &str) -> Result<Site<'_>> {
        self.sites()
            .into_iter()
            .find(|site| site.spec.name == name)
            .with_context(|| format!("no site {name}"))
    }

    /// The gateway's processes.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The gateway's drop counters.
    pub fn drops(&self) -> Result<Drops> {
        self.gateway.drops(&self.topology.gateway)
    }

    /// The status that gatewayd reports.
    pub fn status(&self) -> Result<Status> {
        self.gateway.status(&self.topology.gateway)
    }

    /// Waits until gatewayd's status satisfies `holds`, and returns it. `what` names the condition in errors.
    pub fn wait_for_status(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<Status> {
        self.gateway.wait_for_status(&self.topology.gateway, what, holds)
    }

    /// The programs attached on the gateway: see [`Gateway::attached`].
    pub fn attached(&self) -> Result<BTreeMap<String, u32>> {
        self.gateway.attached(&self.topology.gateway)
    }

    /// The contents of the gateway's maps.
    pub fn observed(&self) -> Result<Observed> {
        self.gateway.observed(&self.topology.gateway)
    }

    /// Waits until the maps satisfy `holds`, and returns them. `what` names the condition in errors.
    pub fn wait_for_maps(&self, what: &str, holds: impl Fn(&Observed) -> bool) -> Result<Observed> {
        self.gateway.wait_for_maps(&self.topology.gateway, what, holds)
    }

    /// Starts gatewayd and waits until it is ready.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.gateway.start_daemon(&self.topology.gateway, &self.authority, &self.credentials)
    }

    /// Starts the gateway's charon without configuration and waits until it answers.
    pub fn start_charon(&mut self) -> Result<()> {
        self.gateway.start_charon(&self.topology.gateway)
    }

    /// Kills the gateway's charon with SIGKILL.
    pub fn kill_charon(&mut self) -> Result<()> {
        self.gateway.kill_charon()
    }

    /// Starts gatewayd without waiting for it.
    pub fn spawn_daemon(&mut self) -> Result<()> {
        self.gateway.spawn_daemon(&self.topology.gateway)
    }

    /// Waits until gatewayd is ready.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        self.gateway.wait_until_ready(&self.topology.gateway)
    }

    /// Restores the example policies, has gatewayd reload them, and waits until they are in force.
    pub fn reload_example(&self) -> Result<()> {
        self.gateway.policies()?.restore()?;
        self.gateway.reload()?;
        let status = self.wait_for_status("the example policies", |status| {
            status.faults.is_empty() && status.tunnels.len() == SITES.len()
        })?;
        self.wait_for_maps("the LANs of the example policies", |maps| {
            SITES.iter().all(|site| {
                let told = status
                    .tunnels
                    .iter()
                    .find(|t| (t.customer.as_str(), t.site.as_str()) == (site.customer, site.name));
                let tunnel = told.and_then(|told| maps.tunnels.get(&TunnelId::new(told.id)?));
                tunnel.is_some_and(|tunnel| {
                    let has_v6 = site.v6.is_none_or(|v6| tunnel.v6.mark_of(v6.device.into()) != NO_PREFIX);
                    tunnel.v4.mark_of(site.device.into()) != NO_PREFIX && has_v6
                })
            })
        })?;
        Ok(())
    }

    /// Sends gatewayd a signal and waits for its end.
    pub fn end_daemon(&mut self, signal: Signal) -> Result<()> {
        self.gateway.end_daemon(signal)
    }

    /// Returns true while gatewayd is running.
    pub fn is_running(&mut self) -> bool {
        self.gateway.is_running()
    }

    /// Kills gatewayd with SIGKILL.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.gateway.kill_daemon()
    }

    /// Returns the folder of a namespace's files.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn load_routers(&self) -> Result<()> {
        let sites = self.sites().into_iter().enumerate().collect();
        in_parallel(sites, |(index, site)| {
            self.load_router(index, &self.authority.issue(site.spec.identity)?)
        })
    }

    /// Loads a site's connection into its router, with this certificate.
    pub fn load_router(&self, index: usize, issued: &Issued) -> Result<()> {
        let site = self.sites()[index];
        let identity = site.spec.identity.to_owned();
        let local = Local { identity, certificate: issued.certificate_pem.as_bytes().into() };
        let authority = self.authority.certificate_pem();
        let way = (router_wan(index), gateway_address(site.spec));
        site.charon.load(&connection(local, authority, way, site.spec)?, &issued.key_pem)
    }
}

impl Site<'_> {
    /// Brings the tunnel up.
    pub fn initiate(&self) -> Result<()> {
        let done = self.charon.initiate(CONNECTION, TUNNEL_UP);
        done.with_context(|| {
            format!(
                "{} cannot bring its tunnel up; its log ends:\n{}",
                self.spec.full_name(),
                self.charon.log_end()
            )
        })
    }

    /// Takes the tunnel down.
    pub fn terminate(&self) -> Result<()> {
        let sa = self.charon.list_sas()?.pop().context("the tunnel is already down")?;
        self.charon.terminate(sa.ike_id)
    }
}

fn start_routers(topology: &Topology, dir: &Path) -> Result<Vec<Charon>> {
    let start = |(site, router): (&Spec, &Namespace)| Charon::start(router, &dir.join(site.full_name()));
    let mut routers = SITES.iter().zip(&topology.routers).map(start).collect::<Result<Vec<_>>>()?;
    for router in &mut routers {
        router.wait_until_ready()?;
    }
    Ok(routers)
}

/// Writes the gateway's certificates and key to the paths its policy names, replacing earlier ones.
pub fn place_gateway_keys(authority: &Authority, issued: &Issued) -> Result<()> {
    let dir = Path::new(GATEWAY_PKI);
    fs::create_dir_all(dir)?;
    let place = |name: &str, write: fn(&Path, &str) -> io::Result<()>, text: &str| {
        let new = dir.join(format!("{name}.new"));
        write(&new, text)?;
        fs::rename(&new, dir.join(name))
    };
    place("ca.crt", write_public, authority.certificate_pem())?;
    place("gateway.crt", write_public, &issued.certificate_pem)?;
    place("gateway.key", write_private, &issued.key_pem)?;
    Ok(())
}

/// Runs `work` on all items in parallel; fails with the first failure.
pub fn in_parallel<T: Send>(items: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// Fails unless the process runs as root.
pub fn ensure_root() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the lab creates network namespaces: run it as root");
    Ok(())
}
