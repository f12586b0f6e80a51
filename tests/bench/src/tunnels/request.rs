//! IKE_SA_INIT requests of strangers, made by hand: charon answers them, and hears no more.
use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::ground::{GATEWAY, Ground, outer};

const IKE_PORT: u16 = 500;
/// Longest time until the gateway answers.
const LIMIT: Duration = Duration::from_secs(5);
/// Length of a message's header (RFC 7296, 3.1), and the position of the first payload's type in it.
const HEADER_BYTES: usize = 28;
const FIRST_PAYLOAD: usize = 16;
/// Types of payloads (RFC 7296, 3.2).
const SECURITY_ASSOCIATION: u8 = 33;
const NOTIFY: u8 = 41;

/// Sends one request from each of `count` addresses, and waits for each answer. Shows the cookie that the gateway's
/// programs ask for, as any initiator does.
pub fn send(ground: &Ground, count: u32) -> Result<()> {
    let gateway = SocketAddr::new(GATEWAY.into(), IKE_PORT);
    for site in 1..=count {
        let socket = ground.sites.enter(|| Ok(UdpSocket::bind(SocketAddr::new(outer(site).into(), 0))?))?;
        socket.set_read_timeout(Some(LIMIT))?;
        let ask = |message: &[u8]| -> Result<Vec<u8>> {
            socket.send_to(message, gateway)?;
            let mut answer = vec![0; 1500];
            let length = socket.recv(&mut answer).context("no answer to IKE_SA_INIT")?;
            answer.truncate(length);
            Ok(answer)
        };
        let mut answer = ask(&request(site, &[]))?;
        if answer.get(FIRST_PAYLOAD) == Some(&NOTIFY) {
            answer = ask(&request(site, answer.get(HEADER_BYTES..).unwrap_or_default()))?;
        }
        let first = answer.get(FIRST_PAYLOAD);
        ensure!(first == Some(&SECURITY_ASSOCIATION), "charon answers with the payload {first:?}");
    }
    Ok(())
}

/// Returns an IKE_SA_INIT request (RFC 7296, 1.2) that proposes AES-GCM, HMAC-SHA-512 and Curve25519. Every 32 bytes are
/// a public key of that curve (RFC 7748, section 5). `cookie` is the notification from the answer, or nothing.
fn request(number: u32, cookie: &[u8]) -> Vec<u8> {
    let number = number.to_be_bytes();
    let key: Vec<u8> = number.iter().copied().cycle().take(32).collect();
    let payloads = [
        // Security association: one proposal for IKE with three transforms, RFC 7296, 3.3.
        &[34, 0, 0, 40, 0, 0, 0, 36, 1, 1, 0, 3][..],
        // ENCR_AES_GCM_16 with 256 bits, PRF_HMAC_SHA2_512, group 31.
        &[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0],
        &[3, 0, 0, 8, 2, 0, 0, 7],
        &[0, 0, 0, 8, 4, 0, 0, 31],
        // Key exchange.
        &[40, 0, 0, 40, 0, 31, 0, 0],
        &key,
        // Nonce.
        &[0, 0, 0, 36],
        &key,
    ]
    .concat();
    let mut cookie = cookie.to_vec();
    let first = cookie.first_mut().map_or(SECURITY_ASSOCIATION, |next| {
        *next = SECURITY_ASSOCIATION;
        NOTIFY
    });
    let length = (HEADER_BYTES + cookie.len() + payloads.len()) as u32;
    // SPI of the initiator, none of the responder, first payload, version 2, IKE_SA_INIT, initiator, message 0.
    let header = [&[1; 4][..], &number, &[0; 8], &[first, 0x20, 34, 0x08], &[0; 4], &length.to_be_bytes()];
    [header.concat(), cookie, payloads].concat()
}
