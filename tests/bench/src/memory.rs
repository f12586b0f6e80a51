//! Kernel memory for each flow and each customer, beside nf_conntrack's and its rulesets'.
//!
//! Ours is what the kernel counts for our maps (`memlock` of a map's fdinfo). Of others the kernel keeps no
//! such account: theirs is by how much all of its memory for objects grows (Slab, VmallocUsed and Percpu of
//! /proc/meminfo) while many flows or customers come, which is exact to about a megabyte among tens.
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use gateway::kernel::{
    maps::{self, Maps},
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::TunnelId,
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
    figure::{Choice, Contender, Figure, Place, Unit, Workload},
    rules,
};

/// Connections of nf_conntrack that are opened.
const FLOWS: u32 = 400_000;
/// Destination ports that are used of each address.
const PORTS: u32 = 60_000;
/// Customers between which the slope is.
const CUSTOMERS: [u32; 2] = [10_000, 40_000];

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// Makes no difference: all of it takes seconds
    #[arg(long)]
    pub quick: bool,
}

/// Measures all of it, and prints a figure for each.
pub fn run(_: &Choices) -> Result<()> {
    let [ours, _] = flow_memory::measure().context("memory of our flow tables")?;
    report(Contender::Redirect, Workload::MemoryPerFlow, ours.per_flow())?;
    report(Contender::Nftables, Workload::MemoryPerFlow, conntrack_flow()?)?;
    report(Contender::Redirect, Workload::MemoryPerCustomer, slope(our_customers)?)?;
    for contender in [Contender::Nftables, Contender::IptablesLegacy, Contender::IptablesNft] {
        let bytes = slope(|customers| their_customers(contender, customers))?;
        report(contender, Workload::MemoryPerCustomer, bytes)?;
    }
    Ok(())
}

/// Bytes that each customer more takes.
fn slope(bytes: impl Fn(u32) -> Result<f64>) -> Result<f64> {
    let [few, many] = CUSTOMERS;
    Ok((bytes(many)? - bytes(few)?) / f64::from(many - few))
}

/// Of one connection, with its share of the hash table as the kernel sizes that by itself.
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
        // What is there once only comes first.
        let warm = FLOWS / 100;
        send(0, warm)?;
        let before = (kernel_bytes()?, number("/proc/sys/net/netfilter/nf_conntrack_count")?);
        send(warm, FLOWS)?;
        let opened = number("/proc/sys/net/netfilter/nf_conntrack_count")? - before.1;
        Ok((kernel_bytes()? - before.0, opened))
    })?;
    ensure!(opened > 0.9 * f64::from(FLOWS), "only {opened} connections were tracked");
    output(std::process::Command::new("ip").args(["netns", "del", namespace.name()]))?;
    eprintln!(
        "nf_conntrack: {opened} connections took {:.1} MiB; {share:.0} bytes more each for {buckets} buckets",
        grown / 1_048_576.0
    );
    Ok(grown / opened + share)
}

/// Of all our maps, with so many customers whose tunnels are up.
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
    maps.set_inbound_spis(&ids().map(|id| (0xc000_0000 + id.get(), id)).collect::<Vec<_>>())?;
    let outbound = |id: TunnelId| (OutboundSpi { peer: peer(id), spi: 0xd000_0000 + id.get() }, id);
    maps.set_outbound_spis(&ids().map(outbound).collect::<Vec<_>>())?;
    ids().try_for_each(|id| maps.add_peer(peer(id)))?;
    let bytes = maps::memory_bytes(&pins)?;
    drop(maps);
    pins.remove()?;
    Ok(bytes as f64)
}

/// By how much the kernel's memory grows with a contender's ruleset.
fn their_customers(contender: Contender, customers: u32) -> Result<f64> {
    let policy = rules::Policy::of(customers);
    let (program, arguments, text) = match contender {
        Contender::IptablesLegacy => ("iptables-legacy-restore", &[][..], rules::iptables(&policy)),
        Contender::IptablesNft => ("iptables-nft-restore", &[][..], rules::iptables(&policy)),
        _ => ("nft", &["-f", "-"][..], rules::nftables(contender, &policy).context("no ruleset")?),
    };
    let namespace = Namespace::create(&format!("{program}{customers}"), false)?;
    let before = kernel_bytes()?;
    run_with_input(namespace.command(program).args(arguments), &text)?;
    let grown = kernel_bytes()? - before;
    output(std::process::Command::new("ip").args(["netns", "del", namespace.name()]))?;
    Ok(grown)
}

/// What the kernel has taken for its objects, in bytes.
fn kernel_bytes() -> Result<f64> {
    const KINDS: [&str; 3] = ["Slab:", "VmallocUsed:", "Percpu:"];
    // What was freed and waits for its time, here a grace period of RCU, is not to count.
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
    text.trim().parse().with_context(|| format!("{path} is no number"))
}

fn report(contender: Contender, workload: Workload, bytes: f64) -> Result<()> {
    eprintln!("{contender:?}, {workload:?}: {bytes:.0} bytes");
    let figure = Figure {
        contender,
        workload,
        customers: 1,
        place: Place::Last,
        flows: 0,
        choice: Choice::Uniform,
        frame_bytes: 0,
        unit: Unit::Bytes,
        value: bytes,
        low: bytes,
        high: bytes,
        rounds: 1,
    };
    figure.write(&mut io::stdout())
}
