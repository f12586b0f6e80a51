//! Kernel memory for each flow and each customer, beside that of nf_conntrack and the rulesets.
//!
//! The kernel accounts for this project's maps (`memlock` in a map's fdinfo), but not for rulesets and
//! connections. Their memory is the growth of all kernel objects (Slab, VmallocUsed and Percpu in
//! /proc/meminfo) while many flows or customers are added, exact to about one megabyte in tens.
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use gateway::kernel::{
    maps::{self, Maps},
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::{Mark, TunnelId},
    layout::{Customer, OutboundSpi},
    wire::Ipv6,
};
use gateway_tests_kit::{
    flow_memory,
    namespace::Namespace,
    process::{output, run_with_input},
};

use super::{
    conntrack,
    contender::{Contender, Setup},
    figure::{Figure, Measured, Unit},
    rules::{self, Ruleset},
    workload::Workload,
};

/// Connections opened in nf_conntrack.
const FLOWS: u32 = 400_000;
/// Destination ports used on each address.
const PORTS: u32 = 60_000;
/// Numbers of customers that the slope is taken between.
const CUSTOMERS: [u32; 2] = [10_000, 40_000];

/// Command-line choice of measurements.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// Ignored: the whole measurement takes seconds
    #[arg(long)]
    pub quick: bool,
}

/// Measures flows and customers and prints a figure for each measurement.
pub fn run(_: &Choices) -> Result<()> {
    let [ours, _] = flow_memory::measure().context("memory of our flow tables")?;
    report(Contender::Redirect, Workload::MemoryPerFlow, ours.per_flow())?;
    report(Contender::Nftables, Workload::MemoryPerFlow, conntrack_flow()?)?;
    for &contender in Contender::ALL.iter().filter(|contender| contender.row().memory) {
        let bytes = match contender.row().setup {
            Setup::Gateway(_) => slope(our_customers)?,
            Setup::Ruleset(ruleset) => slope(|customers| their_customers(ruleset, customers))?,
            Setup::DropAtIngress | Setup::Nothing | Setup::CallsOnly => bail!("{contender} has no customers"),
        };
        report(contender, Workload::MemoryPerCustomer, bytes)?;
    }
    Ok(())
}

/// Returns the bytes that each additional customer takes.
fn slope(bytes: impl Fn(u32) -> Result<f64>) -> Result<f64> {
    let [few, many] = CUSTOMERS;
    Ok((bytes(many)? - bytes(few)?) / f64::from(many - few))
}

/// Returns the bytes of one connection, including its share of the hash table at the kernel's default size.
fn conntrack_flow() -> Result<f64> {
    let buckets = number("/proc/sys/net/netfilter/nf_conntrack_buckets")?;
    let most = number("/proc/sys/net/netfilter/nf_conntrack_max")?;
    // struct hlist_nulls_head: a pointer.
    let share = 8.0 * buckets / most;
    let _table = conntrack::Table::with_room(FLOWS, false)?;
    let namespace = Namespace::create("memory", false)?;
    let lines = "link add out type veth peer name far\nlink set out arp off up\nlink set far up\n\
                 addr add 10.0.0.1/8 dev out\n";
    run_with_input(namespace.command("ip").args(["-batch", "-"]), lines)?;
    let tracked = "table ip bench {\n chain out {\n  type filter hook output priority 0;\n  \
                   ct state established accept\n }\n}\n";
    run_with_input(namespace.command("nft").args(["-f", "-"]), tracked)?;
    let (grown, opened) = namespace.enter(|| {
        let socket = UdpSocket::bind("10.0.0.1:0")?;
        let send = |from: u32, to: u32| -> Result<()> {
            for flow in from..to {
                let address = Ipv4Addr::from_bits(rules::SERVERS.0.to_bits() + 1 + flow / PORTS);
                let port = (1024 + flow % PORTS) as u16;
                socket.send_to(&[0; 10], SocketAddr::from((address, port))).context("send")?;
            }
            Ok(())
        };
        // One-time allocations happen during warm-up.
        let warm = FLOWS / 100;
        send(0, warm)?;
        let before = (kernel_bytes()?, number("/proc/sys/net/netfilter/nf_conntrack_count")?);
        send(warm, FLOWS)?;
        let opened = number("/proc/sys/net/netfilter/nf_conntrack_count")? - before.1;
        Ok((kernel_bytes()? - before.0, opened))
    })?;
    ensure!(opened > 0.9 * f64::from(FLOWS), "nf_conntrack tracked only {opened} of {FLOWS} connections");
    output(std::process::Command::new("ip").args(["netns", "del", namespace.name()]))?;
    eprintln!(
        "nf_conntrack: {opened} connections took {:.1} MiB, plus {share:.0} bytes each for {buckets} buckets",
        grown / 1_048_576.0
    );
    Ok(grown / opened + share)
}

