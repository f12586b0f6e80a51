//! Typed commands.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use tokio::sync::{mpsc, oneshot};

use super::{
    check::{check_blob, check_name},
    connection::Connection,
    error::Error,
    message::{self, Blob, Message},
    raw_sa::RawIkeSa,
    reply::{NamedSection, Reply},
    sa::{Fault, IkeSa},
    transport::{Request, Transport},
    version::Version,
};
use crate::process::Process;

/// Timeout of commands that only touch charon's memory.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of commands that walk all SAs or connections and wait for those in use.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout value that makes charon terminate within the call, without waiting for the peer.
const TERMINATE_WITHOUT_WAITING: i32 = -1;
/// Time that charon's answer may exceed charon's own timeout.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// Bound on listed IKE_SAs or connections, above what any gateway has.
const MAX_LISTED: usize = 1 << 18;
/// Messages buffered between the connection's task and the decoder.
const STREAM_BUFFER: usize = 64;

/// Commands to charon.
///
/// Clones share one connection, on which commands run one after the other. A call may be dropped at any
/// time; its command still runs to completion. [`Error::Timeout`], [`Error::Malformed`], [`Error::Io`] and
/// [`Error::Closed`] mean that the connection is gone: connect anew, or let `Supervisor` do it.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
    path: PathBuf,
}

/// The result of [`Client::list_sas`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaList {
    /// The readable IKE_SAs.
    pub sas: Vec<IkeSa>,
    /// The faults of unreadable SAs, which `sas` lacks. Callers should report them.
    pub faults: Vec<Fault>,
}

/// The result of [`Client::loaded`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Names of connections.
    pub connections: Vec<String>,
    /// Names of authorities.
    pub authorities: Vec<String>,
    /// Ids of private keys, as [`Client::load_key`] returns them.
    pub keys: Vec<String>,
}

/// The answer to `get-conns`, `get-authorities` or `get-keys`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Names {
    conns: Vec<String>,
    authorities: Vec<String>,
    keys: Vec<String>,
}

