//! Simulates a timing wheel with millions of flows that is not turned for a while. The wheel is the programs' own
//! (`gateway_common::wheel`); around it the simulation does what `gateway-ebpf/src/programs/expiry.rs` does. Its
//! time is counted in visits, so every run gives the same result.
//!
//! The full size runs by itself: `cargo test -p gateway-common --test stall -- --ignored`.
use gateway_common::{
    time::Ticks,
    wheel::{BATCH, SLOT_NS, SLOTS, TURN_SECONDS, Wheel, pause_ns},
};

/// Time of one visit: 684 ns were measured with 8 million flows on a CPU (docs/decisions/0012-a-wheel-for-each-cpu.md).
const VISIT_NS: u64 = 700;
/// The most flows that a policy allows.
const MOST_FLOWS: usize = (1 << 24) - 1;
const SECOND_NS: u64 = 1_000_000_000;
const TURN_NS: u64 = TURN_SECONDS as u64 * SECOND_NS;
/// Time in which a wheel of 16 million flows catches up after any stall.
const RECOVERY_NS: u64 = 120 * SECOND_NS;
/// Timeout of an established connection by default.
const LONG: Ticks = Ticks::from_seconds(7440);

/// A machine on which all flows are on the wheel of one CPU.
struct Machine {
    wheel: Wheel,
    /// By node: the next one in its list.
    next: Vec<u32>,
    /// By node: the end of its flow.
    expires: Vec<Ticks>,
    /// By node: whether the end moved closer after the flow was scheduled.
    moved: Vec<bool>,
    now_ns: u64,
    visit_ns: u64,
    batch: u32,
    random: u64,
    /// Lifetimes of flows by the last two bits of a random number; `LONG` or a bound of a random one.
    lifetimes: [Ticks; 4],
    seen: Seen,
}

/// Visits and removals since the last call of [`Machine::forget`].
#[derive(Default, Debug)]
struct Seen {
    removed: u64,
    visits: u64,
    /// The latest removal of a flow that ended when it was to end.
    late_ns: u64,
    /// The latest removal of a flow whose end moved closer.
    late_moved_ns: u64,
    behind: u32,
}

impl Machine {
    /// Makes a machine with this many flows. A `scale` of n simulates n flows by one, which takes n times as
    /// long to visit.
    fn new(flows: usize, scale: usize, visit_ns: u64, lifetimes: [Ticks; 4]) -> Self {
        // SAFETY: a wheel holds integers only.
        let wheel: Wheel = unsafe { std::mem::zeroed() };
        let nodes = flows / scale + 1;
        let mut machine = Self {
            wheel,
            next: vec![0; nodes],
            expires: vec![Ticks::default(); nodes],
            moved: vec![false; nodes],
            now_ns: 1_000 * SECOND_NS,
            visit_ns: visit_ns * scale as u64,
            batch: BATCH / scale as u32,
            random: 1,
            lifetimes,
            seen: Seen::default(),
        };
        machine.run_for(2 * SECOND_NS);
        // The flows are opened over a turn, as fast as the wheel can take them.
        for part in 0..SLOTS {
            for number in (1..nodes).skip(part).step_by(SLOTS) {
                machine.open(number as u32);
            }
            machine.run_for(SLOT_NS);
        }
        machine
    }

    fn now(&self) -> Ticks {
        Ticks::from_ns(self.now_ns)
    }

    /// Returns a pseudo-random number (Knuth's MMIX).
    fn random(&mut self) -> u32 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as u32
    }

    fn open(&mut self, number: u32) {
        let random = self.random();
        let lifetime = match self.lifetimes[random as usize % 4] {
            LONG => LONG,
            Ticks { ticks } => Ticks { ticks: 1024 + random / 4 % ticks },
        };
        self.expires[number as usize] = self.now().plus(lifetime);
        self.moved[number as usize] = false;
        self.schedule(number);
    }

    fn schedule(&mut self, number: u32) {
        let next = self.wheel.schedule(0, number, self.expires[number as usize]);
        self.next[number as usize] = next;
    }

    /// Lets time pass without a turn of the wheel.
    fn stall(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    fn run_for(&mut self, ns: u64) {
        let end = self.now_ns + ns;
        while self.now_ns < end {
            self.run();
        }
    }

    /// Runs the timer once, and lets time pass to its next run.
    fn run(&mut self) {
        let now = self.now();
        self.seen.behind = self.seen.behind.max(self.wheel.behind(now));
        if self.wheel.due[0] == 0 {
            self.wheel.advance(now);
        }
        let mut visits = 0;
        while visits < self.batch && self.wheel.due[0] != 0 {
            visits += 1;
            self.visit(now);
        }
        self.seen.visits += u64::from(visits);
        let took_ns = 1_000 + u64::from(visits) * self.visit_ns;
        let pause_ns = if self.wheel.has_more(now) { pause_ns(took_ns) } else { SLOT_NS };
        self.now_ns += took_ns + pause_ns;
    }

    fn visit(&mut self, now: Ticks) {
        let number = self.wheel.due[0];
        self.wheel.due[0] = self.next[number as usize];
        let expires = self.expires[number as usize];
        if !expires.has_come(now) {
            self.schedule(number);
            return;
        }
        let late_ns = now.since(expires).as_ns();
        let latest =
            if self.moved[number as usize] { &mut self.seen.late_moved_ns } else { &mut self.seen.late_ns };
        *latest = late_ns.max(*latest);
        self.seen.removed += 1;
        self.open(number);
    }

    /// Ends one flow in `one_in` in ten seconds, as a RST does.
    fn reset_some(&mut self, one_in: usize) {
        let end = self.now().plus(Ticks::from_seconds(10));
        for number in (1..self.next.len()).step_by(one_in) {
            if !self.expires[number].has_come(end) {
                self.expires[number] = end;
                self.moved[number] = true;
            }
        }
    }

    /// Returns the time to visit all flows once, at half of the CPU's time.
    fn all_ns(&self) -> u64 {
        2 * self.next.len() as u64 * self.visit_ns
    }

    fn forget(&mut self) {
        self.seen = Seen::default();
    }
}

