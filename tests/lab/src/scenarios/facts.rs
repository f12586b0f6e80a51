//! The facts of `docs/facts.md` that no other scenario shows: each fails if the fact were false. Most are
//! about the kernel alone and use a gateway without gatewayd.
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use ::gateway::{kernel::bulk::Bulk, strongswan::EventKind};
use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use gateway_tests_kit::{
    bpf::{Classifier, Counter, Driver, Way},
    process::output,
};
use nix::net::if_::if_nametoindex;

use super::tunnels::{Trigger, child_by_gateway, child_by_site, ike_by_site};
use crate::{
    bare_gateway::{BareGateway, DEVICE, Marks, SERVERS},
    frame::{Packet, ping, tcp},
    gateway::PINS,
    lab::Lab,
    scenario::Scenario,
    xfrm_monitor::{Change, Seen, XfrmMonitor},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "fact_generic_xdp_sees_inner_packets", run: |_| generic_xdp_sees_inner_packets() },
    Scenario {
        name: "fact_redirect_neigh_bypasses_forwarding",
        run: |_| redirect_neigh_bypasses_forwarding(),
    },
    Scenario { name: "fact_marks_separate_equal_lans", run: |_| marks_separate_equal_lans() },
    Scenario {
        name: "fact_iptables_rules_judge_packets_by_reqid",
        run: |_| iptables_rules_judge_packets_by_reqid(),
    },
    Scenario { name: "fact_order_of_rekey_events_at_responder", run: order_at_responder },
    Scenario { name: "fact_order_of_rekey_events_at_initiator", run: order_at_initiator },
    Scenario { name: "fact_ike_rekey_changes_nothing_in_the_kernel", run: ike_rekey_changes_nothing },
    Scenario { name: "fact_reauthentication_breaks_the_tunnel_first", run: reauthentication_breaks_first },
    Scenario { name: "fact_netns_exec_mounts_sys", run: netns_exec_mounts_sys },
    Scenario { name: "fact_batched_map_loading", run: batched_map_loading },
];

const ICMP: u8 = 1;
const ESP: u8 = 50;
/// Position of an IPv4 packet's TTL in its frame.
const TTL: usize = 14 + 8;
/// Time limit of a rekey.
const PATIENCE: Duration = Duration::from_secs(20);

fn generic_xdp_sees_inner_packets() -> Result<()> {
    BareGateway::with(|bare| {
        // Returns the packets of this protocol that a program sees while one ping arrives.
        let seen = |protocol, attach: fn(&Driver, &str) -> Result<_>| {
            let counter = Counter::new()?;
            let program = Driver::counting_pass(&counter, protocol)?;
            let link = bare.gateway.enter(|| attach(&program, "eth_internet"))?;
            ensure!(bare.ping(0)?.is_some(), "a ping did not arrive");
            drop(link);
            counter.get()
        };
        let native = [seen(ESP, Driver::attach)?, seen(ICMP, Driver::attach)?];
        ensure!(native == [1, 0], "native XDP saw (ESP, inner ICMP) {native:?} times");
        let generic = [seen(ESP, Driver::attach_generic)?, seen(ICMP, Driver::attach_generic)?];
        ensure!(generic == [1, 1], "generic XDP saw (ESP, inner ICMP) {generic:?} times");
        Ok(())
    })
}

