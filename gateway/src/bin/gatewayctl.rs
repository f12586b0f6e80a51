//! Looks into a gateway, and takes it down. Reads the pinned maps, so it works while gatewayd is dead.
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets::NOTHING};
use gateway::{
    control::status::Status,
    kernel::{
        clock::monotonic_ns,
        interface,
        maps::{Counted, Maps},
        pins::{DEFAULT_DIRECTORY, Pins},
    },
    registry::{Assignment, Registry},
};
use gateway_common::{
    family::Family,
    layout::{Quota, Usage},
    reason::Reason,
    tcp::{Flow, FlowKey, State, status},
    time::Ticks,
    wire::{Ipv4, Ipv6},
};
use serde_json::json;

/// Looks into a gateway: tunnels, flows, and why packets were dropped.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// gatewayd's folder of pinned links and maps
    #[arg(long, global = true, value_name = "DIR", env = "GATEWAY_PIN", default_value = DEFAULT_DIRECTORY)]
    pin: PathBuf,
    /// gatewayd's state folder
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "GATEWAY_STATE",
        default_value = "/var/lib/gateway"
    )]
    state: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Is it well? Daemon, charon, faults and tunnels
    Status,
    /// Packets dropped for each customer, and why; `-` is for packets that are nobody's
    Drops,
    /// Packets passed and connections opened for each customer
    Counters,
    /// Connections
    Flows,
    /// All reasons for dropping a packet, with their numbers and meanings
    Reasons,
    /// Stop forwarding, detach all programs and forget all flows
    Detach,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let pins = Pins::new(&arguments.pin);
    match arguments.command {
        Command::Status => show_status(arguments, &pins),
        Command::Drops => drops(arguments, &Maps::open(&pins)?),
        Command::Counters => counters(arguments, &Maps::open(&pins)?),
        Command::Flows => flows(arguments, &Maps::open(&pins)?),
        Command::Reasons => {
            reasons(arguments.json);
            Ok(())
        }
        Command::Detach => detach(&pins),
    }
}

fn show_status(arguments: &Arguments, pins: &Pins) -> Result<()> {
    let status = Status::read(&arguments.state).context("gatewayd has not run here")?;
    let tables = Maps::open(pins).and_then(|maps| Tables::read(arguments, &maps));
    if arguments.json {
        let mut object = serde_json::to_value(&status)?;
        match &tables {
            Ok(tables) => {
                object["customers"] = tables.usage.iter().map(CustomerUsage::json).collect();
                object["expiry_silent_seconds"] = tables.expiry_silent_seconds.into();
            }
            Err(error) => object["tables"] = format!("{error:#}").into(),
        }
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", status.pid)).unwrap_or_default();
    let alive = comm.trim() == "gatewayd";
    println!(
        "gatewayd  {}",
        if alive { format!("running, pid {}", status.pid) } else { "not running".into() }
    );
    println!("charon    {}", status.charon.as_deref().unwrap_or("not connected"));
    println!("XDP       {}", status.xdp);
    println!("{}", tunnels(&status));
    match &tables {
        Ok(tables) => println!("{tables}"),
        Err(error) => println!("tables: {error:#}"),
    }
    for (what, lines) in
        [("stranger", &status.strangers), ("policy fault", &status.faults), ("failed", &status.failed)]
    {
        for line in lines {
            println!("{what}: {line}");
        }
    }
    Ok(())
}

fn tunnels(status: &Status) -> Table {
    let mut table = table(["tunnel", "customer", "site", "state", "peer", "cipher", "MSS"]);
    for tunnel in &status.tunnels {
        let cipher = tunnel.cipher.clone().unwrap_or_default();
        let (v4, v6) = tunnel.mss;
        table.add_row([
            tunnel.id.to_string(),
            tunnel.customer.clone(),
            tunnel.site.clone(),
            if tunnel.up { "up" } else { "down" }.to_owned(),
            tunnel.peer.clone().unwrap_or_default(),
            if tunnel.encapsulated { format!("{cipher} in UDP") } else { cipher },
            format!("{v4} / {v6}"),
        ]);
    }
    table
}

/// How full the flow tables are, and whether what empties them runs.
struct Tables {
    usage: Vec<CustomerUsage>,
    expiry_silent_seconds: u64,
}

/// What one customer has taken of its quota.
struct CustomerUsage {
    customer: String,
    usage: Usage,
    quota: Quota,
}

impl Tables {
    /// The timer runs about once a second.
    const EXPIRY_LATE_SECONDS: u64 = 10;

    fn read(arguments: &Arguments, maps: &Maps) -> Result<Self> {
        let names = Names::read(arguments)?;
        // The same in each of a customer's tunnels.
        let quotas: BTreeMap<u32, Quota> =
            maps.tunnels()?.values().map(|tunnel| (tunnel.customer, tunnel.quota)).collect();
        let usage = quotas.into_iter().map(|(number, quota)| {
            let customer = names.customer(number).unwrap_or_default();
            Ok(CustomerUsage { customer, usage: maps.usage(number)?, quota })
        });
        let now = Ticks::from_ns(monotonic_ns());
        let silent = now.since(maps.expiry()?.ran);
        Ok(Self {
            usage: usage.collect::<Result<_>>()?,
            expiry_silent_seconds: silent.as_ns() / 1_000_000_000,
        })
    }
}

impl CustomerUsage {
    fn json(&self) -> serde_json::Value {
        json!({
            "customer": self.customer,
            "flows": self.usage.flows, "max_flows": self.quota.flows,
            "half_open": self.usage.half_open, "max_half_open": self.quota.half_open,
        })
    }
}

impl std::fmt::Display for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = table(["customer", "flows", "half-open"]);
        for CustomerUsage { customer, usage, quota } in &self.usage {
            table.add_row([
                customer.clone(),
                format!("{} of {}", usage.flows, quota.flows),
                format!("{} of {}", usage.half_open, quota.half_open),
            ]);
        }
        write!(f, "{table}")?;
        let silent = self.expiry_silent_seconds;
        if silent > Self::EXPIRY_LATE_SECONDS {
            write!(
                f,
                "\nwarning: no flow that has ended was removed for {silent} s, so the tables fill: restart gatewayd"
            )?;
        }
        Ok(())
    }
}

