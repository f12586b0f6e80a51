//! Looks into a gateway, and takes it down. Reads the pinned maps, so it works while gatewayd is dead.
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

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
use gateway_common::{layout::Ticks, reason::Reason, tcp::State};
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
        Command::Status => status(arguments),
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

fn status(arguments: &Arguments) -> Result<()> {
    let status = Status::read(&arguments.state).context("gatewayd has not run here")?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let alive = std::path::Path::new(&format!("/proc/{}/comm", status.pid))
        .exists()
        .then(|| std::fs::read_to_string(format!("/proc/{}/comm", status.pid)).unwrap_or_default())
        .is_some_and(|name| name.trim() == "gatewayd");
    println!(
        "gatewayd  {}",
        if alive { format!("running, pid {}", status.pid) } else { "not running".into() }
    );
    println!("charon    {}", status.charon.as_deref().unwrap_or("not connected"));
    println!("XDP       {}", status.xdp);
    let mut table = table(["tunnel", "customer", "site", "state", "peer", "cipher"]);
    for tunnel in &status.tunnels {
        let cipher = tunnel.cipher.clone().unwrap_or_default();
        table.add_row([
            tunnel.id.to_string(),
            tunnel.customer.clone(),
            tunnel.site.clone(),
            if tunnel.up { "up" } else { "down" }.to_owned(),
            tunnel.peer.clone().unwrap_or_default(),
            if tunnel.encapsulated { format!("{cipher} in UDP") } else { cipher },
        ]);
    }
    println!("{table}");
    for (what, lines) in
        [("stranger", &status.strangers), ("policy fault", &status.faults), ("failed", &status.failed)]
    {
        for line in lines {
            println!("{what}: {line}");
        }
    }
    Ok(())
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
    let names = Names::read(arguments)?;
    let now = Ticks::from_ns(monotonic_ns());
    let mut list = Vec::new();
    let mut table = table(["customer", "tunnel", "device", "server port", "state", "ends in", "packets"]);
    for flow in maps.flows() {
        let (key, flow) = flow?;
        let state = State::from_number(flow.state).map_or("?", State::name);
        let left_seconds = flow.expires.since(now).as_ns() / 1_000_000_000;
        if arguments.json {
            list.push(json!({
                "customer": names.customer(key.customer), "tunnel": flow.tunnel,
                "lan_address": std::net::Ipv4Addr::from(key.lan_address), "lan_port": key.lan_port,
                "server_port": key.server_port, "state": state, "ends_in_seconds": left_seconds,
                "packets": flow.packets, "generation": flow.generation,
            }));
            continue;
        }
        table.add_row([
            names.customer(key.customer).unwrap_or_default(),
            flow.tunnel.to_string(),
            format!("{:?}:{}", key.lan_address, key.lan_port),
            key.server_port.to_string(),
            state.to_owned(),
            format!("{left_seconds} s"),
            format!("{} / {}", flow.packets[0], flow.packets[1]),
        ]);
    }
    print(arguments, &list, &table)
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
