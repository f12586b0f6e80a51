//! The details that tracking learns from each segment, checked against the same source as tracking.rs.
#[path = "decision/trace.rs"]
mod trace;
#[path = "decision/world.rs"]
mod world;

use gateway_common::{
    reason::Reason::*,
    tcp::{RETRANSMISSION_SLOT, State::*, UNACKNOWLEDGED_SLOT},
    time::Ticks,
};
use trace::{Outcome::*, *};
use world::World;

/// The option that permits SACK.
const SACK_PERMITTED: &[u8] = &[4, 2, 0, 0];
/// A SACK block that ends at 1000.
const EDGE_1000: &[u8] = &[5, 10, 0, 0, 3, 0, 0, 0, 3, 232, 0, 0];

const SYN_SENT: (Segment, Outcome) = (site(SYN, 999, 0), Opens(SynSent, 120));

#[test]
fn largest_offered_window_counts() {
    each(
        HANDSHAKE,
        &[
            // Condition II on the server's data depends on the device's window: 1000, then 3000.
            (
                "grown",
                &[
                    (site(ACK, 1000, 5000).window(3000), OPEN),
                    (server(ACK, 2000, 1000), OPEN),
                    (server(ACK, 1999, 1000), Ignored),
                ],
            ),
            (
                "not shrunk",
                &[
                    (site(ACK, 1000, 5000).window(10), OPEN),
                    (server(ACK, 4000, 1000), OPEN),
                    (server(ACK, 3999, 1000), Ignored),
                ],
            ),
        ],
    );
}

