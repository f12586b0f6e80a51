//! The cost of tunnels: what IKE, gatewayd and the path from an event to a map entry take with few and with many sites.
//!
//! Both ends are real charons, and gatewayd runs with its programs attached. ESP is charon's own in user space
//! (kernel-libipsec), so that this runs on a kernel without ESP; no packet goes through the tunnels. All sites share one
//! charon and one key pair, but each has its outer address, identity and certificate.
mod charon;
mod events;
mod gateway;
mod ground;
mod meter;
mod policies;
mod request;
mod sites;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::{gateway::Gateway, ground::Ground, meter::cpu_time, sites::Sites};
use super::{
    contender::Contender,
    figure::{Figure, Measured, Unit},
    statistics::{extremes, median},
    workload::Workload,
};

/// Handshakes for the CPU time of one.
const HANDSHAKES: u32 = 200;
/// Tunnels that events are compared with.
const FEW: u32 = 100;
/// Length of the measurement of an idle gatewayd.
const IDLE: Duration = Duration::from_secs(60);

/// Command-line choice of measurements.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// 300 tunnels and 3,000 customers at most
    #[arg(long)]
    pub quick: bool,
    /// Number of tunnels; ten times as many customers are in the largest policy
    #[arg(long, value_parser = clap::value_parser!(u32).range(200..=20_000))]
    pub tunnels: Option<u32>,
}

/// Measures everything and prints a figure for each measurement.
pub fn run(choices: &Choices) -> Result<()> {
    let tunnels = choices.tunnels.unwrap_or(if choices.quick { 300 } else { 10_000 });
    let ground = Ground::create(tunnels + 1)?;
    eprintln!("issuing {tunnels} certificates");
    let mut sites = Sites::start(&ground, tunnels + 1)?;
    for customers in [FEW, tunnels * 10] {
        let mut gateway = start(&ground, &sites, customers)?;
        handshakes(&ground, &mut gateway, &mut sites, customers)?;
        gateway.end()?;
    }
    let mut gateway = start(&ground, &sites, tunnels)?;
    handshakes(&ground, &mut gateway, &mut sites, tunnels)?;
    let idle = if choices.quick { IDLE / 6 } else { IDLE };

    sites.connect(1..=FEW)?;
    events(&gateway, &mut sites, FEW, choices.quick)?;
    sites.disconnect()?;
    all_at_once(&mut gateway, &mut sites, tunnels)?;
    events(&gateway, &mut sites, tunnels, choices.quick)?;

    eprintln!("idle for {idle:?}");
    let before = cpu_time(gateway.daemon_pid())?;
    thread::sleep(idle);
    let share = (cpu_time(gateway.daemon_pid())? - before).as_secs_f64() / idle.as_secs_f64();
    report(Workload::DaemonIdle, tunnels, Unit::Ratio, &[share])?;
    let bytes = meter::resident_bytes(gateway.daemon_pid())?;
    report(Workload::DaemonMemory, tunnels, Unit::Bytes, &[bytes as f64])?;

    let mut added = Vec::new();
    for round in 0..if choices.quick { 2 } else { 5 } {
        added.push(milliseconds(gateway.add_customer(tunnels + 1)?));
        gateway.remove_customer(tunnels + 1).with_context(|| format!("round {round}"))?;
    }
    report(Workload::CustomerAdded, tunnels, Unit::Milliseconds, &added)?;
    gateway.end()?;
    sites.end()
}

/// Starts charon and gatewayd with this many customers, and reports what reading and starting take.
fn start(ground: &Ground, sites: &Sites, customers: u32) -> Result<Gateway> {
    eprintln!("{customers} customers:");
    policies::write(ground.run(), customers)?;
    let mut reads = Vec::new();
    for _ in 0..3 {
        reads.push(milliseconds(gateway::check(ground)?));
    }
    report(Workload::PoliciesRead, customers, Unit::Milliseconds, &reads)?;
    let (gateway, lasted) = Gateway::start(ground, sites)?;
    let after_reading = (milliseconds(lasted) - median(&reads)).max(0.0);
    report(Workload::StartToConnect, customers, Unit::Milliseconds, &[after_reading])?;
    Ok(gateway)
}

/// Reports charon's CPU time for requests and for whole handshakes.
fn handshakes(ground: &Ground, gateway: &mut Gateway, sites: &mut Sites, customers: u32) -> Result<()> {
    let count = HANDSHAKES.min(customers);
    // Not counted: what charon does only once.
    sites.connect(1..=10)?;
    sites.disconnect()?;
    let before = cpu_time(gateway.charon_pid())?;
    request::send(ground, count)?;
    let requests = cpu_time(gateway.charon_pid())? - before;
    let before = cpu_time(gateway.charon_pid())?;
    sites.connect(customers.min(sites.count()) + 1 - count..=customers.min(sites.count()))?;
    let whole = cpu_time(gateway.charon_pid())? - before;
    sites.disconnect()?;
    let each = |time: Duration| milliseconds(time) / f64::from(count);
    report(Workload::IkeSaInit, customers, Unit::Milliseconds, &[each(requests)])?;
    report(Workload::IkeAuth, customers, Unit::Milliseconds, &[each(whole.saturating_sub(requests))])
}

/// Connects all sites, as after a reboot of the gateway.
fn all_at_once(gateway: &mut Gateway, sites: &mut Sites, tunnels: u32) -> Result<()> {
    let before = (cpu_time(gateway.daemon_pid())?, cpu_time(gateway.charon_pid())?);
    let begun = Instant::now();
    sites.connect(1..=tunnels)?;
    gateway.wait_for_bindings(tunnels)?;
    let lasted = begun.elapsed();
    let after = (cpu_time(gateway.daemon_pid())?, cpu_time(gateway.charon_pid())?);
    let (daemon, charon) = (after.0 - before.0, after.1 - before.1);
    eprintln!("  gatewayd took {daemon:.2?} of CPU time, charon {charon:.2?}");
    report(Workload::AllConnect, tunnels, Unit::Milliseconds, &[milliseconds(lasted)])?;
    let share = daemon.as_secs_f64() / charon.as_secs_f64();
    report(Workload::DaemonShare, tunnels, Unit::Ratio, &[share])
}

/// Reports the time from an event to the map entry.
fn events(gateway: &Gateway, sites: &mut Sites, tunnels: u32, quick: bool) -> Result<()> {
    let count = if quick { 300 } else { 2000 };
    let mut delays = events::measure(gateway, sites, count)?;
    ensure!(delays.len() >= 100, "only {} events came", delays.len());
    delays.sort();
    let at = |share: usize| milliseconds(delays[delays.len() * share / 100]);
    eprintln!("  events: median {:.2} ms, p90 {:.2} ms, p99 {:.2} ms", at(50), at(90), at(99));
    report(Workload::EventToEntry, tunnels, Unit::Milliseconds, &[at(99)])
}

fn report(workload: Workload, customers: u32, unit: Unit, rounds: &[f64]) -> Result<()> {
    let (low, high) = extremes(rounds);
    let measured = Measured { value: median(rounds), low, high, rounds: rounds.len() as u32 };
    Figure::without_packets(Contender::Redirect, workload, customers, unit, measured).report()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
