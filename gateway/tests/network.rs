//! Interfaces and path MTUs as the kernel reports them. Every test has its own network namespace.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use etherparse::{Icmpv4Type, PacketBuilder};
use gateway::kernel::{
    interface::Interface,
    network::Network,
    paths::Paths,
    xfrm::{Known, remove_unknown},
};
use gateway_tests_kit::{process::ip, raw};
use libtest_mimic::{Arguments, Trial};
use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

/// Time limit of a wait, far above what the kernel needs.
const PATIENCE: Duration = Duration::from_secs(5);

type Test = fn() -> Result<()>;

fn main() -> std::process::ExitCode {
    let tests: [(&str, Test); 4] = [
        ("interface_has_mtu_and_addresses_of_both_families", interface_is_read),
        ("path_mtus_are_those_of_the_kernel", || run(async |_| path_mtus_are_followed().await)),
        ("ipsec_policies_that_charon_does_not_know_are_removed", unknown_policies_are_removed),
        ("changes_of_links_and_addresses_are_reported_at_once", || run(changes_are_reported)),
    ];
    let missing = !nix::unistd::geteuid().is_root();
    if missing {
        eprintln!("SKIPPED: all tests need root, for network namespaces");
    }
    let trials = tests.map(|(name, test)| {
        let test = move || in_namespace(test).map_err(|error| format!("{error:#}").into());
        Trial::test(name, test).with_ignored_flag(missing)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// Runs the test in a thread with its own network namespace, which has one link with a peer.
///
/// The setup leaves the kernel no reason to change anything during the test: it assigns no link-local
/// address (addrgenmode), and it has handled the carrier, which it does in a work queue
/// (net/core/link_watch.c).
fn in_namespace(test: Test) -> Result<()> {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
        ip("link add outside mtu 1400 type veth peer name e0")?;
        for link in ["outside", "e0"] {
            ip(&format!("link set {link} addrgenmode none up"))?;
        }
        ip("addr add 203.0.113.1/24 dev outside")?;
        ip("addr add 2001:db8::1/64 dev outside nodad")?;
        ip("addr add fe80::1/64 dev outside nodad")?;
        wait_for_carriers()?;
        test()
    });
    thread.join().map_err(|_| anyhow!("the test panicked"))?
}

fn wait_for_carriers() -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let links = Command::new("ip").args(["-br", "link", "show", "up"]).output()?.stdout;
        let links = String::from_utf8(links)?;
        if links.lines().count() == 2 && links.lines().all(|link| link.contains(" UP ")) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the links are not up:\n{links}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn run(test: impl AsyncFnOnce(Network) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { test(Network::open()?).await })
}

fn interface_is_read() -> Result<()> {
    let interface = Interface::look("outside")?;
    ensure!(interface.mtu == 1400 && interface.index != 0, "{interface:?}");
    ensure!(interface.v4 == ["203.0.113.1".parse::<Ipv4Addr>()?], "{interface:?}");
    let addresses: [Ipv6Addr; 2] = ["2001:db8::1".parse()?, "fe80::1".parse()?];
    ensure!(interface.v6 == addresses && interface.is_routable(), "{interface:?}");
    ip("addr del 203.0.113.1/24 dev outside")?;
    ip("addr del 2001:db8::1/64 dev outside")?;
    ensure!(!Interface::look("outside")?.is_routable());
    ensure!(Interface::look("nothing").is_err());
    Ok(())
}

