//! Real charons in network namespaces. ESP runs in user space (kernel-libipsec), so tunnels come up on
//! kernels without ESP too. Marks are not tested here: the kernel handles them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gateway::strongswan::{Child as Tunnel, Client, Connection, Local, PeerIdentity, Remote};
use gateway_tests_kit::{
    pki::{Authority, Issued, Validity},
    process::ip,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use time::OffsetDateTime;

const CHARON: &str = "/usr/lib/ipsec/charon";
const LIBIPSEC: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";
pub const GATEWAY: &str = "203.0.113.1";
pub const SITE: &str = "203.0.113.2";

/// Returns the reason why charon cannot run here, if there is one.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root is needed for network namespaces".into());
    }
    [CHARON, LIBIPSEC, "/usr/bin/pki", "/dev/net/tun"].into_iter().find(|path| !Path::new(path).exists()).map(
        |path| {
            format!("{path} is missing (Debian: strongswan-charon, strongswan-pki, libcharon-extra-plugins)")
        },
    )
}

/// A gateway and a site, connected by one link. Dropping it removes everything.
pub struct Pair {
    pub directory: PathBuf,
    pub gateway: Charon,
    pub site: Charon,
    pub authority: Authority,
}

/// A charon in its own network namespace, with a private /run.
pub struct Charon {
    pub namespace: String,
    directory: PathBuf,
    process: Option<Child>,
}

impl Pair {
    pub fn start() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vici{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        let authority = Authority::new("test root", days(-1, 30))?;
        let gateway = Charon::new(format!("{name}g"), &directory)?;
        let site = Charon::new(format!("{name}s"), &directory)?;
        let mut pair = Self { directory, gateway, site, authority };
        let (g, s) = (pair.gateway.namespace.clone(), pair.site.namespace.clone());
        ip(&format!("link add e0 netns {g} type veth peer name e0 netns {s}"))?;
        for (namespace, address, inner) in [(&g, GATEWAY, "10.200.0.11"), (&s, SITE, "192.168.0.1")] {
            // kernel-libipsec needs a local address within the local traffic selector.
            ip(&format!("-n {namespace} addr add {inner}/32 dev lo"))?;
            ip(&format!("-n {namespace} addr add {address}/24 dev e0"))?;
            ip(&format!("-n {namespace} link set e0 up"))?;
        }
        pair.gateway.start()?;
        pair.site.start()?;
        Ok(pair)
    }

    /// Returns the gateway's connection for a site, with reqid 101.
    pub fn gateway_connection(&self, site: &str) -> Result<(Connection, Issued)> {
        let issued = self.authority.issue("gateway.example", days(-1, 30))?;
        let mut connection = self.connection("gateway.example", &issued, site);
        connection.name = format!("to-{site}");
        let mut child = tunnel("10.200.0.11/32", "192.168.0.0/16")?;
        child.reqid = Some(101);
        connection.children.push(child);
        Ok((connection, issued))
    }

    /// Returns a site's connection to the gateway.
    pub fn site_connection(&self, site: &str) -> Result<(Connection, Issued)> {
        let issued = self.authority.issue(site, days(-1, 30))?;
        let mut connection = self.connection(site, &issued, "gateway.example");
        connection.remote_addrs = vec![GATEWAY.parse()?];
        connection.children.push(tunnel("192.168.0.0/16", "10.200.0.11/32")?);
        Ok((connection, issued))
    }

    fn connection(&self, identity: &str, issued: &Issued, remote: &str) -> Connection {
        Connection::new(
            "home",
            Local { identity: identity.into(), certificate: issued.certificate_pem.as_bytes().into() },
            Remote {
                identity: PeerIdentity::Name(remote.into()),
                authority: self.authority.certificate_pem().as_bytes().into(),
                revocation: Default::default(),
            },
        )
    }

    /// Configures both sides and initiates the tunnel.
    pub async fn up(&self) -> Result<(Client, Client)> {
        let gateway = Client::connect(&self.gateway.socket()).await?;
        let site = Client::connect(&self.site.socket()).await?;
        load(&gateway, self.gateway_connection("berlin.acme.example")?).await?;
        load(&site, self.site_connection("berlin.acme.example")?).await?;
        site.initiate("tunnel", Duration::from_secs(20)).await?;
        Ok((gateway, site))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.gateway.stop();
        self.site.stop();
        for charon in [&self.gateway, &self.site] {
            if let Err(error) = ip(&format!("netns del {}", charon.namespace)) {
                eprintln!("left behind: {error:#}");
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("left behind: {}: {error}", self.directory.display());
        }
    }
}

impl Charon {
    fn new(namespace: String, parent: &Path) -> Result<Self> {
        let directory = parent.join(&namespace);
        fs::create_dir(&directory)?;
        fs::write(directory.join("strongswan.conf"), config(&directory))?;
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        Ok(Self { namespace, directory, process: None })
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("charon.vici")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Starts charon and waits for its socket.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.directory.join("log"))?;
        // `ip netns exec` creates a mount namespace, so this bind mount is private.
        let script = format!("mount --bind {} /run && exec {CHARON}", self.directory.display());
        let process = Command::new("ip")
            .args(["netns", "exec", &self.namespace, "sh", "-c", &script])
            .env("STRONGSWAN_CONF", self.directory.join("strongswan.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start charon")?;
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(20);
        // The socket file outlives a killed charon, so only an accepted connection counts.
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            ensure!(Instant::now() < deadline, "charon does not accept connections:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops charon with SIGSTOP and waits until all its threads have stopped.
    pub fn freeze(&self) -> Result<()> {
        kill(self.pid()?, Signal::SIGSTOP)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.threads()?.iter().all(|status| status.contains("State:\tT")) {
            ensure!(Instant::now() < deadline, "charon does not stop");
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Resumes charon.
    pub fn thaw(&self) -> Result<()> {
        Ok(kill(self.pid()?, Signal::SIGCONT)?)
    }

    fn pid(&self) -> Result<Pid> {
        let process = self.process.as_ref().context("charon is not running")?;
        Ok(Pid::from_raw(process.id().try_into()?))
    }

    fn threads(&self) -> Result<Vec<String>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid()?))?;
        threads.map(|thread| Ok(fs::read_to_string(thread?.path().join("status"))?)).collect()
    }

    /// Kills charon with SIGKILL and removes its PID file, so that it can start again.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_file(self.directory.join("charon.pid"));
    }
}

pub async fn load(client: &Client, (connection, issued): (Connection, Issued)) -> Result<()> {
    client.load_key(issued.key_pem.as_bytes()).await?;
    client.load_conn(&connection).await?;
    Ok(())
}

/// Returns a validity that starts and ends this many days from now.
pub fn days(from: i64, until: i64) -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity { from: now + time::Duration::days(from), until: now + time::Duration::days(until) }
}

fn tunnel(local: &str, remote: &str) -> Result<Tunnel> {
    Ok(Tunnel::new("tunnel", vec![local.parse()?], vec![remote.parse()?]))
}

fn config(directory: &Path) -> String {
    format!(
        "charon {{
  load = random nonce openssl pem pkcs1 pkcs8 x509 revocation constraints pubkey kdf hmac sha2 aes gcm kernel-libipsec kernel-netlink socket-default vici
  install_routes = no
  plugins {{ vici {{ socket = unix://{}/charon.vici }} }}
  filelog {{ stderr {{ default = 1 }} }}
}}
",
        directory.display()
    )
}
