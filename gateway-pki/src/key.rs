//! Private keys: ECDSA, kept as PKCS #8, encrypted with PBES2.
use std::path::Path;

use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair,
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::passphrase::{KeyProtection, Passphrase};

const PLAIN: &str = "PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// The curve of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    /// For gateways and sites.
    P256,
    /// For authorities.
    P384,
}

/// A private key. The encoded key is cleared when dropped; ring clears nothing of its own copy.
pub(crate) struct PrivateKey {
    curve: Curve,
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    random: SystemRandom,
}

impl Curve {
    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        }
    }
}

impl PrivateKey {
    pub fn generate(curve: Curve, random: &dyn SecureRandom) -> Result<Self> {
        let document = EcdsaKeyPair::generate_pkcs8(curve.signing(), random)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
            .ok_or_else(|| Error::Crypto("the new key cannot be read".to_owned()))
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Option<Self> {
        let random = SystemRandom::new();
        [Curve::P384, Curve::P256].into_iter().find_map(|curve| {
            let pair = EcdsaKeyPair::from_pkcs8(curve.signing(), &pkcs8, &random).ok()?;
            Some(Self { curve, pair, pkcs8: pkcs8.clone(), random: random.clone() })
        })
    }

    /// Reads the key of a PEM file. `path` is for messages.
    pub fn read(path: &Path, pem: &[u8], passphrase: Option<&Passphrase>) -> Result<Self> {
        let fault = |fault| Error::Key { path: path.to_owned(), fault };
        let text = str::from_utf8(pem).map_err(|_| fault("it is not PEM"))?;
        let (label, document) =
            SecretDocument::from_pem(text).map_err(|_| fault("it is not PEM, or damaged"))?;
        match label {
            PLAIN => Self::from_pkcs8(Zeroizing::new(document.as_bytes().to_vec()))
                .ok_or_else(|| fault("it is not a key of ECDSA P-256 or P-384")),
            ENCRYPTED => {
                let passphrase = passphrase.ok_or_else(|| Error::NoPassphrase(path.to_owned()))?;
                let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
                    .map_err(|_| fault("it is not encrypted with PBES2, or damaged"))?;
                // One of 256 wrong passphrases decrypts to something, which then is no key.
                let wrong = || Error::Passphrase(path.to_owned());
                let decrypted = encrypted.decrypt(passphrase.bytes()).map_err(|_| wrong())?;
                Self::from_pkcs8(Zeroizing::new(decrypted.as_bytes().to_vec())).ok_or_else(wrong)
            }
            _ => Err(fault("it is not a PKCS #8 key")),
        }
    }

    /// Returns true if the key of a PEM file cannot be read without a passphrase.
    pub fn is_encrypted(pem: &[u8]) -> bool {
        let begin = format!("-----BEGIN {ENCRYPTED}-----");
        pem.windows(begin.len()).any(|bytes| bytes == begin.as_bytes())
    }

    /// Returns the key in PEM. Encrypted, it uses PBKDF2-HMAC-SHA256 and AES-256-CBC: strongSwan's pkcs5.c knows no
    /// scrypt.
    pub fn pem(
        &self,
        protection: Option<&KeyProtection<'_>>,
        random: &dyn SecureRandom,
    ) -> Result<Zeroizing<String>> {
        let failed = |error: &dyn std::fmt::Display| Error::Crypto(error.to_string());
        let Some(KeyProtection { passphrase, rounds }) = protection else {
            let document = SecretDocument::try_from(&self.pkcs8[..]).map_err(|error| failed(&error))?;
            return document.to_pem(PLAIN, LineEnding::LF).map_err(|error| failed(&error));
        };
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        random.fill(&mut salt)?;
        random.fill(&mut iv)?;
        let parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(*rounds, &salt, iv)
            .map_err(|error| failed(&error))?;
        let key = PrivateKeyInfoRef::try_from(&self.pkcs8[..]).map_err(|error| failed(&error))?;
        let document =
            key.encrypt_with_params(parameters, passphrase.bytes()).map_err(|error| failed(&error))?;
        document.to_pem(ENCRYPTED, LineEnding::LF).map_err(|error| failed(&error))
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.curve {
            Curve::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&self.random, message);
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| rcgen::Error::RingUnspecified)
    }
}
