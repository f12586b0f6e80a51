//! Arguments of `gatewayctl pki`.
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, value_parser};
use gateway_pki::{Identity, Kind, Name, Reason, Serial};

use super::passphrase::Source;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder of the authority
    #[arg(long, global = true, value_name = "DIR", env = "GATEWAY_PKI", default_value = "pki")]
    pub folder: PathBuf,
    /// Take the clock for right although the last change here was later
    #[arg(long, global = true)]
    pub accept_clock: bool,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  gatewayctl pki init \"Acme VPN\" --intermediate
  gatewayctl pki issue gateway gateway.example --out /media/stick
  gatewayctl pki sign site berlin.acme.example request.pem
  gatewayctl pki list
  gatewayctl pki revoke berlin.acme.example --reason key-compromise --publish /etc/gateway/pki/revoked.crl

Passphrases come from the terminal, a file or a descriptor, never from an argument.";

#[derive(Subcommand)]
pub enum Command {
    /// Make a folder with a new authority
    Init(Init),
    /// Issue a certificate with a new key
    Issue(Issue),
    /// Issue a certificate for a request (PKCS #10) that was made elsewhere, with its key
    Sign(Sign),
    /// Issue another certificate before one expires; the old one stays valid
    Renew(Renew),
    /// Revoke certificates and make the CRL anew; without a name only the latter
    Revoke(Revoke),
    /// List all certificates by the time at which they expire, and the CRLs
    List,
    /// Show a certificate
    Show {
        /// Name or serial number, `root` or `issuing`
        what: String,
    },
}

#[derive(Args)]
pub struct Init {
    /// Name of the authority: 1 to 40 letters, digits, spaces, `.` and `-`
    pub name: String,
    /// Make an issuing authority below the root, so that the root's key can stay in a safe
    #[arg(long)]
    pub intermediate: bool,
    /// Period of the root's certificate
    #[arg(long, value_name = "DAYS", default_value_t = 3652)]
    pub days: u32,
    /// Period of the issuing authority's certificate
    #[arg(long, value_name = "DAYS", default_value_t = 1826)]
    pub issuing_days: u32,
    /// Period of the first CRL
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub crl_days: u32,
    /// Period of the root's first CRL if there is an issuing authority
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    pub root_crl_days: u32,
    /// Leave the authority's keys in the clear
    #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_fd", "root_passphrase_file", "root_passphrase_fd"])]
    pub unencrypted: bool,
    /// Move an authority that is there already out of the way
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub passphrase: PassphraseArguments,
    /// File with another passphrase for the root's key, if there is an issuing authority
    #[arg(long, value_name = "FILE", requires = "intermediate", conflicts_with = "root_passphrase_fd")]
    pub root_passphrase_file: Option<PathBuf>,
    /// Descriptor with another passphrase for the root's key
    #[arg(long, value_name = "N", requires = "intermediate", value_parser = value_parser!(i32).range(0..))]
    pub root_passphrase_fd: Option<i32>,
}

/// The passphrase of the authority's key that signs.
#[derive(Args)]
pub struct PassphraseArguments {
    /// File with the passphrase of the authority's key
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    passphrase_file: Option<PathBuf>,
    /// Descriptor with the passphrase of the authority's key
    #[arg(long, value_name = "N", value_parser = value_parser!(i32).range(0..))]
    passphrase_fd: Option<i32>,
}

impl PassphraseArguments {
    pub fn source(&self) -> Source {
        Source::new(self.passphrase_file.as_deref(), self.passphrase_fd)
    }
}

impl Init {
    /// Returns the source of the root's passphrase if it is one of its own.
    pub fn root_source(&self) -> Option<Source> {
        let Self { root_passphrase_file: file, root_passphrase_fd: fd, .. } = self;
        (file.is_some() || fd.is_some()).then(|| Source::new(file.as_deref(), *fd))
    }
}

/// The encryption of a new key.
#[derive(Args)]
pub struct KeyArguments {
    /// Encrypt the new key under a passphrase of its own
    #[arg(long)]
    encrypt_key: bool,
    /// File with the passphrase of the new key
    #[arg(long, value_name = "FILE", conflicts_with = "key_passphrase_fd")]
    key_passphrase_file: Option<PathBuf>,
    /// Descriptor with the passphrase of the new key
    #[arg(long, value_name = "N", value_parser = value_parser!(i32).range(0..))]
    key_passphrase_fd: Option<i32>,
}