/// Runs a wheel with half of its flows on long connections and the rest on short ones, stops it for a while,
/// and checks when it removes which flows.
fn check_stall(flows: usize, scale: usize, stall_ns: u64) {
    let short = [Ticks::from_seconds(30), Ticks::from_seconds(120)];
    let mut machine = Machine::new(flows, scale, VISIT_NS, [LONG, LONG, short[0], short[1]]);
    machine.run_for(100 * SECOND_NS);
    let all_ns = machine.all_ns();
    let what = format!("{flows} flows, {stall_ns} ns");

    machine.forget();
    machine.stall(stall_ns);
    machine.run_for(RECOVERY_NS);
    assert!(machine.seen.late_ns <= stall_ns + all_ns + 2 * SLOT_NS, "{what}: {:?}", machine.seen);

    // Then it is as if nothing had happened.
    machine.reset_some(10);
    machine.forget();
    machine.run_for(2 * TURN_NS);
    let seen = &machine.seen;
    assert!(seen.behind <= 2, "{what}: {seen:?}");
    assert!(seen.removed > 0 && seen.late_ns <= 4 * SLOT_NS, "{what}: {seen:?}");
    assert!(seen.late_moved_ns > 0 && seen.late_moved_ns <= TURN_NS, "{what}: {seen:?}");
    // Each flow was visited once a turn, and when it ended.
    assert!(seen.visits <= 3 * machine.next.len() as u64 + seen.removed, "{what}: {seen:?}");
}

#[test]
fn wheel_catches_up_after_any_stall_with_up_to_16_million_flows() {
    for flows in [1 << 20, 4 << 20, MOST_FLOWS] {
        for stall_seconds in [0, 5, 20, 60, 3600] {
            check_stall(flows, 64, stall_seconds * SECOND_NS);
        }
    }
}

#[test]
#[ignore = "takes 200 MB and half a minute: cargo test -p gateway-common --test stall -- --ignored"]
fn wheel_of_16_million_flows_at_full_size_catches_up() {
    check_stall(MOST_FLOWS, 1, 5 * SECOND_NS);
}

#[test]
fn flows_that_end_in_the_same_second_are_late_by_one_visit_of_all_at_most() {
    let mut machine = Machine::new(MOST_FLOWS, 64, VISIT_NS, [LONG; 4]);
    machine.reset_some(1);
    let all_ns = machine.all_ns();
    machine.run_for(2 * TURN_NS);
    // All of them are opened again as they are removed, and end in the same second.
    for number in 1..machine.next.len() {
        machine.expires[number] = Ticks::from_ns(machine.now_ns + 100 * SECOND_NS);
    }
    machine.forget();
    machine.run_for(100 * SECOND_NS + all_ns + 2 * SLOT_NS);
    assert_eq!(machine.seen.removed, machine.next.len() as u64 - 1, "{:?}", machine.seen);
    assert!(
        machine.seen.late_ns.max(machine.seen.late_moved_ns) <= all_ns + 2 * SLOT_NS,
        "{:?}",
        machine.seen
    );
}

#[test]
fn wheel_with_more_flows_than_a_turn_can_visit_visits_each_in_turn() {
    // All flows take twice as long as a turn.
    let mut machine = Machine::new(MOST_FLOWS, 64, 3_000, [LONG, LONG, LONG, Ticks::from_seconds(120)]);
    let all_ns = machine.all_ns();
    assert!(all_ns > 2 * TURN_NS);
    machine.run_for(2 * all_ns);
    machine.forget();
    machine.run_for(4 * all_ns);
    assert!(machine.seen.removed > 0, "{:?}", machine.seen);
    assert!(machine.seen.late_ns <= TURN_NS + 2 * all_ns, "{:?}", machine.seen);
    machine.run_for(2 * all_ns);
}
