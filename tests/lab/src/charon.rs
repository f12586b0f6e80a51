//! strongSwan's IKE daemon, in a namespace with a private `/run`.
use std::{
    fs,
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use ::gateway::strongswan::{Algorithms, Client, Connection, Error, Loaded};
use anyhow::{Context, Result, anyhow, ensure};
use gateway_tests_kit::{
    namespace::Namespace,
    process::{self, Process, wait_for},
};
use nix::sys::signal::Signal;

const CHARON: &str = "/usr/lib/ipsec/charon";
/// Path of strongswan.conf inside the namespace.
pub const CONF: &str = "/run/strongswan.conf";
/// Path of charon's VICI socket inside the namespace.
pub const VICI: &str = "/run/charon.vici";

/// charon's default size of IKE fragments.
pub const IKE_FRAGMENT_BYTES: u32 = 1280;

/// The settings that gatewayd needs, as shipped.
const SHIPPED: &str = include_str!("../../../packaging/strongswan/gatewayd.conf");

/// Only the plugins that are needed: each costs start-up time, most of all under emulation.
const CHARON_PLUGINS: &str = "random nonce openssl pem pkcs1 pkcs8 x509 revocation constraints pubkey \
                              kdf hmac sha2 aes gcm kernel-netlink socket-default vici";
/// The plugins that `swanctl` needs. With Debian's full list it complains about each one that is missing.
const SWANCTL_PLUGINS: &str = "random openssl pem pkcs1 pkcs8 x509 pubkey";

/// A running charon and its folder. Dropping it kills the process.
#[derive(Debug)]
pub struct Charon {
    process: Process,
    dir: PathBuf,
}

/// A CHILD_SA in use, with the peer of its IKE_SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sa {
    /// charon's number of the IKE_SA; an IKE rekey changes it.
    pub ike_id: u32,
    /// The authenticated identity of the peer.
    pub remote_identity: String,
    /// The peer's outer address.
    pub remote_host: IpAddr,
    /// charon's number of the CHILD_SA; a CHILD rekey changes it.
    pub child_id: u32,
    /// The reqid. charon gives it to another CHILD_SA after this one's end.
    pub reqid: u32,
    /// The mark, which no other CHILD_SA of this charon gets on the cloud gateway.
    pub mark: u32,
    /// True if ESP travels in UDP.
    pub encapsulated: bool,
    /// Encryption and integrity algorithms.
    pub cipher: String,
}

impl Charon {
    /// Starts charon, without connections, in `namespace`, whose private `/run` is `dir/run`.
    pub fn start(namespace: &Namespace, dir: &Path) -> Result<Self> {
        fs::write(dir.join("run/strongswan.conf"), strongswan_conf(IKE_FRAGMENT_BYTES))?;
        let log = dir.join("run/charon.log");
        // The log of an earlier charon must not be mistaken for this one's.
        fs::write(&log, "")?;
        let mut command = namespace.command(CHARON);
        command.env("STRONGSWAN_CONF", CONF);
        Ok(Self { process: Process::start(command, &log)?, dir: dir.to_path_buf() })
    }

    /// Sets the size, in bytes with all headers, above which new IKE_SAs fragment their messages (RFC 7383).
    pub fn set_fragment_bytes(&self, namespace: &Namespace, bytes: u32) -> Result<()> {
        fs::write(self.dir.join("run/strongswan.conf"), strongswan_conf(bytes))?;
        let mut swanctl = namespace.command("swanctl");
        swanctl.env("STRONGSWAN_CONF", CONF).arg("--reload-settings");
        process::output(&mut swanctl).map(drop)
    }

