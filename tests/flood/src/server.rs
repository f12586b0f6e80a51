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

/// Starts all servers. They listen until the process ends, the attacker's until what is returned is
/// dropped: it completes handshakes, as many as the kernel keeps for it, and never says a word.
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

/// What the server of this address answers to request `number`.
pub fn body(server: IpAddr, number: u64) -> String {
    format!("{server} answers {number}")
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // Ends with its connection, whatever that ends by.
        thread::spawn(move || answer(&stream));
    }
}

/// `GET /NUMBER HTTP/1.1`, any header lines, an empty line; again and again.
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
