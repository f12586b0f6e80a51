//! Certification requests (PKCS #10, RFC 2986) made elsewhere.
use std::net::IpAddr;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::distinguished::DistinguishedName;
use crate::error::{Error, Result};
use crate::identity::Identity;

const LABELS: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
/// Bits of RSA moduli: charon takes them, and each handshake costs little enough.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// A request whose signature proves that the sender has the private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// SubjectPublicKeyInfo in DER.
    pub(crate) public_key: Vec<u8>,
    /// The subject, if it is one that certificates here can have.
    subject: Option<DistinguishedName>,
    /// The subject as text, for messages.
    subject_text: String,
    common_names: Vec<String>,
    /// The requested alternative names as text.
    alternative_names: Vec<String>,
    /// Everything else that is asked for.
    others: Vec<String>,
}

impl Request {
    /// Reads a request in PEM or DER and verifies its signature.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let fault = |fault: &str| Error::Request(fault.to_owned());
        let der = der(bytes)?;
        let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
            return Err(fault("cannot be parsed: PKCS #10 in PEM or DER is needed"));
        };
        let signed_with = &request.signature_algorithm.algorithm;
        let known = [
            OID_SIG_ECDSA_WITH_SHA256,
            OID_SIG_ECDSA_WITH_SHA384,
            OID_SIG_ED25519,
            OID_PKCS1_SHA256WITHRSA,
            OID_PKCS1_SHA384WITHRSA,
            OID_PKCS1_SHA512WITHRSA,
        ];
        if !known.contains(signed_with) {
            return Err(fault(
                "is signed in a way that is too old or not known: use SHA-256, SHA-384 or Ed25519",
            ));
        }
        let info = &request.certification_request_info;
        check_key(&info.subject_pki)?;
        if request.verify_signature().is_err() {
            return Err(fault("has a forged signature: whoever made it has not the private key"));
        }
        let mut read = Self {
            public_key: info.subject_pki.raw.to_vec(),
            subject: DistinguishedName::read(&info.subject),
            subject_text: text(&info.subject.to_string()),
            common_names: info
                .subject
                .iter_common_name()
                .map(|cn| text(cn.as_str().unwrap_or("?")))
                .collect(),
            alternative_names: Vec::new(),
            others: Vec::new(),
        };
        for attribute in info.iter_attributes() {
            match attribute.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(request) => {
                    request.extensions.iter().for_each(|extension| read.extension(extension));
                }
                ParsedCriAttribute::ChallengePassword(_) => {
                    read.others.push("a challenge password".to_owned())
                }
                ParsedCriAttribute::UnsupportedAttribute => {
                    read.others.push(format!("attribute {}", attribute.oid));
                }
            }
        }
        Ok(read)
    }

    fn extension(&mut self, extension: &x509_parser::extensions::X509Extension<'_>) {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                self.alternative_names.extend(names.general_names.iter().map(general_name));
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                self.others.push("to be an authority".to_owned());
            }
            ParsedExtension::BasicConstraints(_) => {}
            ParsedExtension::KeyUsage(_) => self.others.push("key usage".to_owned()),
            ParsedExtension::ExtendedKeyUsage(_) => self.others.push("extended key usage".to_owned()),
            _ => self.others.push(format!("extension {}", extension.oid)),
        }
    }

    /// Fails if the request names someone else. A request without any name at all is for whoever brings it.
    pub(crate) fn check(&self, identity: &Identity) -> Result<()> {
        let wanted = identity.to_string();
        let is_wanted = |name: &String| name.eq_ignore_ascii_case(&wanted);
        let named = match identity {
            Identity::Dn(name) => self.subject.as_ref() == Some(name),
            _ if !self.alternative_names.is_empty() => self.alternative_names.iter().any(is_wanted),
            _ if self.common_names.is_empty() => self.subject_text.is_empty(),
            _ => self.common_names.iter().all(is_wanted),
        };
        if named {
            return Ok(());
        }
        let names = [&self.alternative_names[..], std::slice::from_ref(&self.subject_text)].concat();
        Err(Error::Request(format!("is for {}, not for {wanted}", names.join(", "))))
    }

    /// Returns what the request asks for beyond this identity and its key, and does not get.
    #[must_use]
    pub fn not_taken_over(&self, identity: &Identity) -> Vec<String> {
        let wanted = identity.to_string();
        let names = self.alternative_names.iter().filter(|name| !name.eq_ignore_ascii_case(&wanted));
        names.map(|name| format!("the name {name}")).chain(self.others.iter().cloned()).collect()
    }
}

/// Returns the DER of a request, which may be in PEM.
fn der(bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.first() == Some(&0x30) {
        return Ok(bytes.to_vec());
    }
    let blocks: Vec<Pem> = Pem::iter_from_buffer(bytes).filter_map(std::result::Result::ok).collect();
    match &blocks[..] {
        [pem] if LABELS.contains(&pem.label.as_str()) => Ok(pem.contents.clone()),
        [pem] => Err(Error::Request(format!("is a {}", text(&pem.label)))),
        blocks => Err(Error::Request(format!("has {} PEM blocks, and one is needed", blocks.len()))),
    }
}

/// Fails unless gatewayd and charon take keys of this kind.
fn check_key(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<()> {
    let fault = |fault: &str| Err(Error::Request(fault.to_owned()));
    let expected =
        "has a key of another kind than ECDSA P-256 or P-384, Ed25519, or RSA with 2048 to 4096 bits";
    if rcgen::SubjectPublicKeyInfo::from_der(key.raw).is_err() {
        return fault(expected);
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&bits(rsa.modulus)) => match rsa.try_exponent() {
            Ok(3..=0xffff_ffff) => Ok(()),
            _ => fault("has an RSA key with an exponent that is not usual"),
        },
        Ok(PublicKey::EC(_) | PublicKey::Unknown(_)) => Ok(()),
        _ => fault(expected),
    }
}

/// Returns the length of a big-endian number in bits.
fn bits(number: &[u8]) -> usize {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let first = number.get(start).map_or(0, |byte| 8 - byte.leading_zeros() as usize);
    first + 8 * number.len().saturating_sub(start + 1)
}

fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => text(name),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok();
            v4.or(v6).map_or_else(|| "an address with a mask".to_owned(), |address| address.to_string())
        }
        GeneralName::DirectoryName(name) => text(&name.to_string()),
        _ => "a name of another kind".to_owned(),
    }
}

/// Makes a stranger's text harmless to a terminal, and short.
fn text(text: &str) -> String {
    text.chars().take(253).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
