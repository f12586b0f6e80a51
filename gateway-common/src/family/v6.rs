//! IPv6 (RFC 8200).
use super::{Family, Fault, Fragment, Header, IcmpHead, Quoted};
use crate::wire::{Frame, Ipv6, Ipv6Header, NETWORK_OFFSET, ethertype, protocol};

/// RFC 8200 section 3. The only extension header allowed is one fragment header: legitimate traffic has no
/// others here, and a chain of them is a way past filters (RFC 7045, RFC 9098).
impl Family for Ipv6 {
    const HEADER_BYTES: usize = size_of::<Ipv6Header>();
    const ETHERTYPE: u16 = ethertype::IPV6;
    const ICMP: u8 = protocol::ICMPV6;
    const LINUX: u32 = 10;

    #[inline(always)]
    fn header<F: Frame + ?Sized>(frame: &F) -> Result<Header<Self>, Fault> {
        const FRAGMENT_HEADER_BYTES: u16 = 8;
        let fixed: Ipv6Header = frame.read(NETWORK_OFFSET).ok_or(Fault::Malformed)?;
        let payload = fixed.payload_length.get();
        let end = NETWORK_OFFSET + Self::HEADER_BYTES + payload as usize;
        if fixed.version >> 4 != 6 || end > frame.length() {
            return Err(Fault::Malformed);
        }
        let header = Header {
            source: fixed.source,
            destination: fixed.destination,
            hop_limit: fixed.hop_limit,
            protocol: fixed.next_header,
            fragment: Fragment::No,
            transport: (NETWORK_OFFSET + Self::HEADER_BYTES) as u8,
            payload_bytes: payload,
        };
        if is_extension(fixed.next_header) {
            return Err(Fault::Options);
        }
        if fixed.next_header != protocol::IPV6_FRAGMENT {
            return Ok(header);
        }
        // RFC 8200 section 4.5: next header, reserved, offset (13 bits), reserved, M.
        let [protocol, _, high, low]: [u8; 4] = header.payload(frame, 0)?;
        let offset = u16::from_be_bytes([high, low]);
        if payload < FRAGMENT_HEADER_BYTES {
            return Err(Fault::Malformed);
        }
        if is_extension(protocol) || protocol == protocol::IPV6_FRAGMENT {
            return Err(Fault::Options);
        }
        Ok(Header {
            protocol,
            // An atomic fragment (RFC 6946) is whole, but counts as a first fragment: it begins with the
            // transport header.
            fragment: Fragment::new(offset & 0xfff8 != 0, true),
            transport: header.transport + FRAGMENT_HEADER_BYTES as u8,
            payload_bytes: payload - FRAGMENT_HEADER_BYTES,
            ..header
        })
    }

    #[inline(always)]
    fn quoted<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Quoted<Self>> {
        let header: Ipv6Header = frame.read(at)?;
        let Ipv6Header { source, destination, next_header: protocol, .. } = header;
        (header.version >> 4 == 6).then_some(Quoted { source, destination, protocol })
    }

    #[inline(always)]
    fn checksum_fits<F: Frame + ?Sized>(_: &F) -> bool {
        true
    }

    fn netmask(bits: u8) -> Self {
        let bits = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
        Self { octets: bits.to_be_bytes() }
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        let (a, b) = (self.words(), mask.words());
        Self::from_words([a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]])
    }

    #[inline(always)]
    fn mapped(self) -> Ipv6 {
        self
    }

    #[inline(always)]
    fn subscriber(self) -> Ipv6 {
        let words = self.words();
        Self::from_words([words[0], words[1], 0, 0])
    }

    #[inline(always)]
    fn is_mapped(self) -> bool {
        let words = self.words();
        words[0] | words[1] | (words[2] ^ 0xffff_u32.to_be()) == 0
    }

    #[inline(always)]
    fn is_neighbour_group(self) -> bool {
        let words = self.words().map(u32::from_be);
        words[0] == 0xff02_0000
            && words[1] == 0
            && ((words[2] == 0 && words[3] == 1) || (words[2] == 1 && words[3] >> 24 == 0xff))
    }

    #[inline(always)]
    fn is_too_big(icmp: IcmpHead) -> bool {
        icmp == [2, 0]
    }

    #[inline(always)]
    fn announced_mtu(rest_of_header: u32) -> u32 {
        rest_of_header
    }
}

/// Returns true for extension headers other than the fragment header (IANA, "IPv6 Extension Header Types").
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}
