//! Counters of customers, summed over all CPUs.
use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use gateway_common::{
    layout::{Counters, Drops, Unattributed, map_list},
    reason::{REASON_SLOTS, Reason},
};

use crate::kernel::{handle, pins::Pins};

/// The counters of one customer, or of packets that belong to none, summed over all CPUs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Packets passed, by direction number.
    pub passed: [u64; 2],
    /// Bytes passed, by direction number.
    pub passed_bytes: [u64; 2],
    /// ESP packets of unknown SPIs; they belong to no customer.
    pub unknown_spi: u64,
    /// Flows opened.
    pub opened: u64,
    /// Drop events that were not written.
    pub events_lost: u64,
    /// Drops of this customer that are counted as nobody's, because the kernel had no memory to count them here.
    pub unattributed: u64,
    /// Packets dropped, by reason; reasons without a drop are absent.
    pub dropped: BTreeMap<Reason, u64>,
}

/// The maps that hold counters.
pub(super) struct CountedMaps {
    counters: PerCpuArray<MapData, Counters>,
    drops: HashMap<MapData, u32, Drops>,
    unattributed: PerCpuArray<MapData, Unattributed>,
}

impl CountedMaps {
    /// Opens the pins.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            counters: handle::per_cpu_array(pins, &map_list::COUNTERS)?,
            drops: handle::hash(pins, &map_list::DROPS)?,
            unattributed: handle::per_cpu_array(pins, &map_list::UNATTRIBUTED)?,
        })
    }

    /// Returns the highest customer id that fits.
    pub fn customer_limit(&self) -> u32 {
        self.counters.len().saturating_sub(1)
    }

    /// Returns a customer's counters, or with customer 0 those of packets that belong to none.
    pub fn of(&self, customer: u32) -> Result<Counted> {
        match customer {
            0 => self.of_nobody(),
            _ => self.of_customer(customer),
        }
    }

    fn of_nobody(&self) -> Result<Counted> {
        let mut sum = Counted::default();
        let mut dropped = [0; REASON_SLOTS];
        for cpu in self.unattributed.get(&0, 0).context("read UNATTRIBUTED")?.iter() {
            sum.unknown_spi += cpu.unknown_spi;
            sum.events_lost += cpu.reports.lost;
            dropped.iter_mut().zip(cpu.dropped).for_each(|(sum, cpu)| *sum += cpu);
        }
        sum.add_drops(&dropped);
        Ok(sum)
    }

    fn of_customer(&self, customer: u32) -> Result<Counted> {
        let (cpus, ended) = self.read(customer)?;
        let mut sum = Counted::default();
        for cpu in &cpus {
            for direction in [0, 1] {
                sum.passed[direction] += cpu.passed[direction];
                sum.passed_bytes[direction] += cpu.passed_bytes[direction];
            }
            sum.opened += cpu.opened;
            sum.events_lost += cpu.reports.lost;
            sum.unattributed += cpu.unattributed;
            if let Some(reason) = cpu.run_reason() {
                *sum.dropped.entry(reason).or_default() += cpu.run_packets;
            }
        }
        sum.add_drops(&ended);
        Ok(sum)
    }

    /// Reads a customer's counters on all CPUs, and the drops of runs that have ended. If a run ends meanwhile, its
    /// packets could be missed or counted twice, so both are read again.
    fn read(&self, customer: u32) -> Result<(Vec<Counters>, [u64; REASON_SLOTS])> {
        /// Attempts, before the sums may be wrong by a run. Only a CPU that drops for another reason with every
        /// packet lets many fail.
        const TRIES: u32 = 64;
        let counters = || -> Result<Vec<Counters>> {
            Ok(self.counters.get(&customer, 0).context("read COUNTERS")?.iter().copied().collect())
        };
        let mut before = counters()?;
        let mut tries = 1;
        loop {
            if before.iter().all(|cpu| cpu.run_reason().is_none()) {
                return Ok((before, Drops::NONE.packets));
            }
            let ended = match self.drops.get(&customer, 0) {
                Ok(row) => row.packets,
                Err(MapError::KeyNotFound) => Drops::NONE.packets,
                Err(error) => return Err(error).context("read DROPS"),
            };
            let after = counters()?;
            let unmoved = before.iter().zip(&after).all(|(a, b)| a.run == b.run && !b.is_moving());
            if unmoved || tries == TRIES {
                return Ok((after, ended));
            }
            (before, tries) = (after, tries + 1);
        }
    }
}

impl Counted {
    fn add_drops(&mut self, dropped: &[u64; REASON_SLOTS]) {
        for reason in Reason::ALL {
            let packets = dropped[*reason as usize];
            if packets != 0 {
                *self.dropped.entry(*reason).or_default() += packets;
            }
        }
    }
}
