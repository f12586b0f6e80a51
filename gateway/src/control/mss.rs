//! The MSS of a tunnel: the path MTU minus the overhead of the encapsulation.
use std::net::IpAddr;

use crate::strongswan::{Algorithms, ChildSa};

const IPV4_HEADER_BYTES: u32 = 20;
const IPV6_HEADER_BYTES: u32 = 40;
const TCP_HEADER_BYTES: u32 = 20;
/// RFC 3948 section 2.1.
const UDP_HEADER_BYTES: u32 = 8;
/// RFC 4303 section 2: SPI and sequence number.
const ESP_HEADER_BYTES: u32 = 8;
/// RFC 4303 section 2: pad length and next header, encrypted and included in the alignment.
const ESP_TRAILER_BYTES: u32 = 2;
/// The smallest MSS that Linux uses (`TCP_MIN_SND_MSS`, include/net/tcp.h).
const MIN_MSS_BYTES: u32 = 48;

/// The MSS of one tunnel, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mss {
    /// MSS for inner IPv4.
    pub v4: u16,
    /// MSS for inner IPv6.
    pub v6: u16,
}

/// The MTUs on both sides of a tunnel, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mtus {
    /// Path MTU of the outer packet.
    pub path: u32,
    /// MTU of the inner packet on the cloud LAN.
    pub lan: u32,
}

/// The encapsulation that a tunnel adds to an inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// True if the outer packet is IPv6.
    pub outer_v6: bool,
    /// True if ESP is encapsulated in UDP.
    pub in_udp: bool,
    /// The overhead of the cipher.
    pub cipher: Cipher,
}

/// The overhead of a cipher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cipher {
    /// Initialisation vector, in bytes.
    pub iv_bytes: u32,
    /// Integrity check value, in bytes.
    pub icv_bytes: u32,
    /// Alignment of the encrypted part, in bytes.
    pub align_bytes: u32,
}

impl Cipher {
    /// AES-GCM with an ICV of 16 bytes: RFC 4106; RFC 4303 section 2.4 aligns to 4 bytes.
    const GCM_16: Self = Self { iv_bytes: 8, icv_bytes: 16, align_bytes: 4 };
    /// The largest overhead of any cipher in use: AES-CBC (RFC 3602) with HMAC-SHA-512-256 (RFC 4868).
    pub const WORST: Self = Self { iv_bytes: 16, icv_bytes: 32, align_bytes: 16 };

    /// Returns the overhead of the negotiated algorithms; unknown algorithms count as the worst.
    pub fn of(algorithms: &Algorithms) -> Self {
        match algorithms.encryption.as_deref() {
            // Names as in strongSwan's `encryption_algorithm_names`.
            Some("AES_GCM_16" | "CHACHA20_POLY1305") => Self::GCM_16,
            Some("AES_GCM_12") => Self { icv_bytes: 12, ..Self::GCM_16 },
            Some("AES_GCM_8") => Self { icv_bytes: 8, ..Self::GCM_16 },
            Some("AES_CBC") => Self { icv_bytes: icv_bytes(algorithms.integrity.as_deref()), ..Self::WORST },
            _ => Self::WORST,
        }
    }
}

/// Returns the ICV size of an algorithm named as in strongSwan's `integrity_algorithm_names` (RFC 4868
/// section 2.6, RFC 2404). Unknown names count as the worst.
fn icv_bytes(integrity: Option<&str>) -> u32 {
    match integrity {
        Some("HMAC_SHA1_96") => 12,
        Some("HMAC_SHA2_256_128") => 16,
        Some("HMAC_SHA2_384_192") => 24,
        _ => Cipher::WORST.icv_bytes,
    }
}

impl Encapsulation {
    /// The encapsulation with the largest overhead that a tunnel may have.
    pub const WORST: Self = Self { outer_v6: true, in_udp: true, cipher: Cipher::WORST };

    /// The encapsulation with the smallest overhead.
    pub const BEST: Self = Self { outer_v6: false, in_udp: false, cipher: Cipher::GCM_16 };

    /// Returns the encapsulation of a CHILD_SA.
    pub fn of(peer: IpAddr, child: &ChildSa) -> Self {
        Self { outer_v6: peer.is_ipv6(), in_udp: child.encap, cipher: Cipher::of(&child.algorithms) }
    }

