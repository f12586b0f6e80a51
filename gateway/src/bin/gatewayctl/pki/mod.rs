//! `gatewayctl pki`: an offline certificate authority in a folder.
mod arguments;
mod change;
mod delivery;
mod details;
mod list;
mod passphrase;
mod terminal;

use anyhow::{Context, Result};
use gateway_pki::{Clock, Pki};
use time::OffsetDateTime;

pub use self::arguments::Arguments;
use self::arguments::Command;
use crate::report::Report;

/// Runs one of the commands.
pub fn run(arguments: &Arguments) -> Result<Report> {
    // No core dump and no other process of this user gets at keys and passphrases.
    nix::sys::prctl::set_dumpable(false).context("forbid core dumps")?;
    let now = OffsetDateTime::now_utc();
    let clock = Clock { now, trusted: arguments.accept_clock };
    let (folder, clock) = (&arguments.folder, &clock);
    match &arguments.command {
        Command::Init(init) => change::init(folder, init, now),
        Command::Issue(issue) => change::issue(folder, issue, clock),
        Command::Sign(sign) => change::sign(folder, sign, clock),
        Command::Renew(renew) => change::renew(folder, renew, clock),
        Command::Revoke(revoke) => change::revoke(folder, revoke, clock),
        Command::List => Ok(list::report(&Pki::read(folder, now)?, now)),
        Command::Show { what } => details::report(&Pki::read(folder, now)?, what, now),
    }
}
