//! The largest TCP segment that a tunnel carries: what the path takes, less what is put around it.
use std::net::IpAddr;

use crate::strongswan::{Algorithms, ChildSa};

const IPV4_HEADER_BYTES: u32 = 20;
const IPV6_HEADER_BYTES: u32 = 40;
const TCP_HEADER_BYTES: u32 = 20;
/// RFC 3948 section 2.1.
const UDP_HEADER_BYTES: u32 = 8;
/// RFC 4303 section 2: SPI and sequence number.
const ESP_HEADER_BYTES: u32 = 8;
/// RFC 4303 section 2: pad length and next header, within what is padded.
const ESP_TRAILER_BYTES: u32 = 2;
/// No TCP of Linux sends less (`TCP_MIN_SND_MSS`, include/net/tcp.h).
const LEAST_BYTES: u32 = 48;

/// The largest TCP segments of one tunnel, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mss {
    /// In inner IPv4.
    pub v4: u16,
    /// In inner IPv6.
    pub v6: u16,
}

/// How large packets may be around a tunnel, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mtus {
    /// Of the outer packet on its whole way.
    pub path: u32,
    /// Of the inner packet on the cloud LAN.
    pub lan: u32,
}

/// What a tunnel puts around an inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// The peer's address is IPv6.
    pub outer_v6: bool,
    /// ESP goes in UDP.
    pub in_udp: bool,
    /// What encrypts.
    pub cipher: Cipher,
}

/// What a cipher adds to what it encrypts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cipher {
    /// Initialisation vector, in bytes.
    pub iv_bytes: u32,
    /// Integrity check value, in bytes.
    pub icv_bytes: u32,
    /// What it encrypts is a multiple of this many bytes.
    pub align_bytes: u32,
}

impl Cipher {
    /// AES-GCM with an ICV of 16 bytes: RFC 4106; RFC 4303 section 2.4 aligns to 4 bytes.
    const GCM_16: Self = Self { iv_bytes: 8, icv_bytes: 16, align_bytes: 4 };
    /// The most that any of ours adds: AES-CBC (RFC 3602) with HMAC-SHA-512-256 (RFC 4868).
    pub const WORST: Self = Self { iv_bytes: 16, icv_bytes: 32, align_bytes: 16 };

    /// What was negotiated; the worst of what is not known.
    pub fn of(algorithms: &Algorithms) -> Self {
        match algorithms.encryption.as_deref() {
            // Names of strongSwan's `encryption_algorithm_names`.
            Some("AES_GCM_16" | "CHACHA20_POLY1305") => Self::GCM_16,
            Some("AES_GCM_12") => Self { icv_bytes: 12, ..Self::GCM_16 },
            Some("AES_GCM_8") => Self { icv_bytes: 8, ..Self::GCM_16 },
            Some("AES_CBC") => Self { icv_bytes: icv_bytes(algorithms.integrity.as_deref()), ..Self::WORST },
            _ => Self::WORST,
        }
    }
}

/// Names of strongSwan's `integrity_algorithm_names`; RFC 4868 section 2.6, RFC 2404.
fn icv_bytes(integrity: Option<&str>) -> u32 {
    match integrity {
        Some("HMAC_SHA1_96") => 12,
        Some("HMAC_SHA2_256_128") => 16,
        Some("HMAC_SHA2_384_192") => 24,
        _ => Cipher::WORST.icv_bytes,
    }
}

impl Encapsulation {
    /// The most that any tunnel of ours adds.
    pub const WORST: Self = Self { outer_v6: true, in_udp: true, cipher: Cipher::WORST };

    /// The least.
    pub const BEST: Self = Self { outer_v6: false, in_udp: false, cipher: Cipher::GCM_16 };

    /// Of a CHILD_SA.
    pub fn of(peer: IpAddr, child: &ChildSa) -> Self {
        Self { outer_v6: peer.is_ipv6(), in_udp: child.encap, cipher: Cipher::of(&child.algorithms) }
    }

    /// The largest inner packet, in bytes: as `xfrm_state_mtu` of net/xfrm/xfrm_state.c has it.
    fn inner_bytes(self, path_mtu: u32) -> u32 {
        let Cipher { iv_bytes, icv_bytes, align_bytes } = self.cipher;
        let outer = if self.outer_v6 { IPV6_HEADER_BYTES } else { IPV4_HEADER_BYTES };
        let udp = if self.in_udp { UDP_HEADER_BYTES } else { 0 };
        let encrypted = path_mtu.saturating_sub(outer + udp + ESP_HEADER_BYTES + iv_bytes + icv_bytes);
        (encrypted - encrypted % align_bytes).saturating_sub(ESP_TRAILER_BYTES)
    }

