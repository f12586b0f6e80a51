//! The customers' servers: real TCP servers that answer each request with its own number.
use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result};
use gateway_tests_kit::namespace::Namespace;
use nix::sys::socket::{Backlog, listen};

use super::party::{ATTACKER, PORT, Party};

/// Starts all servers, which listen until the process ends. The attacker's server listens until the returned
/// listeners are dropped: it never answers, and completes as many handshakes as the kernel's backlog holds.
pub fn start(namespace: &Namespace) -> Result<Vec<TcpListener>> {
    let mut silent = Vec::new();
    for party in Party::all() {
        for address in [IpAddr::V4(party.server4()), IpAddr::V6(party.server6())] {
            let listener = namespace.enter(|| {
                TcpListener::bind((address, PORT)).with_context(|| format!("listen on {address}"))
            })?;
            if party == ATTACKER {
                listen(&listener, Backlog::MAXCONN)?;
                silent.push(listener);
            } else {
                thread::spawn(move || serve(&listener));
            }
        }
    }
    Ok(silent)
}

/// Returns a server's answer to request `number`.
pub fn body(server: IpAddr, number: u64) -> String {
    format!("{server} answers {number}")
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // The thread ends with its connection; errors do not matter.
        thread::spawn(move || answer(&stream));
    }
}

/// Answers requests on a connection, each `GET /NUMBER HTTP/1.1`, header lines and an empty line.
fn answer(stream: &TcpStream) -> Result<()> {
    let server = stream.local_addr()?.ip();
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("GET /") {
            let number =
                rest.split_whitespace().next().and_then(|word| word.parse().ok()).context("no number")?;
            let body = body(server, number);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let mut to = stream;
            to.write_all((head + &body).as_bytes())?;
        }
    }
}
