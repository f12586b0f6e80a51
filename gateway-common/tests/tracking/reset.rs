//! RST segments: which one ends a connection, which one only shortens its timeout, and which one is dropped.
use gateway_common::{reason::Reason::*, tcp::State::*};

use crate::trace::{Outcome::*, *};

#[test]
fn rst_must_be_exact_to_end_an_established_connection() {
    each(
        HANDSHAKE,
        &[
            ("server exact", &[(server(RST, 5000, 0), Goes(Close, 10))]),
            ("server old", &[(server(RST, 4999, 0), Drops(RstOutOfSequence))]),
            ("server zero", &[(server(RST, 0, 0), Drops(RstOutOfSequence))]),
            ("server later", &[(server(RST, 5001, 0), DOUBTFUL), (server(RST, 5000, 0), Goes(Close, 10))]),
            ("server latest", &[(server(RST, 6000, 0), DOUBTFUL)]),
            ("server over", &[(server(RST, 6001, 0), Ignored)]),
            ("server too far over", &[(server(RST, 7000, 0), Drops(OutOfWindow))]),
            ("site exact", &[(site(RST, 1000, 0), Goes(Close, 10))]),
            ("site old", &[(site(RST, 999, 0), Drops(RstOutOfSequence))]),
            ("site later", &[(site(RST, 3000, 0), DOUBTFUL)]),
            ("site acknowledges too much", &[(site(RST_ACK, 1000, 5001), Drops(OutOfWindow))]),
            ("acknowledgment number 0", &[(server(RST_ACK, 5000, 0), Goes(Close, 10))]),
            (
                "right behind its own data",
                &[(server(ACK, 5000, 1000).data(100), DOUBTFUL), (server(RST, 5100, 0), Goes(Close, 10))],
            ),
            (
                "not right behind its own data",
                &[(server(ACK, 5000, 1000).data(100), DOUBTFUL), (server(RST, 5101, 0), DOUBTFUL)],
            ),
            (
                "behind its own data, after the other end's",
                &[
                    (server(ACK, 5000, 1000).data(100), DOUBTFUL),
                    (site(ACK, 1000, 5000).data(1), DOUBTFUL),
                    (server(RST, 5100, 0), DOUBTFUL),
                ],
            ),
            (
                "any while closing",
                &[(site(FIN, 1000, 5000), Goes(FinWait, 120)), (server(RST, 77, 0), Goes(Close, 10))],
            ),
        ],
    );
}

#[test]
fn rst_answers_a_syn_with_sequence_number_0() {
    let syn = (site(SYN, 999, 0), Opens(SynSent, 120));
    each(
        &[syn],
        &[
            (
                "refused",
                &[
                    (server(RST_ACK, 0, 1000), Ends),
                    (server(SYN_ACK, 4999, 1000), Drops(ReplyWithoutConnection)),
                    (site(ACK, 1000, 5000), Drops(NoConnection)),
                    (site(SYN, 99_999, 0), Opens(SynSent, 120)),
                ],
            ),
            // Looks like the answer to a keepalive.
            ("acknowledges one more", &[(server(RST_ACK, 0, 1001), Ends)]),
            ("acknowledges what was not sent", &[(server(RST_ACK, 0, 1002), Drops(OutOfWindow))]),
            ("the site gives up", &[(site(RST, 1000, 0), Ends), syn]),
            (
                "answers a half-open connection's ACK",
                &[(server(ACK, 7000, 3333), Ignored), (site(RST, 3333, 0), Goes(Close, 10))],
            ),
            (
                "answers nothing",
                &[(server(ACK, 7000, 3333), Ignored), (site(RST, 3334, 0), Drops(OutOfWindow))],
            ),
        ],
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