fn redirect_neigh_bypasses_forwarding() -> Result<()> {
    BareGateway::with(|bare| {
        let routed = bare.ping(0)?.context("the kernel does not forward")?;
        let drop_all = "add table ip fact\n\
                        add chain ip fact forward { type filter hook forward priority 0; policy drop; }\n";
        output(bare.gateway.command("nft").arg(drop_all))?;
        ensure!(bare.ping(0)?.is_none(), "a ping passed a FORWARD chain that drops everything");

        let program =
            bare.gateway.enter(|| Classifier::redirecting_neigh(ICMP, if_nametoindex("eth_lan")?))?;
        let _link = bare.gateway.enter(|| program.attach("eth_internet", Way::Ingress))?;
        bare.ping(0)?.context("a ping did not pass a FORWARD chain that drops everything")?;
        bare.ip(&bare.gateway, "neigh flush all\n")?;
        let neighbours = output(bare.gateway.command("ip").args(["neigh", "show", "dev", "eth_lan"]))?;
        ensure!(neighbours.is_empty(), "the neighbour cache holds {neighbours}");
        bare.ping(0)?.context("a ping did not arrive with an empty neighbour cache")?;
        bare.gateway.set_sysctl("ipv4/conf/eth_internet/forwarding", "0")?;
        bare.ping(0)?.context("a ping did not arrive with forwarding off")?;
        for mark in 1..=SERVERS.len() {
            let policy = "src 192.168.0.0/16 dst 10.200.0.0/24 dir fwd";
            let delete = format!("xfrm policy delete {policy} mark {mark} mask 0xffffffff\n");
            bare.ip(&bare.gateway, &delete)?;
        }
        let redirected = bare.ping(0)?.context("a ping did not arrive without a forward policy")?;
        let ttls = [&routed, &redirected].map(|frame| frame.bytes[TTL]);
        ensure!(ttls == [63, 64], "(routed, redirected) TTLs are {ttls:?}");
        Ok(())
    })
}

fn marks_separate_equal_lans() -> Result<()> {
    BareGateway::with(|bare| {
        let answered = || -> Result<_> {
            let of = |site| bare.is_answered(site, ping(DEVICE, SERVERS[site]));
            Ok([of(0)?, of(1)?])
        };
        ensure!(answered()? == [true, true], "with marks not both tunnels work");
        bare.load_tunnels(Marks::Out)?;
        let arrive = [bare.ping(0)?.is_some(), bare.ping(1)?.is_some()];
        ensure!(arrive == [false, true], "with outbound marks alone, (older, newer) deliver: {arrive:?}");
        bare.load_tunnels(Marks::None)?;
        let both = answered()?;
        ensure!(both == [false, true], "without marks, (older, newer) work: {both:?}");
        Ok(())
    })
}

fn iptables_rules_judge_packets_by_reqid() -> Result<()> {
    BareGateway::with(|bare| {
        let iptables =
            |rule: &str| output(bare.gateway.command("iptables").args(rule.split_whitespace())).map(drop);
        // A closed port answers with RST.
        let syn = |site: usize, port| -> Packet { tcp((DEVICE, port), (SERVERS[site], 80), "S", b"") };
        iptables("-P FORWARD DROP")?;
        ensure!(bare.send(0, syn(0, 25_100))?.is_none(), "a SYN passed without a rule");
        iptables(
            "-A FORWARD -i eth_internet -o eth_lan -p tcp -s 192.168.0.0/16 -d 10.200.0.0/24 --dport 80 \
             -m conntrack --ctstate NEW,ESTABLISHED -m policy --dir in --pol ipsec --reqid 1 --proto esp -j ACCEPT",
        )?;
        ensure!(bare.send(0, syn(0, 25_101))?.is_some(), "tunnel 1's SYN did not pass the rule of tunnel 1");
        ensure!(bare.send(1, syn(1, 25_102))?.is_none(), "tunnel 2's SYN passed the rule of tunnel 1");
        ensure!(!bare.is_answered(0, syn(0, 25_103))?, "an answer passed without a rule");
        iptables(
            "-A FORWARD -i eth_lan -o eth_internet -p tcp -s 10.200.0.0/24 --sport 80 -d 192.168.0.0/16 \
             -m conntrack --ctstate ESTABLISHED -m policy --dir out --pol ipsec --reqid 1 --proto esp -j ACCEPT",
        )?;
        ensure!(bare.is_answered(0, syn(0, 25_104))?, "an answer did not pass the rule of tunnel 1");
        Ok(())
    })
}

/// A child rekey, with the SPIs of the old CHILD_SA and the new one.
struct Rekey {
    monitor: XfrmMonitor,
    old_in: u32,
    new: (u32, u32),
}

