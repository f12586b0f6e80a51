//! The senders of ARP and neighbour discovery on the LAN.
use super::neighbour::{is_advertisement, listener_message};
use crate::{
    family::{Family, Header},
    layout::{family::LayoutFamily, settings::Settings},
    rate::Rate,
    reason::Reason,
    wire::{Frame, Ipv4, Ipv6, NETWORK_OFFSET, ethertype, ethertype_of},
};

/// Checks a frame that [`super::is_neighbour_on_lan`] accepts, and sets the customer that it is charged to. Its
/// sender must be a customer's server, found by `customer_v4` or `customer_v6`: any other host would only fill
/// the gateway's neighbour tables. Nobody is charged for a host that has no address yet, which may only ask (RFC
/// 5227 section 2.1.1, RFC 4862 section 5.4.2), or uses its link-local address: Linux probes its neighbours from
/// that one (ndisc_solicit in net/ipv6/ndisc.c).
#[inline(always)]
pub fn check_neighbour_on_lan<F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    customer_v4: impl Fn(Ipv4) -> Option<u32>,
    customer_v6: impl Fn(Ipv6) -> Option<u32>,
    customer: &mut u32,
) -> Result<(), Reason> {
    if ethertype_of(frame) == Some(ethertype::ARP) {
        let sender = arp_sender(frame).ok_or(Reason::InnerMalformed)?;
        if sender != Ipv4::default() {
            *customer = customer_v4(sender).ok_or(Reason::SourceNotServer)?;
        }
        return Ok(());
    }
    if let Some(sender) = listener_message(frame) {
        return charged(sender, customer_v6, customer);
    }
    let header = Ipv6::header(frame).map_err(|_| Reason::InnerMalformed)?;
    if is_advertisement(frame, &header) {
        // It changes the entry of its target, which the kernel compares with nothing else in the packet.
        let target = advertised(frame, &header).ok_or(Reason::InnerMalformed)?;
        if header.source == Ipv6::default() {
            return Err(Reason::SourceNotServer);
        }
        if !target.is_link_local() && customer_v6(target).is_none() {
            return Err(Reason::SourceNotServer);
        }
    }
    charged(header.source, customer_v6, customer)?;
    let for_us = header.destination.is_in(&settings.lan) || header.destination.is_neighbour_group();
    if for_us { Ok(()) } else { Err(Reason::ProtocolNotAllowed) }
}

/// Returns the rate limit of a customer's ARP and neighbour discovery on one CPU; customer 0 is everybody
/// without an address of a customer's server.
#[inline(always)]
pub const fn neighbour_rate(customer: u32) -> Rate {
    if customer == 0 { Rate::new(1_000, 1_000) } else { Rate::new(20, 40) }
}

#[inline(always)]
fn charged(
    sender: Ipv6,
    customer_v6: impl Fn(Ipv6) -> Option<u32>,
    customer: &mut u32,
) -> Result<(), Reason> {
    if sender != Ipv6::default() && !sender.is_link_local() {
        *customer = customer_v6(sender).ok_or(Reason::SourceNotServer)?;
    }
    Ok(())
}

/// Returns the sender's protocol address of an ARP packet for IPv4 over Ethernet (RFC 826).
#[inline(always)]
fn arp_sender<F: Frame + ?Sized>(frame: &F) -> Option<Ipv4> {
    const SENDER_OFFSET: usize = NETWORK_OFFSET + 14;
    // Ethernet, IPv4, 6 and 4 bytes of address.
    const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let [a, b, c, d, e, f]: [u8; 6] = frame.read(NETWORK_OFFSET)?;
    let sender: [u8; 4] = frame.read(SENDER_OFFSET)?;
    let same = (a ^ KIND[0]) | (b ^ KIND[1]) | (c ^ KIND[2]) | (d ^ KIND[3]) | (e ^ KIND[4]) | (f ^ KIND[5]);
    (same == 0).then_some(Ipv4 { octets: sender })
}

/// Returns the target of a neighbour advertisement (RFC 4861 section 4.4).
#[inline(always)]
fn advertised<F: Frame + ?Sized>(frame: &F, header: &Header<Ipv6>) -> Option<Ipv6> {
    const TARGET_OFFSET: usize = 8;
    header.payload(frame, TARGET_OFFSET).ok()
}
