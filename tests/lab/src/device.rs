//! An IoT device: an HTTP client of its customer's server.
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gateway_tests_kit::{namespace::Namespace, process};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt::{Linger, ReuseAddr},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    content::{self, verdict},
    server::PORT,
    site::Spec,
};

/// Timeout to connect, to send a request, and for an answer. Tunnels may have to come up first, which takes a minute on a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Reports the current date to the server at this address with curl, as a device would. Returns the answer.
pub fn report_date(namespace: &Namespace, site: &Spec, server: IpAddr) -> Result<String> {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let url = format!("http://{}/telemetry?device={}-sensor&date={now}", host(server), site.name);
    let mut curl = namespace.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "30", "--globoff", &url]);
    process::output(&mut curl)
}

/// Formats an address for a URL or a Host header: RFC 3986 section 3.2.2.
fn host(server: IpAddr) -> String {
    match server {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A keep-alive HTTP connection from a device, for traffic without a process for each request.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    server: IpAddr,
}

impl Connection {
    /// Connects from `namespace` to port 80 of `server`.
    pub fn open(namespace: &Namespace, server: impl Into<IpAddr>) -> Result<Self> {
        let server = server.into();
        let stream = namespace
            .enter(|| Ok(TcpStream::connect_timeout(&SocketAddr::from((server, PORT)), PATIENCE)?))
            .with_context(|| format!("cannot connect to {server}:{PORT}"))?;
        Self::over(stream, server)
    }

    /// Connects from this source address and port to port 80 of `server`.
    pub fn open_from(namespace: &Namespace, source: IpAddr, port: u16, server: IpAddr) -> Result<Self> {
        let stream = namespace
            .enter(|| {
                let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
                setsockopt(&socket, ReuseAddr, &true)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, port)))?;
                connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(server, PORT)))?;
                Ok(TcpStream::from(socket))
            })
            .with_context(|| format!("cannot connect to {server}:{PORT} from port {port}"))?;
        Self::over(stream, server)
    }

    fn over(stream: TcpStream, server: IpAddr) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), server })
    }

    /// Ends the connection with a RST, after which neither end sends anything.
    pub fn reset(self) -> Result<()> {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        Ok(setsockopt(self.stream.get_ref(), Linger, &at_once)?)
    }

    /// The device's port.
    pub fn local_port(&self) -> Result<u16> {
        Ok(self.stream.get_ref().local_addr()?.port())
    }

    /// Sends a GET for `path`, reads the answer, which must be a 200, and returns its body.
    pub fn get(&mut self, path: &str) -> Result<String> {
        let request = self.request(path);
        self.send(request.as_bytes())?;
        self.receive()
    }

    /// Returns the text of a GET for `path`.
    pub fn request(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", host(self.server))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("cannot send the request")
    }

    /// Downloads this much content and checks every byte.
    pub fn download(&mut self, bytes: usize) -> Result<()> {
        self.send(self.request(&format!("{}{bytes}", content::PATH)).as_bytes())?;
        let body = self.receive_bytes(bytes)?;
        ensure!(body == content::content(bytes), "requested {bytes} bytes, got {}", verdict(&body).trim());
        Ok(())
    }

    /// Uploads this much content; the server must confirm every byte.
    pub fn upload(&mut self, bytes: usize) -> Result<()> {
        let path = content::PATH;
        let host = host(self.server);
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {bytes}\r\n\r\n");
        self.send(head.as_bytes())?;
        self.send(&content::content(bytes))?;
        let (answer, right) = (self.receive()?, verdict(&content::content(bytes)));
        ensure!(answer == right, "sent {bytes} bytes, the server received {}", answer.trim());
        Ok(())
    }

    /// Reads one answer, which must be a 200, and returns its body.
    pub fn receive(&mut self) -> Result<String> {
        Ok(String::from_utf8(self.receive_bytes(64 * 1024)?)?)
    }

    fn receive_bytes(&mut self, limit: usize) -> Result<Vec<u8>> {
        let mut status = String::new();
        self.stream.read_line(&mut status).context("no answer")?;
        ensure!(status.starts_with("HTTP/1.1 200"), "the answer is {status:?}");
        let mut length = 0;
        loop {
            let mut header = String::new();
            self.stream.read_line(&mut header)?;
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        ensure!(length <= limit, "the answer has {length} bytes, more than the limit of {limit}");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).with_context(|| format!("an answer of {length} bytes"))?;
        Ok(body)
    }
}