/// A policy of each kind: with a mark that charon knows, with another one, without a mark, and one that exempts traffic
/// from IPsec. SAs need ESP in the kernel: the lab removes them.
fn unknown_policies_are_removed() -> Result<()> {
    let template = "tmpl src 203.0.113.1 dst 203.0.113.2 proto esp reqid 1 mode tunnel";
    for (mark, direction, rest) in [
        ("mark 7 mask 0xffffffff", "out", template),
        ("mark 8 mask 0xffffffff", "out", template),
        ("mark 8 mask 0xffffffff", "in", template),
        ("", "fwd", template),
        ("", "in", "priority 5"),
    ] {
        ip(&format!("xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir {direction} {mark} {rest}"))?;
    }
    ip(&format!(
        "xfrm policy add src fd00:1::/64 dst fd00:2::/64 dir out mark 9 mask 0xffffffff {template}"
    ))?;
    let known = Known { marks: [7].into(), ..Known::default() };
    ensure!(remove_unknown(&known)? == (0, 4));
    let left = Command::new("ip").args(["xfrm", "policy"]).output()?.stdout;
    let left = String::from_utf8(left)?;
    ensure!(left.matches("src 10.0.0.0/8").count() == 2 && left.contains("mark 0x7/"), "{left}");
    ensure!(remove_unknown(&Known::default())? == (0, 1));
    ensure!(remove_unknown(&Known::default())? == (0, 0));
    Ok(())
}

/// MTUs that are set on routes, and those that a router announces to this host: `ip route` shows the latter only with
/// `cache`.
async fn path_mtus_are_followed() -> Result<()> {
    ip("route add 198.51.100.0/24 via 203.0.113.2 mtu 1350")?;
    ip("route add 198.51.101.0/24 via 203.0.113.2")?;
    ip("-6 route add 2001:db8:7::/48 via 2001:db8::2 mtu 1300")?;
    ip("-6 route add 2001:db8:8::/48 via 2001:db8::2")?;
    let peers = ["198.51.100.5", "198.51.101.5", "192.0.2.1", "2001:db8:7::5", "2001:db9::1"];
    let peers = peers.map(|peer| peer.parse::<IpAddr>());
    let mut paths = Paths::follow()?;
    paths.set_peers(peers.into_iter().collect::<Result<_, _>>()?);
    let learnt = timeout(PATIENCE, paths.changed()).await?;
    let expected = [("198.51.100.5".parse()?, 1350), ("2001:db8:7::5".parse()?, 1300)];
    ensure!(learnt == expected.into(), "{learnt:?}");
    announce("198.51.101.5".parse()?, 1200)?;
    let learnt = timeout(2 * PATIENCE, paths.changed()).await?;
    ensure!(learnt.get(&"198.51.101.5".parse()?) == Some(&1200), "{learnt:?}");
    paths.set_peers([].into());
    let learnt = timeout(PATIENCE, paths.changed()).await?;
    ensure!(learnt.is_empty(), "{learnt:?}");
    Ok(())
}

/// Announces a path MTU to a destination, as the router 203.0.113.2: sends this host "fragmentation needed" (RFC 1191)
/// about a UDP packet of a socket of its own.
fn announce(destination: Ipv4Addr, mtu_bytes: u16) -> Result<()> {
    let (host, router) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
    let socket = UdpSocket::bind((host, 5000))?;
    socket.connect((destination, 6000))?;
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(host.octets(), destination.octets(), 64)
        .udp(5000, 6000)
        .write(&mut quoted, &[0; 8])?;
    let [high, low] = mtu_bytes.to_be_bytes();
    let needed = Icmpv4Type::Unknown { type_u8: 3, code_u8: 4, bytes5to8: [0, 0, high, low] };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(raw::mac_of("e0")?, raw::mac_of("outside")?)
        .ipv4(router.octets(), host.octets(), 64)
        .icmpv4(needed)
        .write(&mut frame, &quoted)?;
    raw::put(&raw::sender("e0", 0)?, &frame)
}

async fn changes_are_reported(mut network: Network) -> Result<()> {
    let changes = [
        "link set outside mtu 1300",
        "addr add 203.0.113.7/24 dev outside",
        "addr add 2001:db8::7/64 dev outside nodad",
        "addr del 203.0.113.7/24 dev outside",
        "link del outside",
    ];
    for change in changes {
        // Consume earlier changes.
        while timeout(Duration::from_millis(200), network.changed()).await.is_ok() {}
        ip(change)?;
        timeout(PATIENCE, network.changed())
            .await
            .with_context(|| format!("no change reported after `ip {change}`"))?;
    }
    Ok(())
}
