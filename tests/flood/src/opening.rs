//! The cost of opening flows and of visiting them for expiry, on one CPU and on two at once: SYNs of a customer for
//! each CPU, by BPF_PROG_TEST_RUN, each on its own CPU.
use std::{net::IpAddr, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{Program, SchedClassifier, TestRun as _, TestRunOptions},
};
use gateway::kernel::{
    maps::Maps,
    pins::Pins,
    programs::{self, Purpose, Sizes},
};
use gateway_common::{
    ids::TunnelId,
    layout::Hook,
    packet::flag,
    time::Ticks,
    wheel::{SLOTS, Wheel},
};
use gateway_tests_kit::{
    cpu,
    frame::{ETHERNET_BYTES, IPV4_BYTES},
    packet::{Ethernet, GATEWAY_MAC, Ip, Network, Packet, Tcp, Transport},
    test_run,
    world::{TUNNELS, World},
};

/// The tunnels of two customers.
const SITES: [usize; 2] = [0, 2];
/// Ports used on each device.
const PORTS: u32 = 60_000;
const FIRST_PORT: u16 = 1024;
/// Offset of the source port in a frame.
const SOURCE_PORT: usize = ETHERNET_BYTES + IPV4_BYTES;
/// Time at which the flows are opened.
const START: Ticks = Ticks { ticks: 1_000_000 };

/// The programs, with two customers and room for their flows.
struct Machine {
    pins: Pins,
    ebpf: Ebpf,
    clock: Array<MapData, u64>,
    maps: Maps,
}

/// Times of the work of one CPU.
#[derive(Default)]
struct Work {
    /// Time of a packet, by what happened to the packet.
    opened: Duration,
    known: Duration,
    /// Time of the runs that visited all flows, and of those that removed them.
    moved: Duration,
    removed: Duration,
}

/// Measures and prints. Always returns true: nothing is judged.
pub fn run(flows: u32) -> Result<bool> {
    test_run::own_network()?;
    println!("nanoseconds for each flow, {flows} flows on each CPU");
    for cpus in [1, 2] {
        let mut machine = Machine::load(flows, cpus)?;
        let works = machine.measure(flows, cpus)?;
        let each = |time: Duration| time.as_nanos() as f64 / f64::from(flows);
        for (cpu, work) in works.iter().enumerate() {
            println!(
                "{cpus} at once, CPU {cpu}: a SYN that opens {:.0}, one of a known flow {:.0}; visited and moved on {:.0}, \
                 removed {:.0}",
                each(work.opened),
                each(work.known),
                each(work.moved),
                each(work.removed)
            );
        }
        for (cpu, wheel) in machine.maps.wheels()?.iter().enumerate() {
            let Wheel { refilled, spilled, retried, looked_at, removed, .. } = wheel;
            println!(
                "  wheel {cpu}: {refilled} lists from the pool, {spilled} to it, {retried} retries; {looked_at} visits, \
                 {removed} removals"
            );
        }
    }
    Ok(true)
}

impl Machine {
    fn load(flows: u32, cpus: usize) -> Result<Self> {
        let pins = Pins::new(PathBuf::from("/run/gateway-flood/opening"));
        pins.prepare()?;
        let sizes = Sizes { tunnels: 8, customers: 8, flows: flows * cpus as u32, flows6: 1 };
        let mut ebpf = programs::load(&pins, sizes, Purpose::Replay)?;
        let clock = ebpf.take_map("REPLAY_CLOCK").context("the object has no map REPLAY_CLOCK")?;
        let mut maps = Maps::open(&pins)?;
        let world = World::usual();
        maps.set_settings(&world.settings)?;
        for (number, tunnel) in &world.tunnels {
            maps.set_tunnel(TunnelId::new(*number).context("tunnel 0")?, tunnel)?;
        }
        for (server, customer) in &world.customers {
            maps.set_customer(*server, customer)?;
        }
        Ok(Self { pins, ebpf, clock: Array::try_from(clock)?, maps })
    }