#[test]
fn window_starts_at_the_acknowledgment_and_reaches_from_the_sack_edge() {
    each(
        &[
            (site(SYN, 999, 0).options(SACK_PERMITTED), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
            (site(ACK, 1000, 5000), OPEN),
        ],
        &[
            // The server has received 900, and 1000 by SACK: 2000 from there, 2100 in all.
            (
                "II by the whole window",
                &[
                    (server(ACK, 5000, 900).options(EDGE_1000), OPEN),
                    (site(ACK, 1000u32.wrapping_sub(2100), 5000), OPEN),
                    (site(ACK, 1000u32.wrapping_sub(2101), 5000), Ignored),
                ],
            ),
            (
                "I by the edge",
                &[
                    (server(ACK, 5000, 900).window(2500).options(EDGE_1000), OPEN),
                    (site(ACK, 3500, 5000), DOUBTFUL),
                    (site(ACK, 3501, 5000), Ignored),
                ],
            ),
        ],
    );
}

#[test]
fn data_beyond_the_window_proves_a_larger_window() {
    each(
        HANDSHAKE,
        &[(
            "II of the same end",
            &[
                // Begins inside the window and ends 1400 beyond it: the server's window must be 3400.
                (site(ACK, 3000, 5000).data(1400), DOUBTFUL),
                (site(ACK, 1000, 5000), DOUBTFUL),
                (site(ACK, 999, 5000), Ignored),
            ],
        )],
    );
}

#[test]
fn allowed_end_only_grows_and_a_closed_window_allows_one_byte() {
    each(
        HANDSHAKE,
        &[
            (
                "taken back by one",
                &[(site(ACK, 1000, 5000).window(999), OPEN), (server(ACK, 6000, 1000), DOUBTFUL)],
            ),
            ("taken back", &[(site(ACK, 1000, 5000).window(1), OPEN), (server(ACK, 6000, 1000), DOUBTFUL)]),
            (
                "closed behind data",
                &[
                    (server(ACK, 5000, 1000).data(1000), DOUBTFUL),
                    (site(ACK, 1000, 6000).window(0), DOUBTFUL),
                    (server(ACK, 6001, 1000), DOUBTFUL),
                    (server(ACK, 6002, 1000), Ignored),
                ],
            ),
            (
                "open behind data",
                &[
                    (server(ACK, 5000, 1000).data(1000), DOUBTFUL),
                    (site(ACK, 1000, 6000).window(1), OPEN),
                    (server(ACK, 6001, 1000), DOUBTFUL),
                    (server(ACK, 6002, 1000), Ignored),
                ],
            ),
        ],
    );
}

#[test]
fn data_sent_beyond_the_window_is_doubtful_until_it_is_acknowledged() {
    each(
        HANDSHAKE,
        &[(
            "beyond",
            &[
                (site(ACK, 3001, 5000).data(500), Ignored),
                (server(ACK, 5000, 1000), DOUBTFUL),
                (server(ACK, 5000, 3500), DOUBTFUL),
                (server(ACK, 5000, 3501), OPEN),
            ],
        )],
    );
}

/// The server's window is unknown until the server is seen: an older SYN counts, and so does its window.
#[test]
fn unknown_window_drops_nothing() {
    each(
        &[SYN_SENT],
        &[(
            "older SYN",
            &[
                (site(SYN, 900, 0).window(9000), Ignored),
                (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
                (site(ACK, 1000, 5000), OPEN),
                // Beyond the device's window, but within the 9000 offered by the SYN.
                (server(ACK, 14_000, 1000), Ignored),
                (server(ACK, 15_000, 1000), Drops(OutOfWindow)),
            ],
        )],
    );
}

#[test]
fn rst_must_match_the_highest_acknowledgment() {
    let data: &[(Segment, Outcome)] = &[
        (site(SYN, 999, 0), Opens(SynSent, 120)),
        (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
        (site(ACK, 1000, 5000), OPEN),
        (server(ACK, 5000, 1000).data(500), DOUBTFUL),
        (site(ACK, 1000, 5300), DOUBTFUL),
        (site(ACK, 1000, 5200), DOUBTFUL),
    ];
    each(
        data,
        &[
            ("exact", &[(server(RST, 5300, 0), Goes(Close, 10))]),
            ("first acknowledgment", &[(server(RST, 5000, 0), Drops(RstOutOfSequence))]),
            ("last acknowledgment", &[(server(RST, 5200, 0), Drops(RstOutOfSequence))]),
            ("one less", &[(server(RST, 5299, 0), Drops(RstOutOfSequence))]),
            ("one more", &[(server(RST, 5301, 0), DOUBTFUL)]),
        ],
    );
}

/// Three repetitions of an ACK put a connection in doubt; a segment that differs in one field is no
/// repetition.
#[test]
fn repetition_needs_an_identical_segment() {
    let same = (site(ACK, 1000, 5000), OPEN);
    let third = (site(ACK, 1000, 5000), DOUBTFUL);
    let sent: &[(Segment, Outcome)] = &[
        (site(SYN, 999, 0), Opens(SynSent, 120)),
        (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
        (site(ACK, 1000, 5000), OPEN),
        (server(ACK, 5000, 1000).data(300), DOUBTFUL),
        (site(ACK, 1000, 5300), OPEN),
    ];
    each(
        HANDSHAKE,
        &[
            ("three", &[same, same, third]),
            (
                "another window",
                &[same, same, (site(ACK, 1000, 5000).window(999), OPEN), same, same, same, third],
            ),
            ("another end", &[same, same, (site(ACK, 999, 5000), OPEN), same, same, same, third]),
            (
                "another length",
                &[same, same, (site(ACK, 900, 5000).data(100), OPEN), same, same, same, third],
            ),
            (
                "a FIN",
                &[(site(FIN, 1000, 5000), Goes(FinWait, 120)), (site(FIN, 1000, 5000), Goes(LastAck, 30))],
            ),
        ],
    );
    let low = (site(ACK, 1000, 5299), OPEN);
    let again = (site(ACK, 1000, 5300), OPEN);
    each(
        sent,
        &[(
            "another acknowledgment",
            &[again, again, low, again, again, again, (site(ACK, 1000, 5300), DOUBTFUL)],
        )],
    );
    // Both ends use the same numbers: an ACK of one end does not repeat the other's.
    each(
        &[
            (site(SYN, 4999, 0), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 5000).window(1000), Goes(SynRecv, 60)),
            (site(ACK, 5000, 5000), OPEN),
        ],
        &[(
            "in turns",
            &[
                (server(ACK, 5000, 5000).window(1000), OPEN),
                (site(ACK, 5000, 5000), OPEN),
                (server(ACK, 5000, 5000).window(1000), OPEN),
                (site(ACK, 5000, 5000), OPEN),
                (server(ACK, 5000, 5000).window(1000), OPEN),
            ],
        )],
    );
}

#[test]
fn repetitions_shorten_only_longer_timeouts() {
    let last = (site(ACK, 1001, 5001), Goes(TimeWait, 120));
    each(
        &[
            (site(SYN, 999, 0), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
            (site(ACK, 1000, 5000), OPEN),
            (site(FIN, 1000, 5000), Goes(FinWait, 120)),
            (server(FIN, 5000, 1001), Goes(LastAck, 30)),
        ],
        &[("last ACK again", &[last, last, last, last, last])],
    );
}

#[test]
fn ack_flag_decides_whether_the_number_counts() {
    each(
        HANDSHAKE,
        &[
            // Without the ACK flag, the number in a RST is no acknowledgment, however wrong it is.
            ("RST without", &[(server(RST, 5000, 77_777), Goes(Close, 10))]),
            ("RST with", &[(server(RST_ACK, 5000, 77_777), Drops(OutOfWindow))]),
            // With the ACK flag, 0 means nothing in a RST, and acknowledges 0 in any other segment.
            ("ACK of 0", &[(site(ACK, 1000, 0), OPEN), (site(ACK, 1000, 0), OPEN)]),
        ],
    );
    // The server's numbers begin high: 0 acknowledges far too much.
    each(
        &[
            (site(SYN, 999, 0), Opens(SynSent, 120)),
            (server(SYN_ACK, 0xf000_0000, 1000), Goes(SynRecv, 60)),
            (site(ACK, 1000, 0xf000_0001), OPEN),
        ],
        &[("ACK of 0", &[(site(ACK, 1000, 0), Drops(OutOfWindow))])],
    );
}

#[test]
fn sequence_number_0_of_a_rst_is_the_expected_one_only_while_a_syn_is_unanswered() {
    each(
        &[SYN_SENT, (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60))],
        // Condition II: 0 is further back than the device's window.
        &[("answered", &[(server(RST, 0, 0), Ignored)])],
    );
}

#[test]
fn syn_with_a_higher_number_starts_over_during_the_handshake() {
    each(
        &[SYN_SENT],
        &[
            // An older SYN does not start over.
            ("older", &[(site(SYN, 900, 0), Ignored), (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60))]),
            (
                "SYN-ACK of both",
                &[
                    (server(SYN, 4999, 0), Goes(SynSent2, 119)),
                    (site(SYN_ACK, 999, 5000), Goes(SynRecv, 60)),
                    (site(SYN_ACK, 1999, 5000), Goes(SynRecv, 60)),
                    (server(ACK, 5000, 2000), OPEN),
                ],
            ),
        ],
    );
}

#[test]
fn window_0_in_a_syn_ack_is_known() {
    each(
        &[SYN_SENT, (server(SYN_ACK, 4999, 1000).window(0), Goes(SynRecv, 60))],
        &[(
            "I and II",
            &[
                (site(ACK, 1003, 5000), Drops(OutOfWindow)),
                (site(ACK, 998, 5000), Ignored),
                (site(ACK, 999, 5000), OPEN),
            ],
        )],
    );
}

/// The handshake up to the server's answer.
const ANSWERED: Trace = &[SYN_SENT, (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60))];

#[test]
fn rst_during_the_handshake_need_not_be_exact() {
    each(
        ANSWERED,
        &[
            ("site, exact", &[(site(RST, 1000, 0), Goes(Close, 10))]),
            ("site, later", &[(site(RST, 1001, 0), Goes(Close, 10))]),
            ("site, number 0", &[(site(RST, 0, 0), Goes(Close, 10))]),
            ("site, old", &[(site(RST, 999, 0), Drops(RstOutOfSequence))]),
            // Tracking takes the server's own ACK for the number that the RST answers.
            (
                "server, acknowledges its ACK",
                &[
                    (server(ACK, 5000, 1000), Goes(SynRecv, 60)),
                    (server(RST_ACK, 90_000, 5000), Goes(Close, 10)),
                ],
            ),
            (
                "server, acknowledges something else",
                &[
                    (server(ACK, 5000, 1000), Goes(SynRecv, 60)),
                    (server(RST_ACK, 90_000, 5001), Drops(OutOfWindow)),
                ],
            ),
        ],
    );
    // Until the device acknowledges something, no number is expected of the server.
    each(
        &[SYN_SENT, (server(SYN_ACK, 0xf000_0000, 1000), Goes(SynRecv, 60))],
        &[("nothing expected", &[(server(RST, 0xf000_0001, 0), Goes(Close, 10))])],
    );
}

#[test]
fn only_a_simultaneous_open_ends_by_an_ack_of_the_server() {
    each(
        ANSWERED,
        &[(
            "not simultaneous",
            &[(server(ACK, 5000, 1000), Goes(SynRecv, 60)), (site(ACK, 1000, 5000), OPEN)],
        )],
    );
    each(&[SYN_SENT], &[("an ACK of 0 answers nothing", &[(server(ACK, 7000, 0), Ignored)])]);
}

#[test]
fn rst_behind_data_follows_it_at_once() {
    each(
        HANDSHAKE,
        &[(
            "after another RST",
            &[
                (server(ACK, 5000, 1000).data(100), DOUBTFUL),
                (server(RST, 5101, 0), DOUBTFUL),
                (server(RST, 5100, 0), DOUBTFUL),
            ],
        )],
    );
}

#[test]
fn rst_answers_an_ignored_syn_of_the_other_end_with_its_number() {
    let again = (site(SYN, 8999, 0), Ignored);
    each(
        HANDSHAKE,
        &[
            ("exactly", &[again, (server(RST_ACK, 0, 9000), Goes(Close, 10))]),
            ("with another number", &[again, (server(RST_ACK, 0, 8999), Drops(OutOfWindow))]),
            ("of its own", &[again, (site(RST_ACK, 0, 9000), Drops(OutOfWindow))]),
        ],
    );
}

#[test]
fn any_rst_ends_a_closing_connection() {
    let reset = (server(RST, 77, 0), Goes(Close, 10));
    let fin = (site(FIN, 1000, 5000), Goes(FinWait, 120));
    let acknowledged = (server(ACK, 5000, 1001), Goes(CloseWait, 60));
    let other_fin = (server(FIN, 5000, 1001), Goes(LastAck, 30));
    let last = (site(ACK, 1001, 5001), Goes(TimeWait, 120));
    each(
        HANDSHAKE,
        &[
            ("FIN_WAIT", &[fin, reset]),
            ("CLOSE_WAIT", &[fin, acknowledged, reset]),
            ("LAST_ACK", &[fin, acknowledged, other_fin, reset]),
            ("TIME_WAIT", &[fin, acknowledged, other_fin, last, reset]),
            ("CLOSE", &[fin, reset, reset]),
        ],
    );
}

#[test]
fn ack_of_the_end_that_sent_a_syn_is_no_challenge() {
    each(
        HANDSHAKE,
        &[(
            "the site's own",
            &[
                (site(FIN, 1000, 5000), Goes(FinWait, 120)),
                (server(FIN, 5000, 1001), Goes(LastAck, 30)),
                (site(SYN, 8999, 0), Ignored),
                (site(ACK, 1001, 5001), Goes(TimeWait, 120)),
            ],
        )],
    );
}

#[test]
fn connection_is_over_if_either_end_closed_or_the_site_reset_it_last() {
    let again = (site(SYN, 8999, 0), Opens(SynSent, 120));
    each(
        HANDSHAKE,
        &[
            (
                "closed by the server",
                &[
                    (server(FIN, 5000, 1000), Goes(FinWait, 120)),
                    (site(FIN, 1000, 5001), Goes(LastAck, 30)),
                    (server(ACK, 5001, 1001), Goes(TimeWait, 120)),
                    again,
                ],
            ),
            (
                "reset by the server, not by the site",
                &[
                    (server(RST, 5000, 0), Goes(Close, 10)),
                    (site(ACK, 1000, 5000), Goes(Close, 10)),
                    (site(SYN, 8999, 0), Ignored),
                ],
            ),
            (
                "reset at once: nothing is left",
                &[(site(RST, 1000, 0), Goes(Close, 10)), again, (server(RST_ACK, 0, 9000), Ends)],
            ),
        ],
    );
}

const SCALE_7: &[u8] = &[3, 3, 7, 0];
const SCALE_3: &[u8] = &[3, 3, 3, 0];
/// A SACK block that ends at 9001.
const EDGE_9001: &[u8] = &[5, 10, 0, 0, 3, 0, 0, 0, 0x23, 0x29, 0, 0];

/// After a SYN-ACK answers a second SYN, both ends have that SYN's numbers, window and options.
#[test]
fn connection_takes_over_the_answered_syn() {
    let answer = (server(SYN_ACK, 69_999, 9000), Goes(SynRecv, 60));
    each(
        HANDSHAKE,
        &[
            (
                "its window",
                &[
                    (site(SYN, 8999, 0).window(300), Ignored),
                    answer,
                    (server(ACK, 70_299, 9000), Ignored),
                    (server(ACK, 70_300, 9000), Drops(OutOfWindow)),
                ],
            ),
            (
                "a number lower than before",
                &[
                    (site(SYN, 4_000_000_000, 0), Ignored),
                    (server(SYN_ACK, 69_999, 4_000_000_001), Goes(SynRecv, 60)),
                    (site(ACK, 4_000_002_001, 70_000), DOUBTFUL),
                    (site(ACK, 4_000_002_002, 70_000), Ignored),
                ],
            ),
            (
                "its permission to use SACK",
                &[
                    (site(SYN, 8999, 0).options(SACK_PERMITTED), Ignored),
                    answer,
                    (server(ACK, 70_000, 9000).options(EDGE_9001), Drops(OutOfWindow)),
                ],
            ),
            (
                "without it",
                &[
                    (site(SYN, 8999, 0), Ignored),
                    answer,
                    (server(ACK, 70_000, 9000).options(EDGE_9001), Goes(SynRecv, 60)),
                ],
            ),
            (
                "not the options of one before",
                &[
                    (site(SYN, 7999, 0).options(SCALE_7), Ignored),
                    (site(SYN, 8999, 0), Ignored),
                    (server(SYN_ACK, 69_999, 9000).options(SCALE_3), Goes(SynRecv, 60)),
                    (site(ACK, 9000, 70_000), OPEN),
                    (server(ACK, 70_000, 9000), OPEN),
                    (site(ACK, 11_001, 70_000), Ignored),
                ],
            ),
            // Only a SYN can be answered, not data up to the same number.
            (
                "no SYN",
                &[(site(ACK, 1000, 5000).data(100), DOUBTFUL), (server(SYN_ACK, 69_999, 1100), Ignored)],
            ),
        ],
    );
    each(
        &[
            (site(SYN, 999, 0).options(SCALE_7), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 1000).options(SCALE_3), Goes(SynRecv, 60)),
            (site(ACK, 1000, 5000), OPEN),
        ],
        &[(
            "not the options of the answer before",
            &[
                (site(SYN, 8999, 0).options(SCALE_7), Ignored),
                answer,
                (site(ACK, 9000, 70_000), OPEN),
                (server(ACK, 71_001, 9000), Ignored),
            ],
        )],
    );
}

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