impl Rekey {
    /// Has `trigger` start a rekey of berlin's CHILD_SA and waits for VICI's event.
    fn run(lab: &Lab, trigger: Trigger) -> Result<Self> {
        let mut monitor = start(lab)?;
        trigger(lab, "berlin")?;
        let event = monitor.wait_for(EventKind::ChildRekey, PATIENCE)?;
        let [old, new] = &event.children[..] else { bail!("the event has children {:?}", event.children) };
        ensure!(old.reqid == new.reqid, "the reqid changed: {old:?}, then {new:?}");
        let new = new.spi_in.zip(new.spi_out).context("the new CHILD_SA has no SPIs")?;
        Ok(Self { monitor, old_in: old.spi_in.context("the old CHILD_SA has no SPI")?, new })
    }

    /// Returns the place and time of a kernel change.
    fn kernel(&self, change: Change) -> Result<(usize, Duration)> {
        let found = self.monitor.find(&Seen::Kernel(change));
        found.with_context(|| format!("no {change:?} in {:?}", self.monitor.seen))
    }

    /// Returns the place and time of VICI's event.
    fn event(&self) -> Result<(usize, Duration)> {
        self.monitor.find(&Seen::Vici(EventKind::ChildRekey)).context("no event")
    }
}

fn start(lab: &Lab) -> Result<XfrmMonitor> {
    // SAs of an earlier rekey are gone.
    lab.settled_maps()?;
    XfrmMonitor::start(&lab.topology.gateway, &lab.gateway().charon().vici())
}

/// The old inbound SA lives 5 s longer, and VICI does not report its end. The outbound policy changes after
/// VICI's event, if this process is scheduled in time to see that: one of three rekeys must show it.
fn order_at_responder(lab: &mut Lab) -> Result<()> {
    for _ in 0..3 {
        let mut rekey = Rekey::run(lab, child_by_site)?;
        let (added, _) = rekey.kernel(Change::SaAdded(rekey.new.0))?;
        let (policy, _) = rekey.kernel(Change::PolicyIn)?;
        let (event, reported) = rekey.event()?;
        let seen = &rekey.monitor.seen;
        ensure!(added < policy && policy < event, "not SA, inbound policy, event: {seen:?}");
        let old_end = Seen::Kernel(Change::SaDeleted(rekey.old_in));
        let ended = |seen: &[(Duration, Seen)]| seen.iter().any(|(_, seen)| *seen == old_end);
        ensure!(rekey.monitor.watch(PATIENCE, ended)?, "the old SA stays: {:?}", rekey.monitor.seen);
        let lived = rekey.kernel(Change::SaDeleted(rekey.old_in))?.1 - reported;
        ensure!((4..8).contains(&lived.as_secs()), "the old SA lived {lived:?} longer");
        let seen = &rekey.monitor.seen;
        let events = seen.iter().filter(|(_, seen)| matches!(seen, Seen::Vici(_))).count();
        ensure!(events == 1, "VICI reported more than the rekey: {seen:?}");
        println!("rekey at the responder: {seen:?}");
        if rekey.kernel(Change::PolicyOut)?.0 > event {
            return Ok(());
        }
    }
    bail!("the outbound policy changed before VICI's event in three rekeys")
}

/// The new outbound SA is in use, and so is the outbound policy that names it, before VICI reports it.
fn order_at_initiator(lab: &mut Lab) -> Result<()> {
    let rekey = Rekey::run(lab, child_by_gateway)?;
    let (added, _) = rekey.kernel(Change::SaAdded(rekey.new.1))?;
    let (policy, in_use) = rekey.kernel(Change::PolicyOut)?;
    let (event, reported) = rekey.event()?;
    let seen = &rekey.monitor.seen;
    ensure!(added < policy && policy < event, "not SA, outbound policy, event: {seen:?}");
    println!("the outbound SPI was in use {:?} before VICI reported it: {seen:?}", reported - in_use);
    Ok(())
}

fn ike_rekey_changes_nothing(lab: &mut Lab) -> Result<()> {
    let mut monitor = start(lab)?;
    ike_by_site(lab, "berlin")?;
    monitor.wait_for(EventKind::IkeRekey, PATIENCE)?;
    monitor.watch(Duration::from_secs(1), |_| false)?;
    ensure!(monitor.seen.len() == 1, "more than one event: {:?}", monitor.seen);
    Ok(())
}

