//! SYN segments: the handshake, a simultaneous open, and a SYN on a live connection.
use gateway_common::{reason::Reason::*, tcp::State::*};

use crate::trace::{Outcome::*, *};

#[test]
fn handshake_keeps_its_order() {
    each(
        &[(site(SYN, 999, 0), Opens(SynSent, 120))],
        &[
            ("SYN again keeps nothing alive", &[(site(SYN, 999, 0), Ignored), (site(SYN, 999, 0), Ignored)]),
            (
                "another SYN",
                &[(site(SYN, 1999, 0), Ignored), (server(SYN_ACK, 4999, 2000), Goes(SynRecv, 60))],
            ),
            ("ACK too early", &[(site(ACK, 1000, 5000), Drops(TcpStateInvalid))]),
            ("FIN too early", &[(site(FIN, 1000, 5000), Drops(TcpStateInvalid))]),
            ("SYN-ACK of the site", &[(site(SYN_ACK, 1000, 5000), Drops(TcpStateInvalid))]),
            (
                "SYN-ACK of something else",
                &[
                    (server(SYN_ACK, 4999, 1001), Drops(OutOfWindow)),
                    (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
                ],
            ),
            (
                "both ends at once",
                &[
                    // Before any answer, Linux does not renew the timeout for a SYN, and this counts as one.
                    (server(SYN, 4999, 0), Goes(SynSent2, 119)),
                    (site(SYN_ACK, 999, 5000), Goes(SynRecv, 60)),
                    (server(ACK, 5000, 1000), OPEN),
                ],
            ),
        ],
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
fn syn_of_the_server_without_an_acknowledgment_allows_nothing_yet() {
    let syn = (server(SYN, 4999, 0), Goes(SynSent2, 119));
    each(&[SYN_SENT, syn], &[("I", &[(site(SYN_ACK, 1500, 5000), Ignored)])]);
}

#[test]
fn syn_on_a_live_connection_passes_and_only_its_answer_counts() {
    let again = (site(SYN, 8999, 0), Ignored);
    each(
        HANDSHAKE,
        &[
            (
                "changes nothing",
                &[
                    again,
                    (site(ACK, 1000, 5000), OPEN),
                    (server(ACK, 5000, 1001), Drops(OutOfWindow)),
                    (server(ACK, 5000, 1000), OPEN),
                    (site(ACK, 9000, 5000), Drops(OutOfWindow)),
                ],
            ),
            (
                "a SYN-ACK answers",
                &[
                    again,
                    (server(SYN_ACK, 69_999, 9000), Goes(SynRecv, 60)),
                    (site(ACK, 9000, 70_001), Drops(OutOfWindow)),
                    (site(ACK, 9000, 70_000), OPEN),
                    (site(ACK, 11_000, 70_000), DOUBTFUL),
                    (site(ACK, 13_001, 70_000), Drops(OutOfWindow)),
                ],
            ),
            (
                "with its options",
                &[
                    (site(SYN, 8999, 0).options(SCALE_7), Ignored),
                    (server(SYN_ACK, 69_999, 9000).options(SCALE_3), Goes(SynRecv, 60)),
                    (site(ACK, 9000, 70_000), OPEN),
                    (server(ACK, 198_000, 9000), DOUBTFUL),
                ],
            ),
            (
                "a SYN-ACK answers something else",
                &[
                    again,
                    (server(SYN_ACK, 69_999, 9001), Ignored),
                    (server(SYN_ACK, 69_999, 9000), Ignored),
                    (server(ACK, 70_000, 9000), Drops(OutOfWindow)),
                    (server(ACK, 5000, 1000), OPEN),
                ],
            ),
            (
                "a challenge ACK answers, and a RST that",
                &[again, (server(ACK, 5000, 1000), OPEN), (site(RST, 1000, 0), Goes(Close, 10))],
            ),
            ("a RST answers", &[again, (server(RST_ACK, 0, 9000), Goes(Close, 10))]),
            ("a server's is no SYN", &[(server(SYN, 8999, 0), Drops(TcpStateInvalid))]),
        ],
    );
}

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