/// Returns a world with these timeouts in seconds for the given states.
fn world(timeouts: &[(u8, u32)]) -> World {
    let mut world = World::new();
    for (slot, seconds) in timeouts {
        world.settings.timeouts[usize::from(*slot)] = Ticks::from_seconds(*seconds);
    }
    world
}

#[test]
fn doubt_shortens_only_long_established_timeouts() {
    let server_fin = (server(FIN, 105_000, 1000), Drops(OutOfWindow));
    let site_fin = site(FIN, 101_000, 5000);
    let server_rst = (server(RST, 105_000, 0), Drops(OutOfWindow));
    let site_rst = site(RST, 101_000, 0);
    let established =
        |seconds: u32, doubtful: u32| world(&[(Established as u8, seconds), (UNACKNOWLEDGED_SLOT, doubtful)]);
    let handshake = |seconds| {
        let [syn, syn_ack, (ack, _)] = HANDSHAKE else { unreachable!("three segments") };
        [*syn, *syn_ack, (*ack, Goes(Established, seconds))]
    };
    let play_both = |world: World, seconds: u32, name: &str, first, second: (Segment, Outcome)| {
        play(&world, name, &[&handshake(seconds), &[first, second]]);
    };
    play_both(established(7440, 300), 7440, "FINs", server_fin, (site_fin, Doubted(OutOfWindow, 300)));
    play_both(established(7440, 300), 7440, "RSTs", server_rst, (site_rst, Doubted(OutOfWindow, 300)));
    play_both(established(122, 60), 122, "not soon", server_fin, (site_fin, Doubted(OutOfWindow, 60)));
    play_both(established(120, 60), 120, "soon", server_fin, (site_fin, Drops(OutOfWindow)));
    play_both(established(250, 300), 250, "never longer", server_fin, (site_fin, Drops(OutOfWindow)));

    let half_open = world(&[(SynRecv as u8, 600), (RETRANSMISSION_SLOT, 600)]);
    let answered = [SYN_SENT, (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 600))];
    play(&half_open, "not established", &[&answered, &[server_fin, (site_fin, Drops(OutOfWindow))]]);
}