impl KeyArguments {
    /// Returns the source of the new key's passphrase, or `None` if it stays in the clear.
    pub fn source(&self) -> Option<Source> {
        let Self { encrypt_key, key_passphrase_file: file, key_passphrase_fd: fd } = self;
        (*encrypt_key || file.is_some() || fd.is_some()).then(|| Source::new(file.as_deref(), *fd))
    }

    /// Returns the source for a key that has to be encrypted.
    pub fn needed_source(&self) -> Source {
        Source::new(self.key_passphrase_file.as_deref(), self.key_passphrase_fd)
    }
}

/// The owner of a new certificate.
#[derive(Args)]
pub struct Owner {
    /// The owner
    pub kind: OwnerKind,
    /// IKE identity: domain name, e-mail address, IP address, or distinguished name such as `C=DE, O=Acme, CN=berlin`
    pub identity: Identity,
    /// Name in the folder, by default the identity; a distinguished name needs one
    #[arg(long)]
    pub name: Option<Name>,
    /// Period of the certificate
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    pub days: u32,
    /// Folder of policies, one of which must have this identity
    #[arg(long, value_name = "DIR")]
    pub policy: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum OwnerKind {
    Gateway,
    Site,
}

impl From<OwnerKind> for Kind {
    fn from(kind: OwnerKind) -> Self {
        match kind {
            OwnerKind::Gateway => Self::Gateway,
            OwnerKind::Site => Self::Site,
        }
    }
}

#[derive(Args)]
pub struct Issue {
    #[command(flatten)]
    pub owner: Owner,
    #[command(flatten)]
    pub passphrase: PassphraseArguments,
    #[command(flatten)]
    pub key: KeyArguments,
    #[command(flatten)]
    pub out: OutArguments,
}

#[derive(Args)]
pub struct Sign {
    #[command(flatten)]
    pub owner: Owner,
    /// The request, PEM or DER
    pub request: PathBuf,
    #[command(flatten)]
    pub passphrase: PassphraseArguments,
    #[command(flatten)]
    pub out: OutArguments,
}

#[derive(Args)]
pub struct Renew {
    /// Name of the certificate, or `issuing`
    pub name: Name,
    /// Period of the certificate [default: 365, or 1826 for `issuing`]
    #[arg(long, value_name = "DAYS")]
    pub days: Option<u32>,
    /// Keep the key instead of making a new one
    #[arg(long)]
    pub same_key: bool,
    #[command(flatten)]
    pub passphrase: PassphraseArguments,
    #[command(flatten)]
    pub key: KeyArguments,
    #[command(flatten)]
    pub out: OutArguments,
}

#[derive(Args)]
pub struct Revoke {
    /// Name of the certificates, or `issuing`
    pub name: Option<Name>,
    /// Revoke all certificates of the name but the newest
    #[arg(long, requires = "name")]
    pub older: bool,
    /// Revoke the certificate with this serial number
    #[arg(long, value_name = "HEX", conflicts_with_all = ["name", "older"])]
    pub serial: Option<Serial>,
    /// Make the CRL of the root anew, which has its own if there is an issuing authority
    #[arg(long, conflicts_with_all = ["name", "older", "serial"])]
    pub root: bool,
    /// Reason that the CRL gives
    #[arg(long, default_value = "unspecified", value_parser = reason)]
    pub reason: Reason,
    /// Period of the CRL [default: 30, or 365 for that of a root with an issuing authority]
    #[arg(long, value_name = "DAYS")]
    pub crl_days: Option<u32>,
    /// Also write the CRLs to this file, which a gateway reads
    #[arg(long, value_name = "FILE")]
    pub publish: Option<PathBuf>,
    /// Publish even over a file that is no older CRL of this authority
    #[arg(long, requires = "publish")]
    pub force: bool,
    #[command(flatten)]
    pub passphrase: PassphraseArguments,
}

fn reason(name: &str) -> Result<Reason, String> {
    let names = || Reason::ALL.iter().map(|reason| reason.name()).collect::<Vec<_>>().join(", ");
    let found = Reason::ALL.iter().find(|reason| reason.name() == name).copied();
    found.ok_or_else(|| format!("use one of {}", names()))
}

/// Copies for a gateway or site.
#[derive(Args)]
pub struct OutArguments {
    /// Also write certificate, key and the authorities' certificates into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Issue although there is a valid certificate, and overwrite files in --out
    #[arg(long)]
    pub force: bool,
}
