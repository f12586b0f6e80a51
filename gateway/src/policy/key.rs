//! Private keys, compared with the public key of a certificate.
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RsaKeyPair,
};
use x509_parser::asn1_rs::{Any, Class, FromDer, Oid, Tag};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::fault::Invalid;
use super::pem::{KeyBlock, KeyFormat};

/// The kinds of keys that can be checked. charon knows more; docs/operating.md asks for these.
const EXPECTED: &str = "a key of ECDSA P-256 or P-384, Ed25519, or RSA with 2048 to 4096 bits";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

/// A private key, borrowed from its encoding.
enum PrivateKey<'k> {
    /// A scalar, big-endian.
    Ec(Curve, &'k [u8]),
    /// PKCS #1.
    Rsa(Box<RsaKeyPair>),
    /// A seed.
    Ed25519(&'k [u8]),
}

/// Checks that the key is of a kind that can be checked.
pub(super) fn supported(key: &KeyBlock) -> Result<(), Invalid> {
    PrivateKey::read(key).map(drop)
}

/// Checks that the private key belongs to this public key.
pub(super) fn check(key: &KeyBlock, public: &SubjectPublicKeyInfo) -> Result<(), Invalid> {
    let bits: &[u8] = &public.subject_public_key.data;
    let kind = &public.algorithm;
    let belongs = match PrivateKey::read(key)? {
        PrivateKey::Ec(curve, scalar) => curve_of(kind) == Some(curve) && is_scalar_of(curve, scalar, bits),
        // The public half in both is an RSAPublicKey (RFC 8017, A.1.1).
        PrivateKey::Rsa(pair) => {
            kind.algorithm == OID_PKCS1_RSAENCRYPTION && pair.public_key().as_ref() == bits
        }
        PrivateKey::Ed25519(seed) => {
            kind.algorithm == OID_SIG_ED25519 && Ed25519KeyPair::from_seed_and_public_key(seed, bits).is_ok()
        }
    };
    if belongs {
        return Ok(());
    }
    Err(Invalid::new(
        "is not the key of the gateway's certificate",
        "the key that the certificate was made for",
    ))
}

impl<'k> PrivateKey<'k> {
    fn read(key: &'k KeyBlock) -> Result<Self, Invalid> {
        let unreadable = || Invalid::new("cannot be parsed", EXPECTED);
        match key.format {
            KeyFormat::Pkcs1 => rsa(&key.der),
            KeyFormat::Sec1 => {
                let (scalar, curve) = sec1(&key.der).ok_or_else(unreadable)?;
                ec(curve.flatten(), scalar)
            }
            KeyFormat::Pkcs8 => {
                let (algorithm, inner) = pkcs8(&key.der).ok_or_else(unreadable)?;
                if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
                    rsa(inner)
                } else if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
                    let (scalar, _) = sec1(inner).ok_or_else(unreadable)?;
                    ec(curve_of(&algorithm), scalar)
                } else if algorithm.algorithm == OID_SIG_ED25519 {
                    // The seed is an octet string of its own (RFC 8410, 7).
                    let (_, seed) = element(inner, Tag::OctetString).ok_or_else(unreadable)?;
                    Ok(Self::Ed25519(seed))
                } else {
                    Err(Invalid::new("is of a kind that gatewayd cannot check", EXPECTED))
                }
            }
        }
    }
}

fn rsa<'k>(der: &[u8]) -> Result<PrivateKey<'k>, Invalid> {
    let pair = RsaKeyPair::from_der(der);
    pair.map(|pair| PrivateKey::Rsa(pair.into()))
        .map_err(|error| Invalid::new(format!("cannot be used: {error}"), EXPECTED))
}

fn ec(curve: Option<Curve>, scalar: &[u8]) -> Result<PrivateKey<'_>, Invalid> {
    match curve {
        Some(curve) => Ok(PrivateKey::Ec(curve, scalar)),
        None => Err(Invalid::new("is on a curve that gatewayd cannot check", EXPECTED)),
    }
}

/// Multiplies the curve's generator by the scalar and compares the product with an uncompressed point.
fn is_scalar_of(curve: Curve, scalar: &[u8], point: &[u8]) -> bool {
    let (algorithm, length) = match curve {
        Curve::P256 => (&ECDSA_P256_SHA256_ASN1_SIGNING, 32),
        Curve::P384 => (&ECDSA_P384_SHA384_ASN1_SIGNING, 48),
    };
    // Some tools leave out leading zeros.
    let mut padded = vec![0; length];
    let Some(start) = length.checked_sub(scalar.len()) else { return false };
    padded[start..].copy_from_slice(scalar);
    let random = SystemRandom::new();
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &padded, point, &random).is_ok()
}

fn curve_of(algorithm: &AlgorithmIdentifier) -> Option<Curve> {
    let parameters = algorithm.parameters.as_ref()?;
    (algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY).then(|| named_curve(parameters))?
}

fn named_curve(parameters: &Any) -> Option<Curve> {
    let curve = Oid::try_from(parameters.clone()).ok()?;
    match () {
        () if curve == OID_EC_P256 => Some(Curve::P256),
        () if curve == OID_NIST_EC_P384 => Some(Curve::P384),
        () => None,
    }
}

/// Splits a PrivateKeyInfo (RFC 5208, 5) into algorithm and key.
fn pkcs8(der: &[u8]) -> Option<(AlgorithmIdentifier<'_>, &[u8])> {
    let (_, content) = element(der, Tag::Sequence)?;
    let (content, _version) = element(content, Tag::Integer)?;
    let (content, algorithm) = AlgorithmIdentifier::from_der(content).ok()?;
    let (_, key) = element(content, Tag::OctetString)?;
    Some((algorithm, key))
}

/// Splits an ECPrivateKey (RFC 5915, 3) into scalar and curve. The curve is `None` if it is not written, and
/// `Some(None)` if it is another one than those known here.
fn sec1(der: &[u8]) -> Option<(&[u8], Option<Option<Curve>>)> {
    let (_, content) = element(der, Tag::Sequence)?;
    let (content, _version) = element(content, Tag::Integer)?;
    let (content, scalar) = element(content, Tag::OctetString)?;
    let parameters = Any::from_der(content).ok().map(|(_, any)| any);
    let tagged = parameters.filter(|any| any.class() == Class::ContextSpecific && any.tag() == Tag(0));
    let curve = tagged.map(|any| Any::from_der(any.data).ok().and_then(|(_, oid)| named_curve(&oid)));
    Some((scalar, curve))
}

/// Returns what follows an element of this type, and its content.
fn element(input: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (rest, any) = Any::from_der(input).ok()?;
    (any.class() == Class::Universal && any.tag() == tag).then_some((rest, any.data))
}
