//! Tests of DROPS: who takes a row there, and what counts if none is left. Cases cannot say it, as more than one
//! customer's counters change.
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use gateway_common::reason::Reason::{self, PortNotAllowed, TtlExpired};
use gateway_tests_kit::world::World;

use crate::{case::Case, machine::Machine};

/// A test, with its name.
pub type Test = (&'static str, fn(&mut Machine) -> Result<()>);

/// All tests.
pub const TESTS: &[Test] = &[
    ("drops_for_one_reason_take_no_row", one_reason),
    ("drops_for_many_reasons_take_one_row", many_reasons),
    ("drops_without_room_for_a_row_count_for_nobody", no_room),
];

/// The id of acme. The others are those of globex, and of packets that belong to no customer.
const ACME: u32 = 1;
/// See [`ACME`].
const GLOBEX: u32 = 2;
/// See [`ACME`].
const NOBODY: u32 = 0;
/// A packet to another port than the server's.
const TO_PORT_81: &str = "192.168.1.2:40000 > 10.200.0.11:81 S";
/// A packet whose time to live is over.
const EXPIRED: &str = "192.168.1.2:40000 > 10.200.0.11:80 S ttl 1";

fn one_reason(machine: &mut Machine) -> Result<()> {
    machine.reset(&World::usual())?;
    run(machine, TO_PORT_81, 3)?;
    ensure!(machine.rows_of_drops()?.is_empty(), "rows {:?}", machine.rows_of_drops()?);
    dropped(machine, ACME, &[(PortNotAllowed, 3)])
}

fn many_reasons(machine: &mut Machine) -> Result<()> {
    machine.reset(&World::usual())?;
    for _ in 0..5 {
        run(machine, TO_PORT_81, 2)?;
        run(machine, EXPIRED, 1)?;
    }
    ensure!(machine.rows_of_drops()? == [ACME], "rows {:?}", machine.rows_of_drops()?);
    dropped(machine, ACME, &[(PortNotAllowed, 10), (TtlExpired, 5)])?;
    dropped(machine, GLOBEX, &[])?;
    dropped(machine, NOBODY, &[])
}

fn no_room(machine: &mut Machine) -> Result<()> {
    machine.reset(&World::usual())?;
    machine.fill_drops()?;
    run(machine, TO_PORT_81, 3)?;
    dropped(machine, ACME, &[(PortNotAllowed, 3)])?;
    run(machine, EXPIRED, 1)?;
    dropped(machine, ACME, &[(TtlExpired, 1)])?;
    dropped(machine, NOBODY, &[(PortNotAllowed, 3)])?;
    let elsewhere = machine.counted(ACME)?.unattributed;
    ensure!(elsewhere == 3, "{elsewhere} drops are said to be counted as nobody's");
    machine.reset(&World::usual())
}

/// Runs a packet out of berlin's tunnel several times.
fn run(machine: &Machine, packet: &str, times: u32) -> Result<()> {
    let case = format!(
        "name = \"\"\nsteps = [{{ from = \"berlin\", packet = \"{packet}\", verdict = \"pass\", counts = \"none\" }}]"
    );
    let case: Case = toml::from_str(&case)?;
    let input = case.packets().next().context("the case has a packet")?.input()?;
    (0..times).try_for_each(|_| machine.run(&input).map(drop))
}

fn dropped(machine: &Machine, customer: u32, expected: &[(Reason, u64)]) -> Result<()> {
    let (seen, expected) =
        (machine.counted(customer)?.dropped, BTreeMap::from_iter(expected.iter().copied()));
    ensure!(seen == expected, "customer {customer}: expected {expected:?}, seen {seen:?}");
    Ok(())
}
