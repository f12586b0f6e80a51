//! What tracking learns from each segment, detail by detail, against the same source as tracking.rs.
#[path = "decision/trace.rs"]
mod trace;
#[path = "decision/world.rs"]
mod world;

use gateway_common::{reason::Reason::*, tcp::State::*};
use trace::{Outcome::*, *};
use world::World;

/// Permission to use SACK.
const SACK_PERMITTED: &[u8] = &[4, 2, 0, 0];
/// A SACK block up to 1000.
const EDGE_1000: &[u8] = &[5, 10, 0, 0, 3, 0, 0, 0, 3, 232, 0, 0];

const SYN_SENT: (Segment, Outcome) = (site(SYN, 999, 0), Opens(SynSent, 120));

#[test]
fn largest_window_that_was_offered_counts() {
    each(
        HANDSHAKE,
        &[
            // II of the server's data is by the device's window: 1000, then 3000.
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
fn window_is_offered_from_the_acknowledgment_on_and_reaches_from_the_sack_edge() {
    each(
        &[
            (site(SYN, 999, 0).options(SACK_PERMITTED), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
            (site(ACK, 1000, 5000), OPEN),
        ],
        &[
            // The server has got 900, and 1000 by SACK: 2000 from there, 2100 in all.
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
fn data_beyond_the_window_shows_that_it_was_larger() {
    each(
        HANDSHAKE,
        &[(
            "II of the same end",
            &[
                // Begins inside and ends 1400 beyond: the server's window must be 3400.
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
            ("taken back by one", &[(site(ACK, 1000, 5000).window(999), OPEN), (server(ACK, 6000, 1000), DOUBTFUL)]),
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

/// Before the server has been seen, its window is not known: an older SYN counts, and its window.
#[test]
fn window_that_is_not_known_refuses_nothing() {
    each(
        &[SYN_SENT],
        &[(
            "older SYN",
            &[
                (site(SYN, 900, 0).window(9000), Ignored),
                (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
                (site(ACK, 1000, 5000), OPEN),
                // Beyond what the device allows, and within the 9000 that the SYN offered.
                (server(ACK, 14_000, 1000), Ignored),
                (server(ACK, 15_000, 1000), Drops(OutOfWindow)),
            ],
        )],
    );
}

#[test]
fn rst_must_be_what_the_highest_acknowledgment_expects() {
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

/// Three repetitions of an ACK make doubt; what differs in one thing is none.
#[test]
fn segment_is_repeated_only_if_all_of_it_is() {
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
            ("another window", &[same, same, (site(ACK, 1000, 5000).window(999), OPEN), same, same, same, third]),
            ("another end", &[same, same, (site(ACK, 999, 5000), OPEN), same, same, same, third]),
            (
                "another length",
                &[same, same, (site(ACK, 900, 5000).data(100), OPEN), same, same, same, third],
            ),
            ("a FIN", &[(site(FIN, 1000, 5000), Goes(FinWait, 120)), (site(FIN, 1000, 5000), Goes(LastAck, 30))]),
        ],
    );
    let low = (site(ACK, 1000, 5299), OPEN);
    let again = (site(ACK, 1000, 5300), OPEN);
    each(
        sent,
        &[
            ("another acknowledgment", &[again, again, low, again, again, again, (site(ACK, 1000, 5300), DOUBTFUL)]),
        ],
    );
    // Both ends at the same numbers: an ACK of one is not the other's again.
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
fn repetitions_shorten_only_a_longer_silence() {
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
fn ack_flag_says_whether_the_number_counts() {
    each(
        HANDSHAKE,
        &[
            // Without it a RST's number is no acknowledgment, however wrong.
            ("RST without", &[(server(RST, 5000, 77_777), Goes(Close, 10))]),
            ("RST with", &[(server(RST_ACK, 5000, 77_777), Drops(OutOfWindow))]),
            // With it, 0 means nothing in a RST, and what it says in any other.
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
        // II: 0 is further back than the device's window.
        &[("answered", &[(server(RST, 0, 0), Ignored)])],
    );
}

#[test]
fn syn_with_a_higher_number_begins_anew_until_the_handshake_is_over() {
    each(
        &[SYN_SENT],
        &[
            // An older one does not.
            (
                "older",
                &[
                    (site(SYN, 900, 0), Ignored),
                    (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
                ],
            ),
            (
                "SYN-ACK of both",
                &[
                    (server(SYN, 4999, 0), Goes(SynSent2, 119)),
                    (site(SYN_ACK, 999, 5000), Goes(SynRecv, 60)),
                    (site(SYN_ACK, 1999, 5000), Goes(SynRecv, 60)),
                    (server(ACK, 5000, 2000), OPEN),
                ],
            ),
            (
                "another SYN of the server",
                &[
                    (server(SYN, 4999, 0), Goes(SynSent2, 119)),
                    (server(SYN, 5999, 0), Goes(SynSent2, 120)),
                ],
            ),
        ],
    );
}

#[test]
fn window_of_0_in_a_syn_ack_is_a_known_one() {
    each(
        &[SYN_SENT, (server(SYN_ACK, 4999, 1000).window(0), Goes(SynRecv, 60))],
        &[("nothing is allowed", &[(site(ACK, 1003, 5000), Drops(OutOfWindow)), (site(ACK, 1000, 5000), OPEN)])],
    );
}
