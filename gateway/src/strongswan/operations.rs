//! Typed commands.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use tokio::sync::{mpsc, oneshot};

use super::{
    Connection, Error, Fault, IkeSa,
    connection::{check_blob, check_name},
    message::{self, Blob, Message},
    raw_sa::RawIkeSa,
    reply::{OneNamed, Reply},
    transport::{Request, Transport},
};

/// Commands that only touch charon's memory.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that walk all SAs or connections and wait for those that are in use.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long charon waits for a peer to confirm the DELETE of a CHILD_SA.
const TERMINATE_WAIT: Duration = Duration::from_secs(2);
/// In place of a timeout: do it in this call, wait for nobody.
const TERMINATE_AT_ONCE: i32 = -1;
/// How much later than its own timeout charon may answer.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// More IKE_SAs or connections than any gateway has.
const MAX_LISTED: usize = 1 << 18;
/// Messages on the way from the connection's task to the decoder.
const STREAM_BUFFER: usize = 64;

/// Commands to charon.
///
/// Clones share one connection, on which commands run one after the other. A call may be dropped at any
/// time; its command still runs to its end. After [`Error::Timeout`], [`Error::Malformed`], [`Error::Io`] or
/// [`Error::Closed`] the connection is gone: make a new one, or let [`Supervisor`](super::Supervisor) do it.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
    path: PathBuf,
}

/// What [`Client::list_sas`] brings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaList {
    /// The IKE_SAs that could be read.
    pub sas: Vec<IkeSa>,
    /// What could not, and is missing from `sas`: report it.
    pub faults: Vec<Fault>,
}

/// charon's version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// `charon`.
    pub daemon: String,
    /// strongSwan's version, e.g. `5.9.8`.
    pub version: String,
    /// The operating system.
    pub sysname: String,
    /// The kernel's version.
    pub release: String,
    /// The hardware.
    pub machine: String,
}

impl Version {
    /// Bounded, and without what could steer a terminal: it ends up in logs and the status.
    fn printable(self) -> Self {
        const MAX_CHARACTERS: usize = 64;
        let plain = |text: String| {
            let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
            text.chars().take(MAX_CHARACTERS).map(visible).collect()
        };
        let Self { daemon, version, sysname, release, machine } = self;
        Self {
            daemon: plain(daemon),
            version: plain(version),
            sysname: plain(sysname),
            release: plain(release),
            machine: plain(machine),
        }
    }
}