fn drops(arguments: &Arguments, maps: &Maps) -> Result<()> {
    let mut list = Vec::new();
    let mut table = table(["customer", "reason", "packets", "meaning"]);
    for (customer, counted) in counted(arguments, maps)? {
        for (reason, packets) in &counted.dropped {
            list.push(json!({ "customer": customer, "reason": reason.name(), "packets": packets }));
            let customer = customer.as_deref().unwrap_or(NOBODY);
            table.add_row([customer, reason.name(), &packets.to_string(), reason.sentence()]);
        }
    }
    print(arguments, &list, &table)
}

fn counters(arguments: &Arguments, maps: &Maps) -> Result<()> {
    let mut list = Vec::new();
    let mut table = table(["customer", "to server", "to sites", "opened", "unknown SPI", "events lost"]);
    for (customer, counted) in counted(arguments, maps)? {
        let [to_server, to_sites] = counted.passed;
        let [bytes_to_server, bytes_to_sites] = counted.passed_bytes;
        list.push(json!({
            "customer": customer, "to_server": to_server, "to_sites": to_sites,
            "bytes_to_server": bytes_to_server, "bytes_to_sites": bytes_to_sites, "opened": counted.opened,
            "unknown_spi": counted.unknown_spi, "events_lost": counted.events_lost,
        }));
        let numbers = [to_server, to_sites, counted.opened, counted.unknown_spi, counted.events_lost];
        let customer = customer.as_deref().unwrap_or(NOBODY).to_owned();
        table.add_row([customer].into_iter().chain(numbers.map(|number| number.to_string())));
    }
    print(arguments, &list, &table)
}

/// What is shown for packets that could not be attributed to a customer.
const NOBODY: &str = "-";

/// Customers for whom anything was counted.
fn counted(arguments: &Arguments, maps: &Maps) -> Result<Vec<(Option<String>, Counted)>> {
    let names = Names::read(arguments)?;
    let all = (0..=maps.customer_limit()).map(|number| Ok((names.customer(number), maps.counted(number)?)));
    all.filter(|row| !matches!(row, Ok((_, counted)) if *counted == Counted::default())).collect()
}

