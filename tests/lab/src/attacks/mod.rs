//! The attacks. To add one, add an entry to one of the lists.
mod from_internet;
mod from_server;
mod from_site;
mod gro;
mod tunnel;
mod watched;

use crate::attack::Attack;

/// All attacks, in the order of the report.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    let lists =
        [from_site::ATTACKS, from_server::ATTACKS, from_internet::ATTACKS, tunnel::ATTACKS, gro::ATTACKS];
    lists.into_iter().flatten()
}
