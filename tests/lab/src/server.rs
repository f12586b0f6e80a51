//! The customers' HTTP servers: stateless, each in its own namespace on the cloud LAN.
use std::{
    net::{IpAddr, TcpListener},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use gateway_tests_kit::namespace::Namespace;
use tiny_http::{Response, Server as HttpServer};

use crate::content;

/// The port all servers listen on.
pub const PORT: u16 = 80;

/// One request that reached a server.
#[derive(Debug, Clone)]
pub struct Request {
    /// The customer whose server it reached.
    pub customer: &'static str,
    /// The client's address as the server sees it.
    pub from: Option<IpAddr>,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub url: String,
}

/// All requests that the servers have received, in order.
#[derive(Debug, Default)]
pub struct Requests {
    received: Mutex<Vec<Request>>,
    arrived: Condvar,
}

/// A customer's server at one of its addresses. It listens until the process ends.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// The customer's name.
    pub customer: &'static str,
    /// The address on the cloud LAN.
    pub address: IpAddr,
}

impl Server {
    /// Starts listening on `address`, port 80, in `namespace`.
    pub fn start(
        customer: &'static str,
        address: IpAddr,
        namespace: &Namespace,
        requests: Arc<Requests>,
    ) -> Result<Self> {
        let listener = namespace.enter(|| Ok(TcpListener::bind((address, PORT))?))?;
        let http = HttpServer::from_listener(listener, None).map_err(|error| anyhow!("{error}"))?;
        thread::spawn(move || {
            for request in http.incoming_requests() {
                let received = Request {
                    customer,
                    from: request.remote_addr().map(|address| address.ip()),
                    method: request.method().to_string(),
                    url: request.url().to_owned(),
                };
                if received.url.starts_with(content::PATH) {
                    // In a thread: a long transfer must not delay other requests.
                    thread::spawn(move || exchange_content(request));
                    continue;
                }
                let body = format!("{customer}: received {}\n", received.url);
                requests.push(received);
                // The client may be gone by now, which is no fault of the server.
                let _ = request.respond(Response::from_string(body));
            }
        });
        Ok(Self { customer, address })
    }
}

/// Sends the requested content, or checks the content that was sent. Clients check the answers, so errors of
/// the connection are ignored here.
fn exchange_content(mut request: tiny_http::Request) {
    let requested = request.url().strip_prefix(content::PATH).and_then(|bytes| bytes.parse().ok());
    let mut body = Vec::new();
    let answer = match (request.method(), requested) {
        (tiny_http::Method::Get, Some(bytes)) if bytes <= content::MAX_BYTES => content::content(bytes),
        (tiny_http::Method::Post, None) if request.body_length().is_some_and(|b| b <= content::MAX_BYTES) => {
            if request.as_reader().read_to_end(&mut body).is_err() {
                return;
            }
            content::verdict(&body).into_bytes()
        }
        _ => "no such content\n".into(),
    };
    // Send a Content-Length even for long bodies.
    let _ = request.respond(Response::from_data(answer).with_chunked_threshold(usize::MAX));
}

impl Requests {
    /// Returns the number of requests so far, a position for [`Requests::since`].
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Returns the requests from position `start` on.
    pub fn since(&self, start: usize) -> Vec<Request> {
        self.lock().get(start..).unwrap_or_default().to_vec()
    }

    /// Returns the same as [`Requests::since`] once there are `count` requests or `timeout` has passed.
    pub fn wait_since(&self, start: usize, count: usize, timeout: Duration) -> Vec<Request> {
        let deadline = Instant::now() + timeout;
        let mut received = self.lock();
        while received.len() < start + count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            received = self.arrived.wait_timeout(received, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        received.get(start..).unwrap_or_default().to_vec()
    }

    fn push(&self, request: Request) {
        self.lock().push(request);
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        // A panic cannot leave the list half written.
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
