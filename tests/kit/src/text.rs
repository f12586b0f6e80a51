//! Numbers and addresses as packets, cases and commands write them.
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::packet::FLAG_LETTERS;

/// Parses a number that fits `T`, decimal or hexadecimal with 0x.
pub fn number<T: TryFrom<u64>>(text: &str) -> Result<T> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let value = value.with_context(|| format!("{text:?} is not a number"))?;
    T::try_from(value).ok().with_context(|| format!("{text} is too large here"))
}

/// Parses an even number of hex digits.
pub fn hex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "{text:?} is not an even number of hex digits");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).with_context(|| format!("{text:?} is not hex")))
        .collect()
}

/// Parses a MAC address, with colons or without.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    hex(&text.replace(':', ""))?.try_into().ok().with_context(|| format!("{text:?} is not a MAC address"))
}

/// Parses an address with or without a port: `192.168.1.2:80`, `[fd00::2]:80`, `fd00::2`.
pub fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Ok((address, None));
    }
    let (address, port) = text.rsplit_once(':').with_context(|| format!("{text:?} is not an address"))?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    Ok((bare.parse().with_context(|| format!("{address:?} is not an IP address"))?, Some(number(port)?)))
}

/// Parses TCP flags, letters of [`FLAG_LETTERS`] or `-` for none.
pub fn tcp_flags(text: &str) -> Result<u8> {
    if text == "-" {
        return Ok(0);
    }
    text.chars().try_fold(0, |flags, letter| {
        let bit = FLAG_LETTERS.find(letter).with_context(|| format!("{letter:?} is not a TCP flag"))?;
        Ok(flags | 1 << bit)
    })
}

/// Formats TCP flags as [`tcp_flags`] reads them.
pub fn tcp_flag_letters(flags: u8) -> String {
    if flags == 0 {
        return "-".to_owned();
    }
    let letters = FLAG_LETTERS.chars().enumerate();
    letters.filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, letter)| letter).collect()
}

/// Formats a MAC address as `ip` takes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Formats bytes as hex digits without separators.
pub fn hex_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
