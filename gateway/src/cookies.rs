//! Keeps the secrets of IKE cookies fresh, and watches whether charon asks for cookies of its own.
use std::{io, time::Duration};

use anyhow::{Context, Result};
use gateway_common::outer::cookie::{Key, Secrets};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::{error, warn};

use crate::kernel::{clock::monotonic_ns, cookies::Cookies, pins::Pins};

/// Time after which a new secret replaces the older one. A cookie is valid for one to two of these.
const ROTATION: Duration = Duration::from_secs(60);

/// The warning when charon asks for cookies.
pub const CHARON_ASKS: &str = "charon asks for IKE cookies of its own, so that new sites need a round trip more \
                               in a flood: set charon.cookie_threshold and charon.cookie_threshold_ip to 0 \
                               (packaging/strongswan/gatewayd.conf) and restart charon";

/// A task that rotates the secrets until it is dropped.
#[derive(Debug)]
pub struct Rotation(JoinHandle<()>);

impl Rotation {
    /// Writes the first secrets, unless some are in force already, and rotates them from then on. Needs a tokio
    /// runtime.
    pub fn start(pins: &Pins) -> Result<Self> {
        let mut cookies = Cookies::open(pins)?;
        if let Some(first) = first(cookies.secrets()?, random)? {
            cookies.set_secrets(&first)?;
        }
        Ok(Self(tokio::spawn(rotate_forever(cookies))))
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the secrets to begin with, or `None` if those of an earlier daemon are in force: cookies that it asked for
/// stay valid.
fn first(found: Secrets, mut random: impl FnMut() -> Result<Key>) -> Result<Option<Secrets>> {
    if found.in_force() {
        return Ok(None);
    }
    Ok(Some(Secrets::first([random()?, random()?])))
}

async fn rotate_forever(mut cookies: Cookies) {
    let mut ticks = interval_at(Instant::now() + ROTATION, ROTATION);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked_by_charon = 0;
    loop {
        ticks.tick().await;
        if let Err(error) = rotate(&mut cookies) {
            error!("the secrets of IKE cookies stay as they are: {error:#}");
        }
        match cookies.counts(monotonic_ns()) {
            Ok(counts) if counts.asked_by_charon > asked_by_charon => {
                asked_by_charon = counts.asked_by_charon;
                warn!(cookies = asked_by_charon, "{CHARON_ASKS}");
            }
            Ok(_) => {}
            Err(error) => error!("counters of IKE cookies: {error:#}"),
        }
    }
}

fn rotate(cookies: &mut Cookies) -> Result<()> {
    let next = cookies.secrets()?.rotated(random()?);
    cookies.set_secrets(&next)
}

/// Returns a key from the kernel's random source, once that is seeded.
fn random() -> Result<Key> {
    let mut key: Key = [0; 2];
    let bytes = size_of_val(&key);
    // SAFETY: the buffer has that many bytes, and any bytes are a key.
    let got = unsafe { libc::getrandom(key.as_mut_ptr().cast(), bytes, 0) };
    if usize::try_from(got) != Ok(bytes) {
        return Err(io::Error::last_os_error()).context("read random bytes");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_an_earlier_daemon_are_adopted() {
        let mut keys = [[1, 2], [3, 4]].into_iter();
        let mut random = || Ok(keys.next().expect("two keys at most"));
        let first_ever = first(Secrets::default(), &mut random).unwrap().expect("none is in force");
        assert_eq!(first_ever, Secrets::first([[1, 2], [3, 4]]));
        assert_eq!(first(first_ever, &mut random).unwrap(), None);
    }

    #[test]
    fn random_keys_differ() {
        assert_ne!(random().unwrap(), random().unwrap());
    }

    #[test]
    fn keys_are_not_logged() {
        let text = format!("{:?}", Secrets::first([[0xdead_beef; 2]; 2]));
        assert!(!text.contains("3735928559") && !text.to_lowercase().contains("deadbeef"), "{text}");
    }
}
