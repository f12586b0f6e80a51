//! Nothing is forwarded while programs are missing: detached again and again beside a gatewayd that starts, or with
//! interfaces made anew while gatewayd is dead. Every test has its own network namespace.
mod place;

use std::{
    env, fs,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use etherparse::PacketBuilder;
use gateway::kernel::{interface, pins::Pins};
use gateway_common::layout::Hook;
use gateway_tests_kit::{
    process::{Process, ip},
    raw::{self, Receives},
};
use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        socket::{MsgFlags, recv},
    },
};
use place::{Place, Test};

/// Rounds of detaching, unless the environment asks for others.
const ROUNDS: u32 = 20;
const ROUNDS_VARIABLE: &str = "GATEWAY_DETACH_ROUNDS";
/// Time that a packet needs at most.
const ARRIVAL: Duration = Duration::from_millis(300);
const FORWARDING4: &str = "/proc/sys/net/ipv4/conf/lan/forwarding";
/// The MAC address of whoever receives what is forwarded.
const ROUTER: &str = "52:54:00:00:00:09";
const PORT: u16 = 7777;

fn main() -> std::process::ExitCode {
    let tests: [(&str, Test); 2] = [
        ("detach_leaves_no_moment_with_forwarding_and_without_programs", detach_again_and_again),
        ("interfaces_made_anew_while_gatewayd_is_dead_forward_nothing", interfaces_made_anew),
    ];
    place::run(tests, &[])
}

/// gatewayd starts, and is detached at any time from then on. Somebody watches all the while.
fn detach_again_and_again(place: &Place) -> Result<()> {
    let rounds = env::var(ROUNDS_VARIABLE).ok().map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let begun = Instant::now();
    place.start()?.kill()?;
    let start = begun.elapsed();
    let (pins, stop) = (place.pins(), AtomicBool::new(false));
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&pins, &stop));
        let done = (0..rounds).try_for_each(|round| detach_once(place, round, start));
        stop.store(true, Relaxed);
        let seen = watching.join().map_err(|_| anyhow!("the watcher panicked"))??;
        println!("{rounds} rounds, {} of {} looks found forwarding on", seen.forwarding, seen.looks);
        ensure!(seen.open == 0, "{} looks found forwarding on and programs off", seen.open);
        ensure!(seen.forwarding > 0, "gatewayd never turned forwarding on");
        done
    })
}

/// Detaches before, while or after gatewayd attaches, or while it runs. `start` is the time that its start takes.
fn detach_once(place: &Place, round: u32, start: Duration) -> Result<()> {
    place.pins().prepare()?;
    let mut daemon = Process::start(place.gatewayd("state"), &place.path("log"))?;
    // Golden ratio: spread, whatever the number of rounds.
    let share = (f64::from(round) * 0.618_034).fract();
    thread::sleep(start.mul_f64(1.6 * share));
    let detached = place.gatewayctl("detach")?;
    ensure!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    if round.is_multiple_of(2) {
        thread::sleep(Duration::from_millis(100));
        daemon.signal(Signal::SIGHUP)?;
        thread::sleep(Duration::from_millis(100));
    }
    daemon.kill()?;
    let on = fs::read_to_string(FORWARDING4)?.trim() == "1";
    ensure!(!on || are_attached(&place.pins()), "round {round} leaves forwarding on and programs off");
    ensure!(place.gatewayctl("detach")?.status.success());
    ensure!(fs::read_to_string(FORWARDING4)?.trim() == "0", "round {round} leaves forwarding on");
    Ok(())
}

/// Numbers of looks.
#[derive(Default)]
struct Seen {
    looks: u64,
    forwarding: u64,
    open: u64,
}

/// Looks at forwarding and programs as often as possible.
fn watch(pins: &Pins, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    while !stop.load(Relaxed) {
        let on = || -> Result<bool> { Ok(fs::read_to_string(FORWARDING4)?.trim() == "1") };
        let before = on()?;
        let attached = are_attached(pins);
        // Both before and after, or the programs may have gone after forwarding.
        let forwarding = before && on()?;
        seen.looks += 1;
        seen.forwarding += u64::from(forwarding);
        seen.open += u64::from(forwarding && !attached);
        thread::sleep(Duration::from_micros(50));
    }
    Ok(seen)
}

fn are_attached(pins: &Pins) -> bool {
    Hook::ALL.iter().all(|hook| pins.link(*hook).exists())
}