impl Client {
    /// Connects to charon's socket. Must be called in a tokio runtime.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let transport = Transport::connect(path, &["list-sa", "list-conn"]).await?;
        Ok(Self { transport, path: path.to_owned() })
    }

    /// Returns as soon as the connection is gone, whether or not a command is under way.
    pub async fn closed(&self) {
        self.transport.closed().await;
    }

    /// charon's version.
    pub async fn version(&self) -> Result<Version, Error> {
        let version: Version = self.call("version", Vec::new(), COMMAND_TIMEOUT).await?.decode()?;
        Ok(version.printable())
    }

    /// Loads a CA certificate (PEM or DER) under a name; an authority of that name is replaced.
    pub async fn load_authority(&self, name: &str, certificate: &[u8]) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Authority<'a> {
            cacert: Blob<'a>,
        }
        check_name("authority", name)?;
        check_blob("CA certificate", certificate)?;
        let authority = BTreeMap::from([(name, Authority { cacert: Blob(certificate) })]);
        self.order("load-authority", &authority, COMMAND_TIMEOUT).await
    }

    /// Loads a certificate (PEM or DER). Not needed for those a [`Connection`] holds.
    pub async fn load_certificate(&self, certificate: &[u8]) -> Result<(), Error> {
        self.load_x509("X509", certificate).await
    }

    /// Loads a CRL (PEM or DER, at most 65,535 bytes: about 1,700 entries; VICI has no larger values).
    /// It replaces one of the same CA with a lower number. It decides over new authentications only: live
    /// IKE_SAs of revoked certificates must be terminated.
    pub async fn load_crl(&self, crl: &[u8]) -> Result<(), Error> {
        self.load_x509("X509_CRL", crl).await?;
        // charon 5.9.8 keeps the replaced CRL in its cache of verified certificates, finds it there first
        // and takes its word: what the new one revokes would still be accepted.
        self.order("flush-certs", &BTreeMap::from([("type", "X509_CRL")]), COMMAND_TIMEOUT).await
    }

    async fn load_x509(&self, kind: &'static str, data: &[u8]) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Certificate<'a> {
            r#type: &'static str,
            flag: &'static str,
            data: Blob<'a>,
        }
        check_blob(kind, data)?;
        let certificate = Certificate { r#type: kind, flag: "NONE", data: Blob(data) };
        self.order("load-cert", &certificate, COMMAND_TIMEOUT).await
    }

    /// Loads a private key (PEM or DER, not encrypted) and returns its id: SHA-1 of the public key in hex.
    pub async fn load_key(&self, key: &[u8]) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Key<'a> {
            r#type: &'static str,
            data: Blob<'a>,
        }
        check_blob("private key", key)?;
        let arguments = message::encode(&Key { r#type: "any", data: Blob(key) })?;
        let reply = self.call("load-key", arguments, COMMAND_TIMEOUT).await?;
        Reply::decode("load-key", &reply)?
            .id
            .map(str::to_owned)
            .ok_or_else(|| Error::malformed("load-key without an id"))
    }

    /// Unloads a private key by the id that [`Client::load_key`] returned.
    pub async fn unload_key(&self, id: &str) -> Result<(), Error> {
        check_name("key id", id)?;
        self.order("unload-key", &BTreeMap::from([("id", id)]), COMMAND_TIMEOUT).await
    }

    /// Forgets all certificates, CRLs and keys that were loaded over VICI. Connections and SAs stay.
    pub async fn clear_credentials(&self) -> Result<(), Error> {
        self.order("clear-creds", &NOTHING, COMMAND_TIMEOUT).await
    }

    /// Names of all loaded connections. Uses the streamed `list-conns`: the answer to `get-conns` is one
    /// frame, and names of some 10,000 sites do not fit.
    pub async fn list_conns(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.stream("list-conns", "list-conn", |message| {
            let listed: BTreeMap<String, IgnoredAny> = message.decode()?;
            names.extend(listed.into_keys());
            Ok(names.len())
        })
        .await?;
        Ok(names)
    }

    /// Loads a connection. One of that name is replaced if it differs; its SAs stay as they are.
    pub async fn load_conn(&self, connection: &Connection) -> Result<(), Error> {
        let reply = self.call("load-conn", connection.encode()?, COMMAND_TIMEOUT).await?;
        Reply::decode("load-conn", &reply).map(drop)
    }

    /// Unloads a connection. Its SAs stay: terminate them too.
    pub async fn unload_conn(&self, name: &str) -> Result<(), Error> {
        check_name("connection", name)?;
        self.order("unload-conn", &BTreeMap::from([("name", name)]), COMMAND_TIMEOUT).await
    }

    /// All IKE_SAs with their CHILD_SAs. Waits for SAs that charon is working on, so that none is missing but one
    /// that a rekeying is just making.
    pub async fn list_sas(&self) -> Result<SaList, Error> {
        let mut list = SaList::default();
        self.stream("list-sas", "list-sa", |message| {
            match message.decode::<OneNamed<RawIkeSa<'_>>>() {
                Ok(OneNamed(name, raw)) => match raw.parse(name, &mut list.faults) {
                    Ok(sa) => list.sas.push(sa),
                    Err(fault) => list.faults.push(fault),
                },
                // Well formed, as the transport checked, but no SA.
                Err(error) => list.faults.push(Fault::new("(unreadable)", error.to_string())),
            }
            Ok(list.sas.len() + list.faults.len())
        })
        .await?;
        Ok(list)
    }

    /// Deletes an IKE_SA with its children at once. The peer is told, its answer not awaited.
    pub async fn terminate_ike(&self, unique_id: u32) -> Result<(), Error> {
        // Waiting and then forcing would end in "failed" though it worked (controller.c, terminate_ike).
        let timeout_ms = TERMINATE_AT_ONCE;
        let arguments = Terminate { ike_id: Some(unique_id), child_id: None, force: true, timeout_ms };
        self.order("terminate", &arguments, LIST_TIMEOUT).await
    }

    /// Deletes a CHILD_SA. [`Error::Refused`] if the peer does not confirm within 2 s: then terminate its
    /// IKE_SA, which cannot fail that way.
    pub async fn terminate_child(&self, unique_id: u32) -> Result<(), Error> {
        let timeout_ms = milliseconds(TERMINATE_WAIT);
        let arguments = Terminate { ike_id: None, child_id: Some(unique_id), force: false, timeout_ms };
        self.order_aside("terminate", &arguments, TERMINATE_WAIT).await
    }

    /// Brings a child up and waits for it. `timeout`: at least 1 ms.
    pub async fn initiate(&self, child: &str, timeout: Duration) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Initiate<'a> {
            child: &'a str,
            #[serde(rename = "timeout")]
            timeout_ms: i32,
        }
        check_name("child", child)?;
        let arguments = Initiate { child, timeout_ms: milliseconds(timeout) };
        self.order_aside("initiate", &arguments, timeout).await
    }

    /// Starts rekeying a CHILD_SA; does not wait for it.
    pub async fn rekey_child(&self, unique_id: u32) -> Result<(), Error> {
        self.rekey(&Rekey { child_id: Some(unique_id), ..Rekey::default() }).await
    }

    /// Starts rekeying an IKE_SA; does not wait for it.
    pub async fn rekey_ike(&self, unique_id: u32) -> Result<(), Error> {
        self.rekey(&Rekey { ike_id: Some(unique_id), ..Rekey::default() }).await
    }

    /// Starts reauthentication of an IKE_SA, which replaces its children; does not wait for it.
    pub async fn reauthenticate(&self, unique_id: u32) -> Result<(), Error> {
        self.rekey(&Rekey { ike_id: Some(unique_id), reauth: Some(true), ..Rekey::default() }).await
    }

    async fn rekey(&self, arguments: &Rekey) -> Result<(), Error> {
        self.order("rekey", arguments, COMMAND_TIMEOUT).await
    }

    /// A command whose answer is success or not.
    async fn order<T: Serialize>(
        &self,
        command: &'static str,
        arguments: &T,
        timeout: Duration,
    ) -> Result<(), Error> {
        let reply = self.call(command, message::encode(arguments)?, timeout).await?;
        Reply::decode(command, &reply).map(drop)
    }

    /// The same on a connection of its own, for commands that wait for a peer and must not hold up others.
    async fn order_aside<T: Serialize>(
        &self,
        command: &'static str,
        arguments: &T,
        charon_waits: Duration,
    ) -> Result<(), Error> {
        let transport = Transport::connect(&self.path, &[]).await?;
        let aside = Self { transport, path: PathBuf::new() };
        aside.order(command, arguments, charon_waits + ANSWER_SLACK).await
    }

    async fn call(
        &self,
        command: &'static str,
        message: Vec<u8>,
        timeout: Duration,
    ) -> Result<Message, Error> {
        let (reply, answer) = oneshot::channel();
        self.transport.send(Request { command, message, stream: None, timeout, reply }).await?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Runs a command that streams; `visit` takes each message and returns how many things it has by now.
    async fn stream(
        &self,
        command: &'static str,
        event: &'static str,
        mut visit: impl FnMut(Message) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        let (sink, mut messages) = mpsc::channel(STREAM_BUFFER);
        let (reply, answer) = oneshot::channel();
        let stream = Some((event, sink));
        let message = Vec::new();
        let request = Request { command, message, stream, timeout: LIST_TIMEOUT, reply };
        self.transport.send(request).await?;
        while let Some(message) = messages.recv().await {
            if visit(message)? > MAX_LISTED {
                return Err(Error::malformed(format!("{command} lists more than {MAX_LISTED}")));
            }
        }
        answer.await.map_err(|_| Error::Closed)?.map(drop)
    }
}

const NOTHING: BTreeMap<&str, &str> = BTreeMap::new();

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Terminate {
    child_id: Option<u32>,
    ike_id: Option<u32>,
    force: bool,
    #[serde(rename = "timeout")]
    timeout_ms: i32,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Rekey {
    child_id: Option<u32>,
    ike_id: Option<u32>,
    reauth: Option<bool>,
}

/// At least 1: charon waits for ever on 0 and not at all on -1.
fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_holds_nothing_that_steers_a_terminal_and_is_bounded() {
        let text = |text: &str| text.to_owned();
        let version = Version {
            daemon: text("charon\n"),
            version: text("5.9.8\u{1b}[2J"),
            sysname: "x".repeat(100_000),
            release: text("6.12\r"),
            machine: text("x86_64\0"),
        };
        let Version { daemon, version, sysname, release, machine } = version.printable();
        assert_eq!(version, "5.9.8\u{fffd}[2J");
        assert_eq!(sysname.len(), 64);
        assert!([daemon, version, release, machine].iter().all(|text| !text.chars().any(char::is_control)));
    }
}
