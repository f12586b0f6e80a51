//! A frame as etherparse parses it, and the judgement of its acceptance.
use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use gateway_common::outer::Outer;

use crate::{
    frame::{ESP, FRAGMENT, ICMPV6},
    settings::{INTERNET, LINK, SPI, ip},
};

/// An IP packet as parsed by etherparse, from a frame that holds all of it.
pub struct Seen {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub protocol: u8,
    /// A fragment other than the first.
    pub later: bool,
    pub whole: bool,
    pub payload: Vec<u8>,
}

pub fn seen(frame: &[u8]) -> Option<Seen> {
    match frame.get(12..14)? {
        [8, 0] => {
            let header = Ipv4HeaderSlice::from_slice(&frame[14..]).ok()?;
            let end = 14 + usize::from(header.total_len());
            let fits = end <= frame.len() && header.total_len() >= 20 && header.ihl() == 5;
            fits.then(|| Seen {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                hop_limit: header.ttl(),
                protocol: header.protocol().0,
                later: header.fragments_offset().value() != 0,
                whole: !header.is_fragmenting_payload(),
                payload: frame[34..end].to_vec(),
            })
        }
        [0x86, 0xdd] => {
            let header = Ipv6HeaderSlice::from_slice(&frame[14..]).ok()?;
            let payload = frame[54..].get(..usize::from(header.payload_length()))?;
            let mut seen = Seen {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                hop_limit: header.hop_limit(),
                protocol: header.next_header().0,
                later: false,
                whole: true,
                payload: payload.to_vec(),
            };
            if seen.protocol == FRAGMENT {
                let [protocol, _, high, low, ..] = *payload.first_chunk::<8>()?;
                seen.later = u16::from_be_bytes([high, low]) >> 3 != 0;
                (seen.protocol, seen.whole, seen.payload) = (protocol, false, payload[8..].to_vec());
            }
            Some(seen)
        }
        _ => None,
    }
}

impl Seen {
    /// Returns a word of the payload: a port, or type and code.
    pub fn word(&self, at: usize) -> u16 {
        self.payload.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
    }

    /// Returns true if a frame that the filter accepted as `outer` may pass. `peer` is the far end, `port`
    /// the gateway's own port, and `types` are the accepted types of neighbour discovery.
    pub fn justifies(&self, outer: Outer, peer: IpAddr, port: u16, types: &[u8]) -> bool {
        let (v6, protocol) = (self.source.is_ipv6(), self.protocol);
        let icmp = [self.word(0) >> 8, self.word(0) & 0xff];
        match outer {
            Outer::Neighbour => {
                v6 && protocol == ICMPV6
                    && self.whole
                    && self.hop_limit == 255
                    && types.contains(&(icmp[0] as u8))
                    && icmp[1] == 0
            }
            Outer::Esp(spi) => spi != 0 && !self.later && (protocol == ESP || protocol == 17 && port == 4500),
            Outer::Ike => protocol == 17 && !self.later && (port == 500 || port == 4500),
            Outer::PathMtu if v6 => protocol == ICMPV6 && self.whole && icmp == [2, 0],
            Outer::PathMtu => protocol == 1 && self.whole && icmp == [3, 4],
            Outer::Management => protocol == 6 && self.whole && port == 22 && manager(peer),
            Outer::Fragment => self.later && (protocol == ESP || protocol == 17),
        }
    }

    /// Returns true for a path-MTU message of at least 1400 bytes that quotes ESP of the gateway's with the
    /// known SPI, in IP or in UDP from port 4500.
    pub fn quotes_esp_of_ours(&self) -> bool {
        let quote = &self.payload[8..];
        let mtu =
            u32::from(self.word(6)) | if self.source.is_ipv6() { u32::from(self.word(4)) << 16 } else { 0 };
        let (source, protocol, body) = match self.source {
            IpAddr::V4(_) => {
                let source: [u8; 4] = *quote[12..].first_chunk().expect("4 bytes");
                (IpAddr::from(source), quote[9], &quote[20..])
            }
            IpAddr::V6(_) => {
                let source: [u8; 16] = *quote[8..].first_chunk().expect("16 bytes");
                (IpAddr::from(source), quote[6], &quote[40..])
            }
        };
        let esp = match protocol {
            ESP => body,
            17 if body[..2] == 4500u16.to_be_bytes() => &body[8..],
            _ => return false,
        };
        mtu >= 1400
            && [INTERNET[0], INTERNET[1], LINK[1]].map(ip).contains(&source)
            && esp[..4] == SPI.to_be_bytes()
    }
}

pub fn manager(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [198, 51, 100],
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 0x51],
    }
}

pub fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 6])
}

/// Solicited-node groups and all nodes (RFC 4291 section 2.7.1).
pub fn neighbour_group(address: IpAddr) -> bool {
    address == ip("ff02::1")
        || matches!(address, IpAddr::V6(address) if address.octets()[..13] == ip6("ff02::1:ff00:0").octets()[..13])
}

pub fn ip6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}