    /// Returns the size of the largest inner packet in bytes, computed as `xfrm_state_mtu` in
    /// net/xfrm/xfrm_state.c does.
    fn inner_bytes(self, path_mtu: u32) -> u32 {
        let Cipher { iv_bytes, icv_bytes, align_bytes } = self.cipher;
        let outer = if self.outer_v6 { IPV6_HEADER_BYTES } else { IPV4_HEADER_BYTES };
        let udp = if self.in_udp { UDP_HEADER_BYTES } else { 0 };
        let encrypted = path_mtu.saturating_sub(outer + udp + ESP_HEADER_BYTES + iv_bytes + icv_bytes);
        (encrypted - encrypted % align_bytes).saturating_sub(ESP_TRAILER_BYTES)
    }

    /// Returns the MSS, at least `MIN_MSS_BYTES`.
    pub fn mss(self, mtus: Mtus) -> Mss {
        let packet = self.inner_bytes(mtus.path).min(mtus.lan);
        let segment = |ip_header_bytes: u32| {
            let bytes = packet.saturating_sub(ip_header_bytes + TCP_HEADER_BYTES).max(MIN_MSS_BYTES);
            u16::try_from(bytes).unwrap_or(u16::MAX)
        };
        Mss { v4: segment(IPV4_HEADER_BYTES), v6: segment(IPV6_HEADER_BYTES) }
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::limits::MIN_PATH_MTU_BYTES;

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
    fn mss_with_gcm_matches_manual_calculation() {
        // 1500 - 20 - 8 - 8 - 16 = 1448, a multiple of 4; - 2 = 1446; - 20 - 20 and - 40 - 20.
        assert_eq!(mss(false, false, Cipher::GCM_16, 1500), (1406, 1386));
        // In UDP, 8 bytes less.
        assert_eq!(mss(false, true, Cipher::GCM_16, 1500), (1398, 1378));
        // 1500 - 40 - 8 - 8 - 16 = 1428; - 2 = 1426.
        assert_eq!(mss(true, false, Cipher::GCM_16, 1500), (1386, 1366));
        // 1403 - 52 = 1351, down to 1348; - 2 = 1346.
        assert_eq!(mss(false, false, Cipher::GCM_16, 1403), (1306, 1286));
    }

    #[test]
    fn mss_with_cbc_and_sha_512_matches_manual_calculation() {
        // 1500 - 20 - 8 - 16 - 32 = 1424, a multiple of 16; - 2 = 1422.
        assert_eq!(mss(false, false, Cipher::WORST, 1500), (1382, 1362));
        // In UDP, 1416, down to 1408; - 2 = 1406.
        assert_eq!(mss(false, true, Cipher::WORST, 1500), (1366, 1346));
        // 1500 - 40 - 8 - 8 - 16 - 32 = 1396, down to 1392; - 2 = 1390.
        assert_eq!(mss(true, true, Cipher::WORST, 1500), (1350, 1330));
        // 576 - 104 = 472, down to 464; - 2 = 462.
        assert_eq!(mss(true, true, Cipher::WORST, 576), (422, 402));
    }

    #[test]
    fn lan_mtu_limits_the_mss() {
        let wide = Encapsulation { outer_v6: false, in_udp: false, cipher: Cipher::GCM_16 };
        assert_eq!(wide.mss(Mtus { path: 9000, lan: 1500 }), Mss { v4: 1460, v6: 1440 });
        assert_eq!(wide.mss(Mtus { path: 9000, lan: 1280 }), Mss { v4: 1240, v6: 1220 });
    }

    #[test]
    fn mss_never_falls_below_the_minimum() {
        assert_eq!(mss(true, true, Cipher::WORST, 68), (48, 48));
        assert_eq!(mss(true, true, Cipher::WORST, 0), (48, 48));
    }

    #[test]
    fn unknown_algorithms_count_as_the_worst() {
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

    /// RFC 8200 section 5: every IPv6 link carries 1280 bytes.
    #[test]
    fn least_path_mtu_carries_ipv6_in_any_encapsulation() {
        assert!(Encapsulation::WORST.inner_bytes(MIN_PATH_MTU_BYTES) >= 1280);
        assert!(Encapsulation::WORST.inner_bytes(MIN_PATH_MTU_BYTES - 1) < 1280);
    }

    #[test]
    fn every_mss_lies_between_worst_and_best() {
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
