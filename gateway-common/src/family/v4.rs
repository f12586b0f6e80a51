//! IPv4 (RFC 791).
use super::{Family, Fault, Fragment, Header, IcmpHead, Quoted};
use crate::wire::{Frame, Ipv4, Ipv4Header, Ipv6, NETWORK_OFFSET, ethertype, protocol};

/// RFC 791 section 3.1. Options are refused.
impl Family for Ipv4 {
    const HEADER_BYTES: usize = size_of::<Ipv4Header>();
    const ETHERTYPE: u16 = ethertype::IPV4;
    const ICMP: u8 = protocol::ICMP;
    const LINUX: u32 = 2;

    #[inline(always)]
    fn header<F: Frame + ?Sized>(frame: &F) -> Result<Header<Self>, Fault> {
        let header: Ipv4Header = frame.read(NETWORK_OFFSET).ok_or(Fault::Malformed)?;
        match header.version_length {
            0x45 => {}
            0x46..=0x4f => return Err(Fault::Options),
            _ => return Err(Fault::Malformed),
        }
        let total = header.total_length.get();
        if (total as usize) < Self::HEADER_BYTES || NETWORK_OFFSET + total as usize > frame.length() {
            return Err(Fault::Malformed);
        }
        Ok(Header {
            source: header.source,
            destination: header.destination,
            hop_limit: header.ttl,
            protocol: header.protocol,
            fragment: Fragment::new(header.fragment.get() & 0x1fff != 0, header.fragment.get() & 0x2000 != 0),
            transport: (NETWORK_OFFSET + Self::HEADER_BYTES) as u8,
            payload_bytes: total - Self::HEADER_BYTES as u16,
        })
    }

    #[inline(always)]
    fn quoted<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Quoted<Self>> {
        let header: Ipv4Header = frame.read(at)?;
        let plain = header.version_length == 0x45 && header.fragment.get() & 0x1fff == 0;
        let Ipv4Header { source, destination, protocol, .. } = header;
        plain.then_some(Quoted { source, destination, protocol })
    }

    #[inline(always)]
    fn checksum_fits<F: Frame + ?Sized>(frame: &F) -> bool {
        frame.read::<Ipv4Header>(NETWORK_OFFSET).is_some_and(|header| header.sum() == 0xffff)
    }

    fn netmask(bits: u8) -> Self {
        Self::from_bits(u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0))
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        // Byte order does not matter to a mask.
        let bits = u32::from_ne_bytes(self.octets) & u32::from_ne_bytes(mask.octets);
        Self { octets: bits.to_ne_bytes() }
    }

    #[inline(always)]
    fn mapped(self) -> Ipv6 {
        Ipv6::from_words([0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(self.octets)])
    }

    #[inline(always)]
    fn subscriber(self) -> Ipv6 {
        self.mapped()
    }

    #[inline(always)]
    fn is_mapped(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_neighbour_group(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_too_big(icmp: IcmpHead) -> bool {
        icmp == [3, 4]
    }

    #[inline(always)]
    fn announced_mtu(rest_of_header: u32) -> u32 {
        rest_of_header & 0xffff
    }
}