fn reauthentication_breaks_first(lab: &mut Lab) -> Result<()> {
    let site = lab.site("berlin")?;
    let before = lab.gateway_sa(site.spec)?;
    let mut monitor = start(lab)?;
    let [own] = &site.charon.list_sas()?[..] else { bail!("berlin has not one tunnel") };
    site.charon.reauthenticate(own.ike_id)?;
    monitor.wait_for(EventKind::IkeDown, PATIENCE)?;
    monitor.wait_for(EventKind::ChildUp, PATIENCE)?;
    let deleted = |seen: &Seen| matches!(seen, Seen::Kernel(Change::PolicyDeleted | Change::SaDeleted(_)));
    let added = |seen: &Seen| matches!(seen, Seen::Kernel(Change::SaAdded(_)));
    let seen = &monitor.seen;
    let last_deleted = seen.iter().rposition(|(_, seen)| deleted(seen)).context("nothing was deleted")?;
    let first_added = seen.iter().position(|(_, seen)| added(seen)).context("nothing was added")?;
    ensure!(last_deleted < first_added, "not deleted, then added: {seen:?}");
    println!("without SAs for {:?}: {seen:?}", seen[first_added].0 - seen[last_deleted].0);
    let after = lab.wait_for_tunnels()?;
    let after = after.iter().find(|sa| sa.remote_identity == before.remote_identity).context("no tunnel")?;
    ensure!(after.mark > before.mark, "the mark is not a new one: {before:?}, then {after:?}");
    Ok(())
}

fn netns_exec_mounts_sys(lab: &mut Lab) -> Result<()> {
    let name = lab.topology.gateway.name();
    let exec = |words: &str| {
        let mut command = lab.topology.gateway.command("ip");
        command.args(["netns", "exec", name]).args(words.split_whitespace());
        command
    };
    let sources = output(&mut exec("findmnt --noheadings --output SOURCE /sys"))?;
    ensure!(sources.lines().last() == Some(name), "/sys is mounted from {sources}");
    // A bpffs on /sys/fs/bpf, in a mount namespace of this command only, is hidden.
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && findmnt /sys/fs/bpf && ! ip netns exec {name} findmnt /sys/fs/bpf"
    );
    output(Command::new("unshare").args(["--mount", "sh", "-c", &script]))?;
    // The pins below /run are not.
    output(exec("bpftool map show pinned").arg(format!("{PINS}/SETTINGS"))).map(drop)
}

/// Loads a hash map twice: with a system call for each entry, and with one for all.
fn batched_map_loading(lab: &mut Lab) -> Result<()> {
    const ENTRIES: u32 = 65_536;
    let gateway = &lab.topology.gateway;
    let [one_by_one, in_batch] = ["fact_single", "fact_batch"].map(|name| {
        let pin = format!("{PINS}/{name}");
        let arguments = format!("map create {pin} type hash key 4 value 8 entries {ENTRIES} name {name}");
        output(gateway.command("bpftool").args(arguments.split_whitespace()))?;
        gateway.enter(|| {
            let map = MapData::from_pin(&pin)?;
            fs::remove_file(&pin)?;
            Ok(map)
        })
    });
    let (keys, values): (Vec<u32>, Vec<u64>) = (0..ENTRIES).map(|key| (key, u64::from(key))).unzip();

    let mut map = HashMap::<_, u32, u64>::try_from(Map::HashMap(one_by_one?))?;
    let start = Instant::now();
    keys.iter().zip(&values).try_for_each(|(key, value)| map.insert(key, value, 0))?;
    let one_by_one = start.elapsed();

    let mut map = Bulk::new(in_batch?)?;
    let start = Instant::now();
    map.update(&keys, &values)?;
    let in_batch = start.elapsed();
    ensure!(map.entries()?.len() == keys.len(), "the batch is not in the map");
    println!("{ENTRIES} entries take {one_by_one:?} one by one, {in_batch:?} in a batch");
    ensure!(in_batch * 2 < one_by_one, "one by one {one_by_one:?}, in a batch {in_batch:?}");
    Ok(())
}
