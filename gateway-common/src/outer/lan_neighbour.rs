//! The senders of ARP and neighbour discovery on the LAN.
use super::neighbour::{is_advertisement, listener_message};
use crate::{
    family::{Family, Header},
    layout::{family::LayoutFamily, settings::Settings},
    reason::Reason,
    wire::{Frame, Ipv4, Ipv6, Mac, NETWORK_OFFSET, ethertype, ethertype_of},
};

/// Checks a frame that [`super::is_neighbour_on_lan`] accepts. Its sender must be a customer's server, known by
/// `is_server_v4` or `is_server_v6`: any other host would only fill the gateway's neighbour tables. A host that has
/// no address yet may only ask (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2); and Linux probes its neighbours
/// from its link-local address (ndisc_solicit in net/ipv6/ndisc.c). For these two, `anonymous` is set to true.
///
/// The kernel believes the MAC address in the message and not the frame's (arp_process in net/ipv4/arp.c,
/// ndisc_recv_ns in net/ipv6/ndisc.c), so both must be the same.
#[inline(always)]
pub fn check_neighbour_on_lan<F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    is_server_v4: impl Fn(Ipv4) -> bool,
    is_server_v6: impl Fn(Ipv6) -> bool,
    anonymous: &mut bool,
) -> Result<(), Reason> {
    let mac = Mac::source_of(frame).ok_or(Reason::InnerMalformed)?;
    if ethertype_of(frame) == Some(ethertype::ARP) {
        let (claimed, sender) = arp_sender(frame).ok_or(Reason::InnerMalformed)?;
        *anonymous = sender == Ipv4::default();
        if !*anonymous && !is_server_v4(sender) {
            return Err(Reason::SourceNotServer);
        }
        return if claimed == mac { Ok(()) } else { Err(Reason::NeighbourContradictsFrame) };
    }
    if let Some(sender) = listener_message(frame) {
        return check_sender(sender, is_server_v6, anonymous);
    }
    let header = Ipv6::header(frame).map_err(|_| Reason::InnerMalformed)?;
    if is_advertisement(frame, &header) {
        // It changes the entry of its target, which the kernel compares with nothing else in the packet.
        let target = advertised(frame, &header).ok_or(Reason::InnerMalformed)?;
        if header.source == Ipv6::default() {
            return Err(Reason::SourceNotServer);
        }
        if !target.is_link_local() && !is_server_v6(target) {
            return Err(Reason::SourceNotServer);
        }
    }
    check_sender(header.source, is_server_v6, anonymous)?;
    let for_us = header.destination.is_in(&settings.lan) || header.destination.is_neighbour_group();
    if !for_us {
        return Err(Reason::ProtocolNotAllowed);
    }
    check_options(frame, &header, mac)
}

#[inline(always)]
fn check_sender(
    sender: Ipv6,
    is_server_v6: impl Fn(Ipv6) -> bool,
    anonymous: &mut bool,
) -> Result<(), Reason> {
    *anonymous = sender == Ipv6::default() || sender.is_link_local();
    if *anonymous || is_server_v6(sender) { Ok(()) } else { Err(Reason::SourceNotServer) }
}

/// Checks the options of neighbour discovery (RFC 4861 section 4.6): a link-layer address is the frame's. Hosts
/// send one option, and the kernel reads the first of each kind, so a message of more than a few is malformed.
#[inline(always)]
fn check_options<F: Frame + ?Sized>(frame: &F, header: &Header<Ipv6>, mac: Mac) -> Result<(), Reason> {
    const MAX_OPTIONS: u32 = 4;
    const UNIT_BYTES: usize = 8;
    /// The message without options, RFC 4861 sections 4.3 and 4.4.
    const MESSAGE_BYTES: usize = 24;
    const SOURCE_ADDRESS: u8 = 1;
    const TARGET_ADDRESS: u8 = 2;
    let mut at = MESSAGE_BYTES;
    let mut left = MAX_OPTIONS;
    while at != header.payload_bytes as usize {
        let option: [u8; UNIT_BYTES] = header.payload(frame, at).map_err(|_| Reason::InnerMalformed)?;
        let [kind, units, address @ ..] = option;
        if units == 0 || left == 0 {
            return Err(Reason::InnerMalformed);
        }
        if matches!(kind, SOURCE_ADDRESS | TARGET_ADDRESS) && Mac::new(address) != mac {
            return Err(Reason::NeighbourContradictsFrame);
        }
        at += UNIT_BYTES * units as usize;
        left -= 1;
    }
    Ok(())
}

/// Returns the sender's MAC and protocol address of an ARP packet for IPv4 over Ethernet (RFC 826).
#[inline(always)]
fn arp_sender<F: Frame + ?Sized>(frame: &F) -> Option<(Mac, Ipv4)> {
    const SENDER_OFFSET: usize = NETWORK_OFFSET + 8;
    // Ethernet, IPv4, 6 and 4 bytes of address.
    const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let [a, b, c, d, e, f]: [u8; 6] = frame.read(NETWORK_OFFSET)?;
    let mac: [u8; 6] = frame.read(SENDER_OFFSET)?;
    let sender: [u8; 4] = frame.read(SENDER_OFFSET + size_of_val(&mac))?;
    let same = (a ^ KIND[0]) | (b ^ KIND[1]) | (c ^ KIND[2]) | (d ^ KIND[3]) | (e ^ KIND[4]) | (f ^ KIND[5]);
    (same == 0).then_some((Mac::new(mac), Ipv4 { octets: sender }))
}

/// Returns the target of a neighbour advertisement (RFC 4861 section 4.4).
#[inline(always)]
fn advertised<F: Frame + ?Sized>(frame: &F, header: &Header<Ipv6>) -> Option<Ipv6> {
    const TARGET_OFFSET: usize = 8;
    header.payload(frame, TARGET_OFFSET).ok()
}