/// The kernel takes programs and settings away with an interface. Nobody is there to attach them again.
fn interfaces_made_anew(place: &Place) -> Result<()> {
    if !Path::new("/proc/sys/net/ipv6/conf/lan/force_forwarding").exists() {
        println!("SKIPPED: IPv6 has one switch for all interfaces before Linux 6.17");
        return Ok(());
    }
    // The host forwards by default, as one with containers does.
    fs::write("/proc/sys/net/ipv4/conf/default/forwarding", "1")?;
    let acme = "server = [\"10.200.0.11\", \"fd00:200::11\"]\n[[site]]\nname = \"berlin\"\n\
                identity = \"berlin.acme.example\"\nlan = [\"192.168.0.0/16\", \"fd00:1::/64\"]\n";
    fs::write(place.path("policies/customers/acme.toml"), acme)?;
    let gateway = fs::read_to_string(place.path("policies/gateway.toml"))?;
    let both = gateway.replace("\"10.200.0.0/24\"", "[\"10.200.0.0/24\", \"fd00:200::/64\"]");
    fs::write(place.path("policies/gateway.toml"), both)?;
    address()?;
    let mut daemon = place.start()?;
    ensure!(interface::forwarding("lan")? && interface::is_forwarding6("lan", true)?, "nothing is forwarded");
    ensure!(fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding")?.trim() == "0");
    daemon.kill()?;
    for name in ["internet", "lan"] {
        ip(&format!("link del {name}"))?;
        ip(&format!("link add {name} type veth peer name {name}_peer"))?;
    }
    address()?;
    ensure!(arrives()? == [false, false], "a packet was forwarded");
    // The packets are such that a kernel which forwards would let them arrive.
    interface::set_forwarding("lan", true)?;
    interface::set_forwarding6("lan", true)?;
    ensure!(arrives()? == [true, true], "the packets arrive at nobody");
    Ok(())
}

/// Gives both interfaces addresses, and the gateway a router that takes everything.
fn address() -> Result<()> {
    for (name, v4, v6) in
        [("internet", "203.0.113.1/24", "2001:db8::1/64"), ("lan", "10.200.0.1/24", "fd00:200::1/64")]
    {
        ip(&format!("addr replace {v4} dev {name}"))?;
        ip(&format!("-6 addr replace {v6} dev {name} nodad"))?;
        ip(&format!("link set {name} up"))?;
        ip(&format!("link set {name}_peer up"))?;
    }
    for (family, router) in [("-4", "203.0.113.9"), ("-6", "2001:db8::9")] {
        ip(&format!("{family} neigh replace {router} lladdr {ROUTER} dev internet nud permanent"))?;
        ip(&format!("{family} route replace default via {router} dev internet"))?;
    }
    Ok(())
}

/// Sends a packet of each family from a server to a device, and returns for each whether it comes out.
fn arrives() -> Result<[bool; 2]> {
    let (sender, receiver) =
        (raw::sender("lan_peer", 0)?, raw::socket("internet_peer", Receives::Everything)?);
    let (from, to) = (raw::mac_of("lan_peer")?, raw::mac_of("lan")?);
    let link = || PacketBuilder::ethernet2(from, to);
    let v4 = link().ipv4([10, 200, 0, 11], [192, 168, 0, 5], 64).udp(PORT, PORT);
    let (server, device) =
        ("fd00:200::11".parse::<std::net::Ipv6Addr>()?, "fd00:1::5".parse::<std::net::Ipv6Addr>()?);
    let v6 = link().ipv6(server.octets(), device.octets(), 64).udp(PORT, PORT);
    let mut arrived = [false; 2];
    for (packet, arrived) in [v4, v6].into_iter().zip(&mut arrived) {
        let mut frame = Vec::new();
        packet.write(&mut frame, &[0; 8])?;
        raw::put(&sender, &frame)?;
        *arrived = comes_out(&receiver)?;
    }
    Ok(arrived)
}

/// Waits for the packet.
fn comes_out(receiver: &OwnedFd) -> Result<bool> {
    let begun = Instant::now();
    let mut frame = [0; 256];
    while begun.elapsed() < ARRIVAL {
        match recv(receiver.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                let ports = [PORT.to_be_bytes(), PORT.to_be_bytes()].concat();
                if frame[..length].windows(4).any(|bytes| bytes == ports) {
                    return Ok(true);
                }
            }
            Err(Errno::EAGAIN) => thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
