//! Connections adopted midstream, if the policy allows that.
use gateway_common::{reason::Reason::*, tcp::State::*};

use crate::{
    trace::{Outcome::*, *},
    world::World,
};

/// Plays conversations in a world that adopts connections.
fn adopt(cases: &[(&str, Trace)]) {
    for (name, trace) in cases {
        let mut world = World::new();
        world.settings.adopt_midstream = 1;
        play(&world, name, &[trace]);
    }
}

const ADOPTED: (Segment, Outcome) = (site(ACK, 1000, 5000), Opens(Established, 300));

#[test]
fn midstream_connection_is_adopted_only_if_configured_and_from_the_site() {
    each(
        &[],
        &[
            (
                "unasked",
                &[(site(ACK, 1000, 5000), Drops(NoConnection)), (site(FIN, 1000, 5000), Drops(NoConnection))],
            ),
            ("unasked, from the server", &[(server(ACK, 5000, 1000), Drops(ReplyWithoutConnection))]),
        ],
    );
    let cases: &[Trace] = &[
        &[
            (server(ACK, 5000, 1000), Drops(ReplyWithoutConnection)),
            (server(SYN, 5000, 1000), Drops(NewFromServer)),
            (site(FIN, 1000, 5000), Drops(NoConnection)),
            (site(RST, 1000, 5000), Drops(NoConnection)),
            (site(SYN_ACK, 1000, 5000), Drops(NoConnection)),
            (site(ACK, 1000, 5000), Opens(Established, 300)),
            (server(ACK, 5000, 1000), DOUBTFUL),
            (site(ACK, 1000, 5000), OPEN),
            // The window scale of an adopted connection is unknown: nothing is outside the windows.
            (server(ACK, 905_000, 1000), OPEN),
            (site(ACK, 901_000, 905_000), OPEN),
        ],
        &[(site(SYN, 999, 0), Opens(SynSent, 120)), (site(ACK, 1000, 5000), Drops(TcpStateInvalid))],
    ];
    for trace in cases {
        let mut world = World::new();
        world.settings.adopt_midstream = 1;
        play(&world, "adopted", &[trace]);
    }
}

#[test]
fn adoption_learns_only_from_acknowledgments_near_zero() {
    let from = |ack: u32| (site(ACK, 1000, ack), Opens(Established, 300));
    // A RST older than the expected number, if any is expected.
    let old = |ack: u32| server(RST, ack.wrapping_sub(5), 0);
    let lowest = 0u32.wrapping_sub(66_000);
    adopt(&[
        ("0", &[from(0), (old(0), Drops(RstOutOfSequence))]),
        ("the lowest", &[from(lowest), (old(lowest), Drops(RstOutOfSequence))]),
        ("below", &[from(lowest - 1), (old(lowest - 1), Ends)]),
        ("1", &[from(1), (old(1), Ends)]),
        ("5000", &[ADOPTED, (old(5000), Ends)]),
    ]);
}

#[test]
fn adopted_connection_is_assured_once_both_ends_sent() {
    let heard = (server(ACK, 5000, 1000), DOUBTFUL);
    adopt(&[
        ("the site alone", &[ADOPTED, (site(ACK, 1000, 5000).window(999), DOUBTFUL)]),
        ("an inexact RST before", &[ADOPTED, heard, (site(RST, 1001, 0), Goes(Close, 10))]),
        (
            "an inexact RST after",
            &[ADOPTED, heard, (site(ACK, 1000, 5000).window(999), OPEN), (site(RST, 1001, 0), DOUBTFUL)],
        ),
        // SACK counts: tracking learns nothing from a segment that acknowledges more than was sent.
        (
            "SACK",
            &[
                ADOPTED,
                heard,
                (site(ACK, 1000, 5000).window(999), OPEN),
                (server(ACK, 5000, 900).data(100).options(EDGE_9001), OPEN),
            ],
        ),
        (
            "a new handshake: the answering end's scale is still not trusted",
            &[
                ADOPTED,
                heard,
                (site(SYN, 8999, 0), Ignored),
                (server(SYN_ACK, 69_999, 9000).options(SCALE_3), Goes(SynRecv, 60)),
                (site(ACK, 9000, 70_000), OPEN),
                (server(ACK, 970_000, 9000), OPEN),
                (site(ACK, 909_000, 70_000), Drops(OutOfWindow)),
            ],
        ),
    ]);
}
