//! The whole test: a flood with quotas, which no victim may notice; a flood without quotas, which all victims
//! must notice; and the memory of a flow.
use std::{
    collections::BTreeMap,
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use gateway_common::{layout::Quota, reason::Reason};
use gateway_tests_kit::flow_memory;

use crate::{
    attack,
    firewall::{self, Gateway, HALF_OPEN_SECONDS, Held},
    frames::{self, Pool},
    ground::Ground,
    judge::{self, Criterion},
    new_site,
    outcome::Outcome,
    party::{ATTACKER, Party},
    peer, server, victim, watch,
};

/// Frames of the site's flood. 5 in 16 open IPv4 flows and 3 in 16 open IPv6 flows, more than the tables
/// hold.
const FRAMES: usize = 1 << 19;
/// Time for new hosts to report their IPv6 groups, twice within a second (RFC 3810 sections 9.1 and 9.11) and
/// behind a hop-by-hop header. No router asks for further reports.
const ANNOUNCEMENTS: Duration = Duration::from_secs(4);
/// Time before the flood, to establish connections and prove that the ground works; and the same after it.
const CALM: Duration = Duration::from_secs(1);
/// Time after the last packet, to read all events and IKE packets.
const READING: Duration = Duration::from_millis(300);
/// Duration of the flood without quotas once the flow table is full.
const CONTROL: Duration = Duration::from_secs(4);
/// Longest time in which the flood without quotas fills the flow table, on a machine under full load.
const FILLING: Duration = Duration::from_secs(120);

/// Runs and prints the whole test. Returns true if all criteria held. Without `quotas` it runs the control
/// only, judged by the same criteria.
pub fn run(duration: Duration, quotas: bool) -> Result<bool> {
    let pool = frames::from_site(FRAMES)?;
    let ordinary = firewall::default_quota();
    if !quotas {
        return round("without", Length::AfterTableIsFull(duration), firewall::no_quota(), &pool, true)
            .map(|outcome| print("flood without quotas", &outcome, &judge::judge(&outcome)));
    }
    println!(
        "quota of each customer: {} flows, {} half-open flows, {:.0} new flows a second",
        ordinary.flows,
        ordinary.half_open,
        1e9 / f64::from(ordinary.new_flow_interval_ns)
    );
    let outcome = round("with", Length::Total(duration), ordinary, &pool, true)?;
    let mut held = print("flood with quotas", &outcome, &judge::judge(&outcome));
    let control = Length::AfterTableIsFull(CONTROL);
    let outcome = round("without", control, firewall::no_quota(), &pool, false)?;
    let criteria = judge::judge(&outcome);
    print("control: flood without quotas (must fail)", &outcome, &criteria);
    let fail = criteria.iter().any(|criterion| criterion.name == judge::NEW_CONNECTIONS && !criterion.held);
    let full = judge::table_was_full(&outcome);
    let noticed = fail && full > 0;
    println!(
        "{}: without quotas, victims' new connections {}; FlowTableFull dropped {full} of their packets",
        word(noticed),
        if fail { "fail, so the check can fail" } else { "succeed, so the check proves nothing" }
    );
    held &= noticed;
    Ok(print_memory()? && held)
}

fn print_memory() -> Result<bool> {
    let [v4, v6] = flow_memory::measure()?;
    let small = v4.per_flow() <= flow_memory::MOST_BYTES_V4;
    println!(
        "{}: kernel memory of one IPv4 flow at most {} bytes (all bytes of the maps ÷ capacity of {} flows)",
        word(small),
        flow_memory::MOST_BYTES_V4,
        flow_memory::FLOWS
    );
    for (family, memory) in [("IPv4", v4), ("IPv6", v6)] {
        println!(
            "  {family}: {:.5} bytes; {:.5} for each flow, plus {:.0} for the maps",
            memory.per_flow(),
            memory.each,
            memory.fixed()
        );
    }
    Ok(small)
}

/// The length of a flood.
#[derive(Clone, Copy)]
enum Length {
    /// The whole flood lasts this long.
    Total(Duration),
    /// The flood goes on for this long after the flow table first refused a flow, however slow the machine is.
    AfterTableIsFull(Duration),
}

impl Length {
    /// Waits for the end of the flood.
    fn wait(self, gateway: &Gateway) -> Result<()> {
        let duration = match self {
            Self::Total(duration) => duration,
            Self::AfterTableIsFull(duration) => {
                let deadline = Instant::now() + FILLING;
                while !gateway.counted(ATTACKER.id)?.dropped.contains_key(&Reason::FlowTableFull) {
                    ensure!(
                        Instant::now() < deadline,
                        "the flood did not fill the flow table in {FILLING:?}"
                    );
                    thread::sleep(Duration::from_millis(100));
                }
                duration
            }
        };
        thread::sleep(duration);
        Ok(())
    }
}

/// Runs one flood. If `wait` is set, waits afterwards until half-open flows have expired.
fn round(name: &str, length: Length, attacker: Quota, pool: &Pool, wait: bool) -> Result<Outcome> {
    let ground = Ground::create(name)?;
    thread::sleep(ANNOUNCEMENTS);
    let gateway = Gateway::start(name, &ground, attacker)?;
    let _silent = server::start(&ground.servers)?;
    let charon = peer::open(&ground.gateway)?;
    let victims: BTreeMap<Party, victim::Tally> =
        Party::victims().map(|party| (party, victim::Tally::default())).collect();
    let (ike, new_sites) = (peer::Tally::default(), new_site::Tally::default());
    let (site_frames, internet_frames) = (AtomicU64::new(0), AtomicU64::new(0));
    let (flood_over, all_over, counting_over) =
        (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let (lasted, seen) = thread::scope(|scope| {
        // The scope waits for its threads, so stop them on every return.
        let stops = [&flood_over, &all_over, &counting_over];
        let _stop = Stop(&stops);
        for (party, tally) in &victims {
            victim::start(scope, &ground.devices, *party, tally, &all_over);
        }
        let receiving = scope.spawn(|| peer::receive(&charon, &ike, &counting_over));
        let sending = scope.spawn(|| peer::send(&ground.internet, &ike, &all_over));
        let watching = scope.spawn(|| watch::watch(&gateway, &counting_over));
        thread::sleep(CALM);
        let working =
            victims.values().all(|tally| tally.answered.load(Relaxed) > 0 && tally.in_time.load(Relaxed) > 0);
        if !working {
            let first = victims
                .values()
                .find_map(|tally| tally.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone());
            return Err(anyhow!("connections fail before the flood: {}", first.unwrap_or_default()));
        }
        let start = Instant::now();
        let floods = [
            scope.spawn(|| attack::from_site(&ground.attacker, pool, &site_frames, &flood_over)),
            scope.spawn(|| attack::from_internet(&ground.internet, &internet_frames, &flood_over)),
            scope.spawn(|| attack::acknowledge(&ground.attacker, &flood_over)),
        ];
        // Cookies are asked for as soon as the flood is there.
        thread::sleep(CALM);
        let connecting = scope.spawn(|| new_site::connect(&ground.internet, &ike, &new_sites, &flood_over));
        length.wait(&gateway)?;
        flood_over.store(true, Relaxed);
        for flood in floods {
            flood.join().map_err(|_| anyhow!("a flood panicked"))?.context("flood")?;
        }
        let lasted = start.elapsed();
        connecting.join().map_err(|_| anyhow!("a thread panicked"))?.context("connect new sites")?;
        thread::sleep(CALM);
        all_over.store(true, Relaxed);
        sending.join().map_err(|_| anyhow!("a thread panicked"))??;
        thread::sleep(READING);
        counting_over.store(true, Relaxed);
        receiving.join().map_err(|_| anyhow!("a thread panicked"))??;
        Ok((lasted, watching.join().map_err(|_| anyhow!("a thread panicked"))??))
    })?;
    let held = wait.then(|| settle(&gateway)).transpose()?;
    let cookies = gateway.cookies()?;
    let customers = [0].into_iter().chain(Party::all().map(|party| party.id));
    let counted = customers.map(|id| Ok((id, gateway.counted(id)?))).collect::<Result<_>>()?;
    Ok(Outcome {
        lasted,
        site_frames: site_frames.into_inner(),
        internet_frames: internet_frames.into_inner(),
        victims,
        ike,
        new_sites,
        cookies,
        seen,
        counted,
        held,
    })
}

/// Waits until half-open flows have expired, but no longer than that may take: a wheel reaches their slot
/// at most one second late, and then visits 1024 flows every other millisecond.
fn settle(gateway: &Gateway) -> Result<BTreeMap<Party, [Held; 2]>> {
    let deadline = Instant::now() + Duration::from_secs(u64::from(HALF_OPEN_SECONDS) + 4);
    loop {
        let counted = gateway.count_flows()?;
        let held: BTreeMap<Party, [Held; 2]> = counted
            .into_iter()
            .map(|(party, held)| Ok((party, [held, gateway.usage(party)?])))
            .collect::<Result<_>>()?;
        let settled = held.values().all(|[counted, usage]| counted == usage && counted.half_open == 0);
        if settled || Instant::now() > deadline {
            return Ok(held);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Stops the threads on drop, also after an error.
struct Stop<'a>(&'a [&'a AtomicBool]);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        for stop in self.0 {
            stop.store(true, Relaxed);
        }
    }
}

fn print(title: &str, outcome: &Outcome, criteria: &[Criterion]) -> bool {
    let seconds = outcome.lasted.as_secs_f64();
    println!(
        "\n{title}: {seconds:.1} s, {:.0} packets/s from the attacker's site, {:.0} packets/s from the internet",
        outcome.site_frames as f64 / seconds,
        outcome.internet_frames as f64 / seconds
    );
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["", "criterion", "seen"]);
    for criterion in criteria {
        table.add_row([word(criterion.held), criterion.name, &criterion.seen]);
    }
    println!("{table}");
    let victims: Vec<u32> = Party::victims().map(|party| party.id).collect();
    for (ids, whose) in
        [(&[ATTACKER.id][..], "the attacker's"), (&[0], "the internet's"), (&victims, "the victims'")]
    {
        let dropped = outcome.dropped(ids);
        let reasons: Vec<String> =
            dropped.iter().map(|(reason, count)| format!("{} {count}", reason.name())).collect();
        println!("{whose} packets dropped: {}", reasons.join(", "));
    }
    criteria.iter().all(|criterion| criterion.held)
}

fn word(held: bool) -> &'static str {
    if held { "held" } else { "FAILED" }
}
