//! Errors, each one sentence for the person who works with the authority.
use std::io;
use std::path::PathBuf;

/// The result of the operations of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason why an operation was refused or failed. Nothing has changed then, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no identity.
    #[error("{0}")]
    Identity(String),
    /// The text cannot be a certificate's name in this folder.
    #[error(
        "{0:?} cannot be a name here: use 1 to 128 letters, digits, `.`, `-`, `_`, `@` and `:`, the first no `.` or `-`"
    )]
    Name(String),
    /// The text cannot be the name of an authority.
    #[error("{0:?} cannot be an authority's name: use 1 to 40 letters, digits, spaces, `.` and `-`")]
    AuthorityName(String),
    /// The folder holds no authority.
    #[error("{} holds no authority: make one with `gatewayctl pki init`", .0.display())]
    NoAuthority(PathBuf),
    /// The path leads through a symbolic link.
    #[error("{} is a symbolic link or lies behind one: name the place itself, a link may lead elsewhere", .0.display())]
    Link(PathBuf),
    /// The path is neither a folder nor a regular file, as needed.
    #[error("{} is not {expected}", .path.display())]
    FileType {
        /// The path.
        path: PathBuf,
        /// The needed type, with an article.
        expected: &'static str,
    },
    /// Others may look into the folder or change it.
    #[error("{} is open to others (mode {mode:04o}): run `chmod 0700` on it, and ask who has read its keys", .path.display())]
    OpenToOthers {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder is another user's.
    #[error("{} belongs to another user (uid {uid}): work as its owner", .path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Something is there already.
    #[error("{} exists: nothing is overwritten without --force", .0.display())]
    Exists(PathBuf),
    /// Another process works in the folder.
    #[error("another `gatewayctl pki` is working in {}: wait until it has ended", .0.display())]
    Locked(PathBuf),
    /// The file is larger than anything that is expected there.
    #[error("{} has more than {max} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound in bytes.
        max: u64,
    },
    /// The index cannot be used.
    #[error("{} is damaged ({fault}): restore the folder from its backup", .path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The damage.
        fault: String,
    },
    /// The CRL on disk was written after the index.
    #[error("{} has number {file} and the index knows only {index}: the index is an old copy, and revocations would be lost; restore the newest backup of the whole folder", .path.display())]
    OldIndex {
        /// The CRL.
        path: PathBuf,
        /// Its number.
        file: u64,
        /// The index's number.
        index: u64,
    },
    /// The clock shows a time before the last change.
    #[error(
        "the clock shows {now}, but the last change here was at {last}: set the clock, or accept it with --accept-clock"
    )]
    Clock {
        /// The present time.
        now: String,
        /// The time of the last change.
        last: String,
    },
    /// The key needs a passphrase and none was given.
    #[error("{} is encrypted: its passphrase is needed", .0.display())]
    NoPassphrase(PathBuf),
    /// The passphrase does not decrypt the key.
    #[error("wrong passphrase for {}, or the file is damaged", .0.display())]
    Passphrase(PathBuf),
    /// The passphrase is not one.
    #[error("the passphrase {0}")]
    BadPassphrase(&'static str),
    /// The file is no key that can be used.
    #[error("{} is not a private key that can be used here: {fault}", .path.display())]
    Key {
        /// The key.
        path: PathBuf,
        /// The fault.
        fault: &'static str,
    },
    /// The key is not the certificate's.
    #[error("{} is not the key of {}", .key.display(), .certificate.display())]
    KeyMismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// The certificate is not the one that the index names.
    #[error("{} {fault}", .path.display())]
    Certificate {
        /// The certificate.
        path: PathBuf,
        /// The fault.
        fault: String,
    },
    /// The request cannot be signed.
    #[error("the request {0}")]
    Request(String),
    /// The authority's own certificate has expired or is not valid yet.
    #[error("the authority is valid from {from} to {until}, and it is {now}")]
    AuthorityPeriod {
        /// The first moment.
        from: String,
        /// The last moment.
        until: String,
        /// The present time.
        now: String,
    },
    /// The certificate would be valid longer than its authority.
    #[error("the certificate would end at {until}, after its authority ({authority}): ask for fewer days")]
    Outlives {
        /// The end of the certificate.
        until: String,
        /// The end of the authority.
        authority: String,
    },
    /// The period has no days, or the calendar ends before it.
    #[error("{0} days are no period: use 1 to 36500")]
    Days(u32),
    /// No certificate has this name or serial number.
    #[error("no certificate here is called {0:?}: `gatewayctl pki list` shows all")]
    Unknown(String),
    /// The name has a certificate that is valid.
    #[error(
        "{name} has a certificate until {until}: renew it, or revoke it first, or use --force to issue another"
    )]
    Certified {
        /// The name.
        name: String,
        /// The end of the certificate.
        until: String,
    },
    /// The identity has certificates of another name: a revocation by name would miss some.
    #[error("{identity} has certificates of the name {name} already: use that name")]
    IdentityTaken {
        /// The identity.
        identity: String,
        /// The name of its certificates.
        name: String,
    },
    /// The name is used for another identity or kind.
    #[error("{name} is already the name of the {kind} {identity}: choose another one with --name")]
    NameTaken {
        /// The name.
        name: String,
        /// Kind of its certificates.
        kind: &'static str,
        /// Identity of its certificates.
        identity: String,
    },
    /// The certificate was revoked.
    #[error("the certificate of {0} is revoked: issue a new one instead")]
    Revoked(String),
    /// Nothing is left to revoke.
    #[error("{0} has no certificate that is not yet revoked")]
    NothingToRevoke(String),
    /// The key was certified before, for someone else or until it was revoked.
    #[error("the key was certified before, for {name} (serial {serial}){why}: make a new key")]
    KeyReused {
        /// Name of the former certificate.
        name: String,
        /// Its serial number.
        serial: String,
        /// Empty, or that it is revoked.
        why: &'static str,
    },
    /// The file at the place to publish is not an older CRL of this authority.
    #[error("{} is {fault}: it stays without --force", .path.display())]
    Publish {
        /// The place.
        path: PathBuf,
        /// The content found there.
        fault: String,
    },
    /// The operating system failed.
    #[error("{what} {}: {cause}", .path.display())]
    Io {
        /// The operation, such as `write`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The change is in the index and in force, but a copy of it could not be written.
    #[error(
        "the change is made, but {what} could not be written ({cause}); the next change here writes it again"
    )]
    AfterCommit {
        /// The copy.
        what: String,
        /// The reason.
        cause: Box<Error>,
    },
    /// A library of cryptography failed.
    #[error("cryptography failed: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

impl From<ring::error::Unspecified> for Error {
    fn from(_: ring::error::Unspecified) -> Self {
        Self::Crypto("no randomness".to_owned())
    }
}
