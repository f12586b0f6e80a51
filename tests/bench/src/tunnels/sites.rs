//! The sites: one charon with a connection for each.
use std::{
    collections::VecDeque,
    fmt, fs,
    io::ErrorKind,
    ops::RangeInclusive,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use gateway::strongswan::{
    Action, Child, Client, Connection, Error, EventKind, Events, Local, PeerIdentity, Remote, Unique,
};
use gateway_tests_kit::pki::{Authority, Issued, Validity, write_private};
use ipnet::{IpNet, Ipv4Net};
use time::OffsetDateTime;
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinSet};

use super::{
    super::rules::SERVERS,
    charon::{Charon, OF_SITES},
    ground::{GATEWAY, Ground, lan, outer},
    policies::{IDENTITY, identity},
};

/// Sites that connect at the same time. The sites' charon keeps a thread for each.
const AT_ONCE: usize = 32;
/// Longest time of one handshake.
const LIMIT: Duration = Duration::from_secs(240);

/// A site that did not connect.
#[derive(Debug)]
struct Failed(u32);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "site {}", self.0)
    }
}

/// All sites.
pub struct Sites {
    charon: Charon,
    client: Client,
    runtime: Runtime,
    count: u32,
    authority: Authority,
    gateway: Issued,
}

impl Sites {
    /// Starts charon and loads the connections of sites 1 to `count`.
    pub fn start(ground: &Ground, count: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let now = OffsetDateTime::now_utc();
        let validity = Validity { from: now - time::Duration::DAY, until: now + 30 * time::Duration::DAY };
        let authority = Authority::new("bench root", validity)?;
        let gateway = authority.issue(IDENTITY, validity)?;
        let charon = Charon::start(&ground.sites, ground.sites_run(), OF_SITES)?;
        let client = runtime.block_on(Client::connect(charon.vici()))?;
        let key_pem = authority.issue(&identity(0), validity)?.key_pem;
        runtime.block_on(client.load_key(key_pem.as_bytes()))?;
        for site in 1..=count {
            let issued = authority.issue_another(&identity(site), &key_pem, u64::from(site) + 1, validity)?;
            let connection = connection(site, &issued, &authority);
            runtime.block_on(client.load_conn(&connection)).with_context(|| format!("site {site}"))?;
        }
        Ok(Self { charon, client, runtime, count, authority, gateway })
    }

    /// Returns the number of sites.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Writes the gateway's certificates and key into its `/run`.
    pub fn write_credentials(&self, run: &Path) -> Result<()> {
        fs::write(run.join("ca.crt"), self.authority.certificate_pem())?;
        fs::write(run.join("gateway.crt"), &self.gateway.certificate_pem)?;
        let key = run.join("gateway.key");
        match key.exists() {
            true => Ok(()),
            false => Ok(write_private(&key, &self.gateway.key_pem)?),
        }
    }

    /// Connects sites, and waits until all are connected.
    pub fn connect(&mut self, sites: RangeInclusive<u32>) -> Result<()> {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let connected = self.runtime.block_on(async {
            let mut all = JoinSet::new();
            for site in sites {
                let permit = Arc::clone(&room).acquire_owned().await?;
                let client = self.client.clone();
                all.spawn(async move {
                    let _permit = permit;
                    initiate(&client, site).await.with_context(|| Failed(site))
                });
                while let Some(done) = all.try_join_next() {
                    done??;
                }
            }
            while let Some(done) = all.join_next().await {
                done??;
            }
            anyhow::Ok(())
        });
        connected.map_err(|error| {
            let site = error.downcast_ref::<Failed>().map_or(0, |failed| failed.0);
            error.context(self.charon.log_of(&[format!("s{site}["), format!("s{site}{{")]))
        })
    }

    /// Disconnects all sites.
    pub fn disconnect(&mut self) -> Result<()> {
        self.runtime.block_on(async {
            for ike in self.client.list_sas().await?.sas {
                self.client.terminate_ike(ike.unique_id).await?;
            }
            // The gateway has been told, but may still be at work.
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        })
    }

    /// Rekeys CHILD_SAs one after the other, at `interval` or as fast as the sites' charon can, until told to stop.
    pub fn rekey(&mut self, interval: Duration, stop: &AtomicBool) -> Result<()> {
        self.runtime.block_on(async {
            let mut events = Events::connect(self.charon.vici()).await?;
            let list = self.client.list_sas().await?;
            let mut children: VecDeque<u32> =
                list.sas.iter().flat_map(|ike| &ike.children).map(|child| child.unique_id).collect();
            let mut ticks = tokio::time::interval(interval);
            while !stop.load(Relaxed) {
                tokio::select! {
                    event = events.next() => {
                        let event = event?;
                        if let (EventKind::ChildRekey, [_, new]) = (event.kind, &event.children[..]) {
                            children.push_back(new.unique_id);
                        }
                    }
                    _ = ticks.tick() => {
                        let child = children.pop_front().ok_or_else(|| anyhow!("every CHILD_SA is being rekeyed"))?;
                        self.client.rekey_child(child).await?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Ends all sites.
    pub fn end(self) -> Result<()> {
        self.charon.end()
    }
}

/// Connects a site. charon's VICI socket takes few connections at a time.
async fn initiate(client: &Client, site: u32) -> Result<(), Error> {
    loop {
        match client.initiate(&format!("s{site}"), LIMIT).await {
            Err(Error::Connect { source, .. }) if source.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            done => return done,
        }
    }
}

fn connection(site: u32, issued: &Issued, authority: &Authority) -> Connection {
    let local = Local { identity: identity(site), certificate: issued.certificate_pem.as_bytes().into() };
    let remote = Remote {
        identity: PeerIdentity::Name(IDENTITY.into()),
        authority: authority.certificate_pem().as_bytes().into(),
        revocation: Default::default(),
    };
    let mut connection = Connection::new(format!("s{site}"), local, remote);
    connection.local_addrs = vec![outer(site).into()];
    connection.remote_addrs = vec![GATEWAY.into()];
    connection.unique = Unique::No;
    let servers = IpNet::V4(Ipv4Net::new_assert(SERVERS.0, SERVERS.1));
    let mut child = Child::new(format!("s{site}"), vec![lan(site).into()], vec![servers]);
    child.start_action = Action::None;
    connection.children.push(child);
    connection
}