    /// Opens flows on all CPUs at once, sends the same packets again, and turns the wheels, first before the flows
    /// have ended, then after.
    fn measure(&mut self, flows: u32, cpus: usize) -> Result<Vec<Work>> {
        let mut works: Vec<Work> = (0..cpus).map(|_| Work::default()).collect();
        let after = |seconds| START.plus(Ticks::from_seconds(seconds));
        for (now, step) in [
            (START, Step::Turn),
            (START, Step::Open),
            (START, Step::OpenAgain),
            // A flow whose handshake is not complete ends after 120 s, and is moved on every 33 s.
            (after(40), Step::Turn),
            (after(200), Step::Turn),
        ] {
            self.clock.set(0, &now.as_ns(), 0)?;
            let classifier = |name| match self.ebpf.program(name) {
                Some(Program::SchedClassifier(program)) => Ok(program),
                _ => Err(anyhow!("the object has no TC program {name}")),
            };
            let (ingress, expiry) = (classifier(Hook::InternetIngress.name())?, classifier("expiry")?);
            let act = |cpu: usize| {
                cpu::on_cpu(cpu)?;
                match step {
                    Step::Turn => turn(expiry, cpu as u32, flows),
                    Step::Open | Step::OpenAgain => open(ingress, SITES[cpu], flows),
                }
            };
            let times: Vec<Duration> = thread::scope(|scope| {
                let running: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || act(cpu))).collect();
                let joined =
                    running.into_iter().map(|run| run.join().map_err(|_| anyhow!("a thread panicked"))?);
                joined.collect::<Result<_>>()
            })?;
            for (work, time) in works.iter_mut().zip(times) {
                *match (step, now) {
                    (Step::Open, _) => &mut work.opened,
                    (Step::OpenAgain, _) => &mut work.known,
                    (Step::Turn, now) if now == after(200) => &mut work.removed,
                    (Step::Turn, _) => &mut work.moved,
                } = time;
            }
        }
        Ok(works)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Any leftovers are in this process's own mount namespace.
        let _ = self.pins.remove();
    }
}

#[derive(Clone, Copy)]
enum Step {
    Open,
    OpenAgain,
    Turn,
}

/// Sends SYNs of this many connections of a site, and returns the time in the programs.
fn open(program: &SchedClassifier, site: usize, flows: u32) -> Result<Duration> {
    let site = &TUNNELS[site];
    let mut total = Duration::ZERO;
    for first in (0..flows).step_by(PORTS as usize) {
        let device = u32::from(site.lan.0) + 2 + first / PORTS;
        let mut frame = syn(device.into(), IpAddr::V4(site.owner().server))?;
        for port in 0..PORTS.min(flows - first) {
            let port = FIRST_PORT + port as u16;
            frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
            let (action, time) = run_once(program, &frame, [site.id, site.inbound_spi, site.id])?;
            // The first packet to a server asks for its MAC address; none is shot.
            ensure!(action != SHOT, "a SYN was dropped");
            total += time;
        }
    }
    Ok(total)
}

/// TC_ACT_SHOT, linux/pkt_cls.h.
const SHOT: u32 = 2;

fn syn(device: std::net::Ipv4Addr, server: IpAddr) -> Result<Vec<u8>> {
    let ip = Ip::new(IpAddr::V4(device), server);
    let tcp = Tcp::new([FIRST_PORT, 80], flag::SYN);
    Packet {
        ethernet: Ethernet::new([0x02, 0, 0, 0, 0, 1], GATEWAY_MAC),
        network: Network::Ip(ip, Transport::Tcp(tcp)),
        patches: Vec::new(),
        cut: None,
    }
    .frame()
}

/// Turns a CPU's wheel up to the current time, and returns the time in the program.
fn turn(program: &SchedClassifier, cpu: u32, flows: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    // Each run handles a slot, or a batch of one.
    for _ in 0..2 * SLOTS as u32 + flows / 1024 {
        let (action, time) = run_once(program, &[0; 64], [cpu, 0, 0])?;
        ensure!(action == 0, "the program expiry returned {}", action as i32);
        total += time;
    }
    Ok(total)
}

/// Runs a program once with `cb[0]`, `cb[1]` and the mark. Returns its result and its time.
fn run_once(
    program: &SchedClassifier,
    frame: &[u8],
    [first, second, mark]: [u32; 3],
) -> Result<(u32, Duration)> {
    // `struct __sk_buff`, linux/bpf.h: mark at 8, cb at 48.
    let mut context = [0; 192];
    for (at, value) in [(8, mark), (48, first), (52, second)] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = Some(&context);
    let result = program.test_run(options).context("test run")?;
    Ok((result.return_value, result.duration))
}