    /// The largest segments.
    pub fn mss(self, mtus: Mtus) -> Mss {
        let packet = self.inner_bytes(mtus.path).min(mtus.lan);
        let segment = |ip_header_bytes: u32| {
            let bytes = packet.saturating_sub(ip_header_bytes + TCP_HEADER_BYTES).max(LEAST_BYTES);
            u16::try_from(bytes).unwrap_or(u16::MAX)
        };
        Mss { v4: segment(IPV4_HEADER_BYTES), v6: segment(IPV6_HEADER_BYTES) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mss(outer_v6: bool, in_udp: bool, cipher: Cipher, path: u32) -> (u16, u16) {
        let Mss { v4, v6 } = Encapsulation { outer_v6, in_udp, cipher }.mss(Mtus { path, lan: 1500 });
        (v4, v6)
    }

    fn algorithms(encryption: &str, integrity: Option<&str>) -> Algorithms {
        Algorithms {
            encryption: Some(encryption.into()),
            integrity: integrity.map(str::to_owned),
            ..Algorithms::default()
        }
    }

    #[test]
    fn gcm_leaves_what_a_hand_computes() {
        // 1500 - 20 - 8 - 8 - 16 = 1448, a multiple of 4; - 2 = 1446; - 20 - 20 and - 40 - 20.
        assert_eq!(mss(false, false, Cipher::GCM_16, 1500), (1406, 1386));
        // In UDP 8 less.
        assert_eq!(mss(false, true, Cipher::GCM_16, 1500), (1398, 1378));
        // 1500 - 40 - 8 - 8 - 16 = 1428; - 2 = 1426.
        assert_eq!(mss(true, false, Cipher::GCM_16, 1500), (1386, 1366));
        // 1403 - 52 = 1351, down to 1348; - 2 = 1346.
        assert_eq!(mss(false, false, Cipher::GCM_16, 1403), (1306, 1286));
    }

    #[test]
    fn cbc_with_sha_512_leaves_what_a_hand_computes() {
        // 1500 - 20 - 8 - 16 - 32 = 1424, a multiple of 16; - 2 = 1422.
        assert_eq!(mss(false, false, Cipher::WORST, 1500), (1382, 1362));
        // In UDP 1416, down to 1408; - 2 = 1406.
        assert_eq!(mss(false, true, Cipher::WORST, 1500), (1366, 1346));
        // 1500 - 40 - 8 - 8 - 16 - 32 = 1396, down to 1392; - 2 = 1390.
        assert_eq!(mss(true, true, Cipher::WORST, 1500), (1350, 1330));
        // 576 - 104 = 472, down to 464; - 2 = 462.
        assert_eq!(mss(true, true, Cipher::WORST, 576), (422, 402));
    }

    #[test]
    fn the_lan_bounds_a_segment_too() {
        let wide = Encapsulation { outer_v6: false, in_udp: false, cipher: Cipher::GCM_16 };
        assert_eq!(wide.mss(Mtus { path: 9000, lan: 1500 }), Mss { v4: 1460, v6: 1440 });
        assert_eq!(wide.mss(Mtus { path: 9000, lan: 1280 }), Mss { v4: 1240, v6: 1220 });
    }

    #[test]
    fn a_path_too_narrow_for_anything_leaves_the_least() {
        assert_eq!(mss(true, true, Cipher::WORST, 68), (48, 48));
        assert_eq!(mss(true, true, Cipher::WORST, 0), (48, 48));
    }

    #[test]
    fn negotiated_algorithms_are_known_and_others_count_as_the_worst() {
        let cbc = |icv_bytes| Cipher { icv_bytes, ..Cipher::WORST };
        let cases = [
            ("AES_GCM_16", None, Cipher::GCM_16),
            ("CHACHA20_POLY1305", None, Cipher::GCM_16),
            ("AES_CBC", Some("HMAC_SHA2_512_256"), cbc(32)),
            ("AES_CBC", Some("HMAC_SHA2_384_192"), cbc(24)),
            ("AES_CBC", Some("HMAC_SHA2_256_128"), cbc(16)),
            ("AES_CBC", Some("HMAC_SHA1_96"), cbc(12)),
            ("AES_CBC", Some("something"), Cipher::WORST),
            ("AES_CBC", None, Cipher::WORST),
            ("CAMELLIA_CBC", Some("HMAC_SHA2_256_128"), Cipher::WORST),
        ];
        for (encryption, integrity, cipher) in cases {
            assert_eq!(Cipher::of(&algorithms(encryption, integrity)), cipher, "{encryption} {integrity:?}");
        }
        assert_eq!(Cipher::of(&Algorithms::default()), Cipher::WORST);
    }

    #[test]
    fn nothing_leaves_less_than_the_worst_or_more_than_the_best() {
        let mtus = Mtus { path: 1500, lan: 1500 };
        let (worst, best) = (Encapsulation::WORST.mss(mtus), Encapsulation::BEST.mss(mtus));
        for (outer_v6, in_udp) in [(false, false), (false, true), (true, false), (true, true)] {
            for cipher in [Cipher::GCM_16, Cipher::WORST] {
                let mss = Encapsulation { outer_v6, in_udp, cipher }.mss(mtus);
                assert!(mss.v4 >= worst.v4 && mss.v6 >= worst.v6);
                assert!(mss.v4 <= best.v4 && mss.v6 <= best.v6);
            }
        }
    }
}
