//! The maps of IKE cookies: secrets, and counters.
use anyhow::{Context, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use gateway_common::{
    layout::map_list,
    outer::cookie::{Secrets, Strangers},
};

use crate::kernel::{handle, pins::Pins};

/// A gateway's maps of IKE cookies, opened from their pins.
pub struct Cookies {
    secrets: Array<MapData, Secrets>,
    strangers: PerCpuArray<MapData, Strangers>,
}

/// Counters of IKE cookies, summed over all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Requests that the network card answered with a cookie.
    pub asked: u64,
    /// Requests with a valid cookie.
    pub proved: u64,
    /// Requests that charon answered with a cookie of its own.
    pub asked_by_charon: u64,
    /// True while some CPU asks strangers for cookies.
    pub in_demand: bool,
}

impl Cookies {
    /// Opens the pins of a gateway, whose daemon need not be running.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            secrets: handle::array(pins, &map_list::COOKIES)?,
            strangers: handle::per_cpu_array(pins, &map_list::STRANGERS)?,
        })
    }

    /// Returns the secrets; not in force before the first ones are written.
    pub fn secrets(&self) -> Result<Secrets> {
        self.secrets.get(&0, 0).context("read COOKIES")
    }

    /// Replaces the secrets.
    pub fn set_secrets(&mut self, secrets: &Secrets) -> Result<()> {
        self.secrets.set(0, secrets, 0).context("write COOKIES")
    }

    /// Returns the counters. `now_ns` is CLOCK_MONOTONIC.
    pub fn counts(&self, now_ns: u64) -> Result<Counts> {
        let mut sum = Counts::default();
        for cpu in self.strangers.get(&0, 0).context("read STRANGERS")?.iter() {
            sum.asked += cpu.asked;
            sum.proved += cpu.proved;
            sum.asked_by_charon += cpu.asked_by_charon;
            sum.in_demand |= cpu.demand.is_high(now_ns);
        }
        Ok(sum)
    }
}
