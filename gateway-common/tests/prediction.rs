//! Header prediction does exactly what tracking does, on flows and segments built around one another so that
//! every comparison comes out both ways.
use etherparse::PacketBuilder;
use gateway_common::{
    layout::Settings,
    packet::{FastFamily, FastSegment, Inner, Segment},
    seq::Seq,
    tcp::{Direction, Flow, Peer, STATE_SLOTS, State, Tracked, predict, status, track},
    time::Ticks,
    wire::Ipv4,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

const CASES: u32 = 20_000;
const NOW: Ticks = Ticks { ticks: 1_000_000 };

/// The parts of one case.
#[derive(Clone, Debug)]
struct Case {
    flow: Flow,
    direction: Direction,
    sequence: u32,
    ack: u32,
    window: u16,
    length: u16,
    timestamp: bool,
    timeouts: [Ticks; STATE_SLOTS],
}

/// Generates a number at, near or far from one of the anchors.
fn near(anchors: Vec<u32>) -> impl Strategy<Value = u32> {
    let off = prop_oneof![
        6 => -2_i64..=2,
        3 => -3_000_i64..=3_000,
        1 => -70_000_i64..=70_000,
        1 => any::<i32>().prop_map(i64::from),
    ];
    (prop::sample::select(anchors), off).prop_map(|(anchor, off)| anchor.wrapping_add(off as u32))
}

fn peer(end: u32) -> impl Strategy<Value = Peer> {
    let window = prop_oneof![1 => Just(0_u32), 1 => 1_u32..4, 6 => 1_000_u32..70_000, 1 => any::<u32>()];
    (near(vec![end]), near(vec![end, end.wrapping_add(3_000)]), window, near(vec![5_000, 1_000])).prop_map(
        |(end, max_end, max_window, max_ack)| Peer {
            end: Seq(end),
            max_end: Seq(max_end),
            max_window,
            max_ack: Seq(max_ack),
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    const USUAL_STATUS: u8 = status::REPLY_SEEN | status::ASSURED;
    let states = prop_oneof![12 => Just(State::Established as u8), 1 => 0_u8..64];
    let last = prop_oneof![6 => (0_u8..16).prop_map(|low| USUAL_STATUS | low), 1 => any::<u8>()];
    let flags = prop_oneof![4 => prop::sample::select(vec![0x20_u8, 0x22, 0x30, 0x23]), 1 => any::<u8>()];
    let flow = (
        (peer(1_000), peer(5_000), vec(flags, 2), any::<u8>(), states, last),
        (
            near(vec![1_000, 5_000]),
            near(vec![1_000, 5_000]),
            0_u16..4,
            prop::sample::select(vec![0_u16, 9, 64_000]),
        ),
    )
        .prop_map(
            |((device, server, flags, scales, state, last), (last_ack, last_end, length, window))| Flow {
                tunnel: 1,
                expires: NOW.plus(Ticks { ticks: 5 }),
                peers: [device, server],
                last_ack: Seq(last_ack),
                last_end: Seq(last_end),
                last_length: length,
                last_window: window,
                generation: 1,
                flags: [flags[0], flags[1]],
                scales,
                state,
                last,
                ..Flow::default()
            },
        );
    let times = vec(prop_oneof![Just(0_u32), Just(10), Just(300), Just(7_000)], STATE_SLOTS);
    (flow, any::<bool>(), any::<bool>(), times).prop_flat_map(|(flow, to_server, timestamp, times)| {
        let direction = if to_server { Direction::ToServer } else { Direction::ToSite };
        let [own, other] = match direction {
            Direction::ToServer => flow.peers,
            Direction::ToSite => [flow.peers[1], flow.peers[0]],
        };
        let sequence = near(vec![own.end.0, own.max_end.0, (own.end - other.max_window).0, flow.last_end.0]);
        let ack = near(vec![other.end.0, own.max_ack.0, flow.last_ack.0, (other.end - 66_000).0]);
        let window = prop::sample::select(vec![0_u16, 1, flow.last_window, 1_000, 64_000]);
        let length = prop::sample::select(vec![0_u16, 1, flow.last_length, 1_000]);
        (sequence, ack, window, length).prop_map(move |(sequence, ack, window, length)| {
            let mut timeouts = [Ticks::default(); STATE_SLOTS];
            for (slot, ticks) in timeouts.iter_mut().zip(&times) {
                slot.ticks = *ticks;
            }
            Case { flow, direction, sequence, ack, window, length, timestamp, timeouts }
        })
    })
}

impl Case {
    fn frame(&self) -> Vec<u8> {
        let mut builder = PacketBuilder::ethernet2([2; 6], [3; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40_000, 80, self.sequence, self.window)
            .ack(self.ack);
        if self.timestamp {
            builder = builder.options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).expect("12 bytes");
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, &vec![0; self.length.into()]).expect("to memory");
        frame
    }

    fn settings(&self) -> Settings {
        // SAFETY: `Settings` consists of integers only, so all zeroes are valid.
        let mut settings: Settings = unsafe { std::mem::zeroed() };
        settings.timeouts = self.timeouts;
        settings
    }
}

/// Returns whether the case was predicted; fails if tracking disagrees.
fn agrees(case: &Case) -> Result<bool, TestCaseError> {
    let (frame, settings) = (case.frame(), case.settings());
    let inner = Inner::<Ipv4>::parse(&frame[..]).expect("a packet");
    let segment = Segment::parse(&frame[..], &inner).expect("a segment");
    let tcp = Ipv4::tcp(&frame[..], true).expect("TCP");
    let next = FastSegment::of(&frame[..], &tcp).expect("such a segment");
    let mut predicted = case.flow;
    if !predict(&mut predicted, &next, case.direction, &settings, NOW) {
        prop_assert_eq!(predicted, case.flow, "changed without a prediction");
        return Ok(false);
    }
    let mut tracked = case.flow;
    prop_assert_eq!(track(&mut tracked, &segment, case.direction, &settings, NOW), Ok(Tracked::Continues));
    prop_assert_eq!(predicted, tracked);
    Ok(true)
}

#[test]
fn prediction_does_what_tracking_does() {
    let predicted = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let result = runner.run(&case(), |case| {
        predicted.set(predicted.get() + u32::from(agrees(&case)?));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let share = f64::from(predicted.get()) / f64::from(CASES);
    assert!((0.05..0.95).contains(&share), "{share} of the cases were predicted");
}