#[test]
fn only_acks_are_remembered_as_last_segment() {
    let world = world(&[(FinWait as u8, 600), (UNACKNOWLEDGED_SLOT, 600)]);
    play(&world, "FIN", &[HANDSHAKE, &[(site(FIN, 1000, 5000).window(0), Goes(FinWait, 600))]]);
}

#[test]
fn syn_of_the_server_without_an_acknowledgment_allows_nothing_yet() {
    let syn = (server(SYN, 4999, 0), Goes(SynSent2, 119));
    each(&[SYN_SENT, syn], &[("I", &[(site(SYN_ACK, 1500, 5000), Ignored)])]);
}

/// The numbers are so high that 0 is far ahead of them.
#[test]
fn zero_numbers_in_a_rst_stand_for_expected_ones() {
    let syn = (site(SYN, 0xefff_ffff, 0), Opens(SynSent, 120));
    each(&[syn], &[("sequence number, to an unanswered SYN", &[(site(RST, 0, 0), Ends)])]);
    each(
        &[syn, (server(SYN_ACK, 4999, 0xf000_0000), Goes(SynRecv, 60)), (site(ACK, 0xf000_0000, 5000), OPEN)],
        &[
            ("acknowledgment number", &[(server(RST_ACK, 5000, 0), Goes(Close, 10))]),
            ("acknowledgment number 1", &[(server(RST_ACK, 5000, 1), Drops(OutOfWindow))]),
            ("sequence number, later", &[(server(RST, 0, 0), Drops(RstOutOfSequence))]),
        ],
    );
}

#[test]
fn rst_is_exact_behind_data_of_its_own_end_only() {
    each(
        &[
            (site(SYN, 4999, 0), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 5000), Goes(SynRecv, 60)),
            (site(ACK, 5000, 5000), OPEN),
            (site(ACK, 5000, 5000).data(100), DOUBTFUL),
        ],
        &[
            ("the other end's", &[(server(RST, 5100, 0), DOUBTFUL)]),
            ("its own", &[(site(RST, 5100, 0), Goes(Close, 10))]),
        ],
    );
}

/// A RST without ACK acknowledges all data of the other end, so the last RST is the only cause of doubt.
#[test]
fn inexact_rst_shortens_the_timeout() {
    each(
        HANDSHAKE,
        &[(
            "without data in flight",
            &[
                (server(ACK, 5000, 1000).data(100), DOUBTFUL),
                (site(RST, 1001, 0), DOUBTFUL),
                (server(ACK, 5100, 1001), OPEN),
                (server(RST, 5050, 0), DOUBTFUL),
            ],
        )],
    );
}