    /// Waits until charon answers on its VICI socket.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let socket = self.vici();
        wait_for("charon's VICI socket", Duration::from_secs(30), || {
            self.process.ensure_running()?;
            Ok(UnixStream::connect(&socket).ok().map(drop))
        })
    }

    /// Kills charon; its SAs and policies stay in the kernel.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Sends charon a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Returns what charon has loaded.
    pub fn loaded(&self) -> Result<Loaded> {
        self.command(async |client| client.loaded().await)
    }

    /// Unloads a connection.
    pub fn unload(&self, name: &str) -> Result<()> {
        self.command(async |client| client.unload_conn(name).await)
    }

    /// Returns true while charon is running.
    pub fn is_running(&mut self) -> bool {
        self.process.ensure_running().is_ok()
    }

    /// Returns the end of charon's log.
    pub fn log_end(&self) -> String {
        process::tail(self.process.log())
    }

    /// Reads charon's log.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.process.log())?)
    }

    /// Loads a connection and the private key it authenticates with (PEM).
    pub fn load(&self, connection: &Connection, private_key: &str) -> Result<()> {
        self.command(async |client| {
            client.load_key(private_key.as_bytes()).await?;
            client.load_conn(connection).await
        })
        .with_context(|| format!("charon refuses the connection {}", connection.name))
    }

    /// Brings a CHILD_SA up and waits for it.
    pub fn initiate(&self, child: &str, timeout: Duration) -> Result<()> {
        self.command(async |client| client.initiate(child, timeout).await)
    }

    /// Terminates an IKE_SA and its CHILD_SAs.
    pub fn terminate(&self, ike_id: u32) -> Result<()> {
        self.command(async |client| client.terminate_ike(ike_id).await)
    }

    /// Starts a rekey of a CHILD_SA.
    pub fn rekey_child(&self, child_id: u32) -> Result<()> {
        self.command(async |client| client.rekey_child(child_id).await)
    }

    /// Starts a rekey of an IKE_SA.
    pub fn rekey_ike(&self, ike_id: u32) -> Result<()> {
        self.command(async |client| client.rekey_ike(ike_id).await)
    }

    /// Starts a reauthentication of an IKE_SA: charon takes it down and initiates a new one.
    pub fn reauthenticate(&self, ike_id: u32) -> Result<()> {
        self.command(async |client| client.reauthenticate(ike_id).await)
    }

    /// Lists the CHILD_SAs in use whose peer is authenticated.
    pub fn list_sas(&self) -> Result<Vec<Sa>> {
        let list = self.command(async |client| client.list_sas().await)?;
        ensure!(list.faults.is_empty(), "cannot read charon's list of SAs: {:?}", list.faults);
        let authenticated = list.sas.iter().filter(|ike| ike.state.is_authenticated());
        let children = authenticated.flat_map(|ike| ike.children.iter().map(move |child| (ike, child)));
        let up = children.filter(|(_, child)| child.state.is_up());
        Ok(up
            .map(|(ike, child)| Sa {
                ike_id: ike.unique_id,
                remote_identity: ike.remote_id.clone(),
                remote_host: ike.remote_host,
                child_id: child.unique_id,
                reqid: child.reqid,
                mark: child.mark_in,
                encapsulated: child.encap,
                cipher: cipher(&child.algorithms),
            })
            .collect())
    }

    /// Path of the VICI socket outside the namespace.
    pub fn vici(&self) -> PathBuf {
        self.dir.join("run/charon.vici")
    }

    fn command<T>(&self, work: impl AsyncFnOnce(Client) -> Result<T, Error>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(async { work(Client::connect(&self.vici()).await?).await });
        result.map_err(|error| anyhow!(error).context(format!("command to charon in {}", self.dir.display())))
    }
}

fn cipher(algorithms: &Algorithms) -> String {
    let encryption = algorithms.encryption.as_deref().unwrap_or("no encryption");
    let bits = algorithms.encryption_key_bits.map(|bits| format!(" {bits}")).unwrap_or_default();
    let integrity = algorithms.integrity.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
    format!("{encryption}{bits}{integrity}")
}

fn strongswan_conf(fragment_bytes: u32) -> String {
    format!(
        "charon {{
  load = {CHARON_PLUGINS}
  install_routes = no
  fragment_size = {fragment_bytes}
  # The lab loses no packets: first retransmission after 2 s, giving up after 14 s.
  retransmit_timeout = 2
  retransmit_base = 2
  retransmit_tries = 2
  filelog {{
    stderr {{
      default = 1
      time_format = %T
      time_add_ms = yes
    }}
  }}
  plugins {{
    vici {{
      socket = unix:///run/charon.vici
    }}
  }}
}}
swanctl {{
  load = {SWANCTL_PLUGINS}
  plugins {{
    vici {{
      socket = unix:///run/charon.vici
    }}
  }}
}}
{SHIPPED}"
    )
}
