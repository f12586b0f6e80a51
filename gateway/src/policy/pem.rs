//! PEM files as charon reads them: only the first block counts, whatever follows.
use x509_parser::error::PEMError;
use x509_parser::pem::Pem;

use super::fault::{Invalid, quote};

/// The first byte of everything in DER here: a sequence.
const DER_SEQUENCE: u8 = 0x30;

/// The encodings of a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFormat {
    /// PKCS #8 (RFC 5208), any algorithm.
    Pkcs8,
    /// PKCS #1 (RFC 8017, A.1.2), RSA.
    Pkcs1,
    /// SEC 1 (RFC 5915), elliptic curves.
    Sec1,
}

/// A private key in DER.
pub(super) struct KeyBlock {
    pub format: KeyFormat,
    pub der: Vec<u8>,
}

/// Returns the content of a file with a single block of this label.
pub(super) fn block(text: &[u8], label: &str) -> Result<Vec<u8>, Invalid> {
    let article = format!("a PEM file with one `{label}`");
    let blocks = blocks(text, &article)?;
    match &blocks[..] {
        [pem] if pem.label == label => Ok(pem.contents.clone()),
        [pem] => Err(Invalid::new(format!("is a {}", quote(&pem.label)), article)),
        // charon reads the first block and ignores the others (strongSwan, pem_builder.c, pem_to_bin).
        blocks => Err(Invalid::new(
            format!("has {} PEM blocks, and charon reads only the first one", blocks.len()),
            format!("{article}, without others of its chain"),
        )),
    }
}

/// Returns the private key of a file with a single block.
pub(super) fn key_block(text: &[u8]) -> Result<KeyBlock, Invalid> {
    let expected = "a PEM file with one private key that is not encrypted";
    let text_is = |what: &[u8]| text.windows(what.len()).any(|bytes| bytes == what);
    if text_is(b"ENCRYPTED PRIVATE KEY-----") || text_is(b"Proc-Type: 4,ENCRYPTED") {
        let expected = "a key without passphrase, which `openssl pkey -in FILE -out NEW` writes";
        return Err(Invalid::new("is encrypted", expected));
    }
    let blocks = blocks(text, expected)?;
    let [pem] = &blocks[..] else {
        let labels: Vec<String> = blocks.iter().take(4).map(|pem| quote(&pem.label)).collect();
        let message = format!(
            "has {} PEM blocks ({}), and charon reads only the first one",
            blocks.len(),
            labels.join(", ")
        );
        return Err(Invalid::new(message, expected));
    };
    let format = match pem.label.as_str() {
        "PRIVATE KEY" => KeyFormat::Pkcs8,
        "RSA PRIVATE KEY" => KeyFormat::Pkcs1,
        "EC PRIVATE KEY" => KeyFormat::Sec1,
        other => return Err(Invalid::new(format!("is a {}", quote(other)), expected)),
    };
    Ok(KeyBlock { format, der: pem.contents.clone() })
}

fn blocks(text: &[u8], expected: &str) -> Result<Vec<Pem>, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("is an empty file", expected));
    }
    if text.first() == Some(&DER_SEQUENCE) {
        return Err(Invalid::new("is in DER, not in PEM", expected));
    }
    let blocks: Result<Vec<Pem>, PEMError> = Pem::iter_from_buffer(text).collect();
    match blocks {
        Ok(blocks) if blocks.is_empty() => Err(Invalid::new("has no PEM block", expected)),
        Ok(blocks) => Ok(blocks),
        Err(error) => Err(Invalid::new(format!("is broken: {}", describe(&error)), expected)),
    }
}

fn describe(error: &PEMError) -> &'static str {
    match error {
        PEMError::Base64DecodeError => "a PEM block is not base64",
        PEMError::IncompletePEM => "a PEM block has no end",
        _ => "a PEM block has no proper begin or end",
    }
}