fn print(arguments: &Arguments, list: &[serde_json::Value], table: &Table) -> Result<()> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(list)?);
    } else {
        println!("{table}");
    }
    Ok(())
}

fn flows(arguments: &Arguments, maps: &Maps) -> Result<()> {
    let mut list = FlowList {
        names: Names::read(arguments)?,
        generations: maps.tunnels()?.into_iter().map(|(id, tunnel)| (id.get(), tunnel.generation)).collect(),
        now: Ticks::from_ns(monotonic_ns()),
        rows: Vec::new(),
        table: table(["customer", "tunnel", "device", "state", "ends in", "handshake"]),
    };
    maps.flows::<Ipv4>().try_for_each(|flow| flow.map(|(key, flow)| list.add(&key, &flow)))?;
    maps.flows::<Ipv6>().try_for_each(|flow| flow.map(|(key, flow)| list.add(&key, &flow)))?;
    print(arguments, &list.rows, &list.table)
}

/// Flows of both families, on their way to be printed.
struct FlowList {
    names: Names,
    /// Of tunnels.
    generations: BTreeMap<u32, u16>,
    now: Ticks,
    rows: Vec<serde_json::Value>,
    table: Table,
}

impl FlowList {
    fn add<A: Family>(&mut self, key: &FlowKey<A>, flow: &Flow) {
        let state = State::from_number(flow.state()).map_or("ending", State::name);
        let device = SocketAddr::new(key.lan_address.mapped().into(), key.lan_port);
        let customer = self.names.customer(key.customer);
        let left_seconds = flow.expires.since(self.now).as_ns() / 1_000_000_000;
        let of_this_policy = self.generations.get(&flow.tunnel) == Some(&flow.generation);
        let over = flow.is_over(self.now) || !of_this_policy;
        let handshake = match (flow.has(status::HALF_OPEN), flow.has(status::ASSURED)) {
            (true, _) => "half-open",
            (false, true) => "complete",
            (false, false) => "not seen",
        };
        self.table.add_row([
            customer.clone().unwrap_or_default(),
            flow.tunnel.to_string(),
            device.to_string(),
            state.to_owned(),
            if over { "over".to_owned() } else { format!("{left_seconds} s") },
            handshake.to_owned(),
        ]);
        self.rows.push(json!({
            "customer": customer, "tunnel": flow.tunnel,
            "lan_address": device.ip(), "lan_port": key.lan_port,
            "state": state, "over": over, "ends_in_seconds": left_seconds, "handshake": handshake,
            "generation": flow.generation, "retransmissions": flow.retransmissions(),
        }));
    }
}

fn reasons(as_json: bool) {
    if as_json {
        let list: Vec<_> = Reason::ALL
            .iter()
            .map(|r| json!({"number": *r as u8, "name": r.name(), "meaning": r.sentence()}))
            .collect();
        println!("{}", json!(list));
        return;
    }
    let mut table = table(["number", "name", "meaning"]);
    for reason in Reason::ALL {
        table.add_row([(*reason as u8).to_string(), reason.name().to_owned(), reason.sentence().to_owned()]);
    }
    println!("{table}");
}

/// First what lets packets through, then what keeps them apart. It needs nothing but the names of
/// pins, so that it works whatever version pinned them.
fn detach(pins: &Pins) -> Result<()> {
    interface::stop_forwarding()?;
    pins.remove()?;
    println!("detached: nothing is forwarded any more");
    Ok(())
}

/// Names by customer number.
struct Names(BTreeMap<u32, String>);

impl Names {
    fn read(arguments: &Arguments) -> Result<Self> {
        let ids: Assignment = Registry::open(arguments.state.join("ids.toml"))?.assignment();
        Ok(Self(ids.iter().map(|(name, ids)| (ids.id.get(), name.to_string())).collect()))
    }

    /// None for 0, which is nobody.
    fn customer(&self, number: u32) -> Option<String> {
        match number {
            0 => None,
            _ => Some(self.0.get(&number).cloned().unwrap_or_else(|| format!("#{number}"))),
        }
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
}