impl Client {
    /// Connects to charon's socket. Needs a tokio runtime.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let transport = Transport::connect(path, &["list-sa", "list-conn"]).await?;
        Ok(Self { transport, path: path.to_owned() })
    }

    /// Returns the process that answers, or None if it cannot be told, as for one in another PID namespace.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        self.transport.process()
    }

    /// Waits until the connection is gone, whether or not a command is running.
    pub async fn closed(&self) {
        self.transport.closed().await;
    }

    /// Returns charon's version.
    pub async fn version(&self) -> Result<Version, Error> {
        let version: Version = self.call("version", Vec::new(), COMMAND_TIMEOUT).await?.decode()?;
        Ok(version.printable())
    }

    /// Loads a CA certificate (PEM or DER) under a name, and replaces an authority of that name.
    pub async fn load_authority(&self, name: &str, certificate: &[u8]) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Authority<'a> {
            cacert: Blob<'a>,
        }
        check_name("authority", name)?;
        check_blob("CA certificate", certificate)?;
        let authority = BTreeMap::from([(name, Authority { cacert: Blob(certificate) })]);
        self.execute("load-authority", &authority, COMMAND_TIMEOUT).await
    }

    /// Loads a certificate (PEM or DER). Certificates in a [`Connection`] need no separate loading.
    pub async fn load_certificate(&self, certificate: &[u8]) -> Result<(), Error> {
        self.load_x509("X509", certificate).await
    }

    /// Loads a CRL (PEM or DER, at most 65,535 bytes or about 1,700 entries: VICI has no larger values).
    /// The CRL replaces one of the same CA with a lower number. It affects new authentications only: the
    /// caller must terminate IKE_SAs of revoked certificates.
    pub async fn load_crl(&self, crl: &[u8]) -> Result<(), Error> {
        self.load_x509("X509_CRL", crl).await?;
        // charon 5.9.8 keeps the replaced CRL in its cache of verified certificates and consults the cache
        // first, so it would still accept certificates that only the new CRL revokes.
        self.execute("flush-certs", &BTreeMap::from([("type", "X509_CRL")]), COMMAND_TIMEOUT).await
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
        self.execute("load-cert", &certificate, COMMAND_TIMEOUT).await
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
        self.execute("unload-key", &BTreeMap::from([("id", id)]), COMMAND_TIMEOUT).await
    }

    /// Unloads all certificates, CRLs and keys loaded over VICI. Connections and SAs stay.
    pub async fn clear_credentials(&self) -> Result<(), Error> {
        self.execute("clear-creds", &NO_ARGUMENTS, COMMAND_TIMEOUT).await
    }

    /// Returns the names of all loaded connections. Uses the streamed `list-conns`, because the answer to
    /// `get-conns` is a single frame, which cannot hold the names of some 10,000 sites.
    pub async fn list_conns(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.stream("list-conns", "list-conn", Vec::new(), |message| {
            let listed: BTreeMap<String, IgnoredAny> = message.decode()?;
            names.extend(listed.into_keys());
            Ok(names.len())
        })
        .await?;
        Ok(names)
    }

    /// Returns the names of the loaded connections, of the authorities, and the ids of the private keys: all that
    /// another client could have unloaded. A single frame holds each list, so it cannot be long.
    pub async fn loaded(&self) -> Result<Loaded, Error> {
        Ok(Loaded {
            connections: self.names("get-conns").await?.conns,
            authorities: self.names("get-authorities").await?.authorities,
            keys: self.names("get-keys").await?.keys,
        })
    }

    async fn names(&self, command: &'static str) -> Result<Names, Error> {
        self.call(command, Vec::new(), COMMAND_TIMEOUT).await?.decode()
    }

    /// Loads a connection. charon replaces one of that name if it differs; its SAs stay unchanged.
    pub async fn load_conn(&self, connection: &Connection) -> Result<(), Error> {
        let reply = self.call("load-conn", connection.encode()?, COMMAND_TIMEOUT).await?;
        Reply::decode("load-conn", &reply).map(drop)
    }

    /// Unloads a connection. Its SAs stay until they are terminated.
    pub async fn unload_conn(&self, name: &str) -> Result<(), Error> {
        check_name("connection", name)?;
        self.execute("unload-conn", &BTreeMap::from([("name", name)]), COMMAND_TIMEOUT).await
    }

    /// Returns all IKE_SAs with their CHILD_SAs. charon waits for SAs in use, so the list lacks at most an
    /// IKE_SA that a rekeying is creating at that moment.
    pub async fn list_sas(&self) -> Result<SaList, Error> {
        self.list(Vec::new()).await
    }

    /// Returns the IKE_SA of this number with its CHILD_SAs, in a list of one, or an empty list if there is none.
    pub async fn list_sa(&self, unique_id: u32) -> Result<SaList, Error> {
        self.list(message::encode(&BTreeMap::from([("ike-id", unique_id.to_string())]))?).await
    }

    async fn list(&self, arguments: Vec<u8>) -> Result<SaList, Error> {
        let mut list = SaList::default();
        self.stream("list-sas", "list-sa", arguments, |message| {
            match message.decode::<NamedSection<RawIkeSa<'_>>>() {
                Ok(NamedSection(name, raw)) => match raw.parse(name, &mut list.faults) {
                    Ok(sa) => list.sas.push(sa),
                    Err(fault) => list.faults.push(fault),
                },
                // The transport checked the form, but the content is not an SA.
                Err(error) => list.faults.push(Fault::new("(unreadable)", error.to_string())),
            }
            Ok(list.sas.len() + list.faults.len())
        })
        .await?;
        Ok(list)
    }

    /// Deletes an IKE_SA with its children at once. charon notifies the peer without waiting for its answer.
    pub async fn terminate_ike(&self, unique_id: u32) -> Result<(), Error> {
        // With a timeout and `force`, charon reports failure despite success (controller.c, terminate_ike).
        let timeout_ms = TERMINATE_WITHOUT_WAITING;
        let arguments = Terminate { ike_id: Some(unique_id), child_id: None, force: true, timeout_ms };
        self.execute("terminate", &arguments, LIST_TIMEOUT).await
    }

    /// Starts deleting a CHILD_SA without waiting for the peer. It stays until the peer confirms, or until charon gives
    /// the peer up.
    pub async fn terminate_child(&self, unique_id: u32) -> Result<(), Error> {
        let timeout_ms = TERMINATE_WITHOUT_WAITING;
        let arguments = Terminate { ike_id: None, child_id: Some(unique_id), force: false, timeout_ms };
        self.execute("terminate", &arguments, COMMAND_TIMEOUT).await
    }

    /// Initiates a child and waits until it is up. `timeout` is at least 1 ms.
    pub async fn initiate(&self, child: &str, timeout: Duration) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Initiate<'a> {
            child: &'a str,
            #[serde(rename = "timeout")]
            timeout_ms: i32,
        }
        check_name("child", child)?;
        let arguments = Initiate { child, timeout_ms: milliseconds(timeout) };
        self.execute_separately("initiate", &arguments, timeout).await
    }

    /// Starts rekeying a CHILD_SA without waiting for the result.
    pub async fn rekey_child(&self, unique_id: u32) -> Result<(), Error> {
        self.rekey(&Rekey { child_id: Some(unique_id), ..Rekey::default() }).await
    }

    /// Starts rekeying an IKE_SA without waiting for the result.
    pub async fn rekey_ike(&self, unique_id: u32) -> Result<(), Error> {
        self.rekey(&Rekey { ike_id: Some(unique_id), ..Rekey::default() }).await
    }

    /// Starts reauthentication of an IKE_SA, which replaces its children, without waiting for the result.
    pub async fn reauthenticate(&self, unique_id: u32) -> Result<(), Error> {
        self.rekey(&Rekey { ike_id: Some(unique_id), reauth: Some(true), ..Rekey::default() }).await
    }

    async fn rekey(&self, arguments: &Rekey) -> Result<(), Error> {
        self.execute("rekey", arguments, COMMAND_TIMEOUT).await
    }

    /// Runs a command whose answer is success or failure.
    async fn execute<T: Serialize>(
        &self,
        command: &'static str,
        arguments: &T,
        timeout: Duration,
    ) -> Result<(), Error> {
        let reply = self.call(command, message::encode(arguments)?, timeout).await?;
        Reply::decode(command, &reply).map(drop)
    }

    /// Runs a command on a separate connection: it waits for a peer and must not delay other commands.
    async fn execute_separately<T: Serialize>(
        &self,
        command: &'static str,
        arguments: &T,
        charon_waits: Duration,
    ) -> Result<(), Error> {
        let transport = Transport::connect(&self.path, &[]).await?;
        let separate = Self { transport, path: PathBuf::new() };
        separate.execute(command, arguments, charon_waits + ANSWER_SLACK).await
    }

    /// Runs a command and returns its answer.
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

    /// Runs a streaming command. `visit` takes each message and returns the number of items so far.
    async fn stream(
        &self,
        command: &'static str,
        event: &'static str,
        message: Vec<u8>,
        mut visit: impl FnMut(Message) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        let (sink, mut messages) = mpsc::channel(STREAM_BUFFER);
        let (reply, answer) = oneshot::channel();
        let stream = Some((event, sink));
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

const NO_ARGUMENTS: BTreeMap<&str, &str> = BTreeMap::new();

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

/// Returns at least 1: charon waits forever on 0 and not at all on -1.
fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1)
}
