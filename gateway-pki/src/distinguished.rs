//! Distinguished names as strongSwan and OpenSSL write them: `C=DE, O=Acme, CN=berlin`.
use std::fmt;
use std::str::FromStr;

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{DnType, DnValue};
use x509_parser::x509::X509Name;

use crate::error::{Error, Result};

/// An attribute: its short name, its object identifier, and its longest value (RFC 5280, A.1).
type Attribute = (&'static str, &'static [u64], usize);

/// emailAddress (PKCS #9), the only one that is not a DirectoryString.
const EMAIL: &str = "E";
const COUNTRY: &str = "C";

const ATTRIBUTES: [Attribute; 7] = [
    (COUNTRY, &[2, 5, 4, 6], 2),
    ("ST", &[2, 5, 4, 8], 128),
    ("L", &[2, 5, 4, 7], 128),
    ("O", &[2, 5, 4, 10], 64),
    ("OU", &[2, 5, 4, 11], 64),
    ("CN", &[2, 5, 4, 3], 64),
    (EMAIL, &[1, 2, 840, 113_549, 1, 9, 1], 255),
];

/// A distinguished name with at most one of each attribute, in their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DistinguishedName(Vec<(&'static str, String)>);

impl DistinguishedName {
    /// Returns the name in rcgen's form. Values that PrintableString can hold are one, as strongSwan encodes the
    /// identities of its configuration, so that even a comparison of bytes finds them equal.
    pub(crate) fn subject(&self) -> Result<rcgen::DistinguishedName> {
        let mut subject = rcgen::DistinguishedName::new();
        for (name, value) in &self.0 {
            subject.push(dn_type(name), dn_value(name, value)?);
        }
        Ok(subject)
    }

    /// Reads a subject. Returns `None` if it has anything that this type cannot hold.
    pub(crate) fn read(name: &X509Name<'_>) -> Option<Self> {
        let mut attributes = Vec::new();
        for rdn in name.iter() {
            let mut rdn = rdn.iter();
            let (attribute, None) = (rdn.next()?, rdn.next()) else { return None };
            let oid: Vec<u64> = attribute.attr_type().iter()?.collect();
            let (short, ..) = ATTRIBUTES.iter().find(|(_, known, _)| *known == oid)?;
            attributes.push(format!("{short}={}", attribute.as_str().ok()?));
        }
        attributes.join(", ").parse().ok()
    }
}

impl FromStr for DistinguishedName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = |fault: &str| {
            let shown: String = text.chars().take(200).collect();
            Error::Identity(format!(
                "{shown:?} cannot be a distinguished name: {fault}; write one like `C=DE, O=Acme, CN=berlin`"
            ))
        };
        let mut attributes: Vec<(&'static str, String)> = Vec::new();
        for part in text.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or_else(|| fault("a part has no `=`"))?;
            let (name, value) = (name.trim(), value.trim());
            let (name, _, max) = ATTRIBUTES
                .iter()
                .find(|(short, ..)| short.eq_ignore_ascii_case(name))
                .ok_or_else(|| fault("its attributes are C, ST, L, O, OU, CN and E"))?;
            if attributes.iter().any(|(known, _)| known == name) {
                return Err(fault("an attribute comes twice"));
            }
            if value.is_empty() || value.chars().count() > *max {
                return Err(fault("a value is empty or too long"));
            }
            // strongSwan and OpenSSL would read other characters as more than the value; `*` matches anything.
            let allowed = |c: char| c.is_alphanumeric() || " '().-:?@&_".contains(c);
            if !value.chars().all(allowed) {
                return Err(fault("a value has only letters, digits, spaces and '().-:?@&_"));
            }
            if *name == COUNTRY && !(value.len() == 2 && value.bytes().all(|b| b.is_ascii_uppercase())) {
                return Err(fault("a country is two capital letters"));
            }
            if *name == EMAIL && !value.is_ascii() {
                return Err(fault("an e-mail address is ASCII"));
            }
            attributes.push((name, value.to_owned()));
        }
        Ok(Self(attributes))
    }
}

pub(crate) fn common_name(value: &str) -> Result<rcgen::DistinguishedName> {
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(DnType::CommonName, dn_value("CN", value)?);
    Ok(subject)
}

fn dn_type(name: &str) -> DnType {
    let found = ATTRIBUTES.iter().find(|(short, ..)| *short == name);
    found.map_or(DnType::CommonName, |(_, oid, _)| DnType::from_oid(oid))
}

fn dn_value(name: &str, value: &str) -> Result<DnValue> {
    if name == EMAIL {
        let value = Ia5String::try_from(value)?;
        return Ok(DnValue::Ia5String(value));
    }
    Ok(match PrintableString::try_from(value) {
        Ok(value) => DnValue::PrintableString(value),
        Err(_) => DnValue::Utf8String(value.to_owned()),
    })
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}