/// Returns the bytes of all maps of this project for customers whose tunnels are up.
fn our_customers(customers: u32) -> Result<f64> {
    let pins = Pins::new(Path::new("/run/gateway-bench/memory"));
    pins.prepare()?;
    let sizes = Sizes { tunnels: customers, customers, flows: 1024, flows6: 1 };
    drop(programs::load(&pins, sizes, Purpose::Gateway)?);
    let mut maps = Maps::open(&pins)?;
    let ids = || (1..=customers).filter_map(TunnelId::new);
    let peer = |id: TunnelId| Ipv6::from(std::net::IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + id.get())));
    let servers: Vec<_> =
        ids().map(|id| (rules::server(id.get()).into(), Customer { id: id.get() })).collect();
    maps.set_customers(&servers)?;
    let marks = || (1..=customers).filter_map(Mark::new);
    maps.set_inbound_spis(&marks().map(|mark| (0xc000_0000 + mark.get(), mark)).collect::<Vec<_>>())?;
    let outbound =
        |(id, mark): (TunnelId, Mark)| (OutboundSpi { peer: peer(id), spi: 0xd000_0000 + id.get() }, mark);
    maps.set_outbound_spis(&ids().zip(marks()).map(outbound).collect::<Vec<_>>())?;
    ids().try_for_each(|id| maps.add_peer(peer(id)))?;
    let bytes = maps::memory_bytes(&pins)?;
    drop(maps);
    pins.remove()?;
    Ok(bytes as f64)
}

/// Returns the growth of the kernel's memory while a ruleset is loaded.
fn their_customers(ruleset: Ruleset, customers: u32) -> Result<f64> {
    let (loader, text) = (ruleset.loader(), ruleset.text(&rules::Policy::of(customers)));
    let namespace = Namespace::create(&format!("{}{customers}", loader.program), false)?;
    let before = kernel_bytes()?;
    run_with_input(namespace.command(loader.program).args(loader.arguments), &text)?;
    let grown = kernel_bytes()? - before;
    output(std::process::Command::new("ip").args(["netns", "del", namespace.name()]))?;
    Ok(grown)
}

/// Returns the memory of all kernel objects, in bytes.
fn kernel_bytes() -> Result<f64> {
    const KINDS: [&str; 3] = ["Slab:", "VmallocUsed:", "Percpu:"];
    // Wait until freed objects are really gone, which takes an RCU grace period.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kibibytes: f64 = text
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .filter(|(kind, _)| KINDS.contains(kind))
        .filter_map(|(_, value)| value.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .sum();
    ensure!(kibibytes > 0.0, "/proc/meminfo has none of {KINDS:?}");
    Ok(1024.0 * kibibytes)
}

fn number(path: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    text.trim().parse().with_context(|| format!("{path} does not hold a number"))
}

fn report(contender: Contender, workload: Workload, bytes: f64) -> Result<()> {
    let measured = Measured { value: bytes, low: bytes, high: bytes, rounds: 1 };
    Figure::without_packets(contender, workload, 1, Unit::Bytes, measured).report()
}
