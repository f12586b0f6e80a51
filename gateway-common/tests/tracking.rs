//! Short conversations with the verdicts of nf_conntrack, read off Linux 6.12's
//! net/netfilter/nf_conntrack_proto_tcp.c with `nf_conntrack_tcp_be_liberal=0`.
#[path = "decision/trace.rs"]
mod trace;
#[path = "decision/world.rs"]
mod world;

use gateway_common::{reason::Reason::*, tcp::State::*};
use trace::{Outcome::*, *};
use world::World;

#[test]
fn conversation_goes_from_syn_to_time_wait() {
    each(
        HANDSHAKE,
        &[(
            "request and answer",
            &[
                (site(ACK, 1000, 5000).data(100), DOUBTFUL),
                (server(ACK, 5000, 1100), OPEN),
                (server(ACK, 5000, 1100).data(500), DOUBTFUL),
                (site(ACK, 1100, 5499), DOUBTFUL),
                (site(ACK, 1100, 5500), OPEN),
                (site(FIN, 1100, 5500), Goes(FinWait, 120)),
                (server(ACK, 5500, 1101), Goes(CloseWait, 60)),
                (server(FIN, 5500, 1101), Goes(LastAck, 30)),
                (site(ACK, 1101, 5501), Goes(TimeWait, 120)),
            ],
        )],
    );
}

#[test]
fn each_window_condition_holds_to_the_byte() {
    each(
        HANDSHAKE,
        &[
            // I. seq <= sender.td_maxend; a higher number passes without effect while it could fit the
            // receiver.
            ("site I in", &[(site(ACK, 3000, 5000), DOUBTFUL)]),
            ("site I over", &[(site(ACK, 3001, 5000), Ignored)]),
            ("site I far over", &[(site(ACK, 4999, 5000), Ignored)]),
            ("site I too far over", &[(site(ACK, 5000, 5000), Drops(OutOfWindow))]),
            ("site I data too far over", &[(site(ACK, 3001, 5000).data(1999), Drops(OutOfWindow))]),
            ("site I begins inside", &[(site(ACK, 3000, 5000).data(1400), DOUBTFUL)]),
            ("server I in", &[(server(ACK, 6000, 1000), DOUBTFUL)]),
            ("server I over", &[(server(ACK, 6001, 1000), Ignored)]),
            ("server I far over", &[(server(ACK, 6999, 1000), Ignored)]),
            ("server I too far over", &[(server(ACK, 7000, 1000), Drops(OutOfWindow))]),
            (
                "what was sent beyond may be acknowledged",
                &[
                    (site(ACK, 3001, 5000).data(500), Ignored),
                    (server(ACK, 5000, 3502), Drops(OutOfWindow)),
                    (server(ACK, 5000, 3501), OPEN),
                ],
            ),
            // II. end >= sender.td_end - receiver.td_maxwin; a lower number passes without effect.
            ("site II in", &[(site(ACK, 1000u32.wrapping_sub(2000), 5000), OPEN)]),
            ("site II under", &[(site(ACK, 1000u32.wrapping_sub(2001), 5000), Ignored)]),
            ("site II end in", &[(site(ACK, 1000u32.wrapping_sub(2010), 5000).data(10), OPEN)]),
            ("server II in", &[(server(ACK, 4000, 1000), OPEN)]),
            ("server II under", &[(server(ACK, 3999, 1000), Ignored)]),
            // III. ack <= receiver.td_end.
            ("site III in", &[(site(ACK, 1000, 5000), OPEN)]),
            ("site III over", &[(site(ACK, 1000, 5001), Drops(OutOfWindow))]),
            ("server III in", &[(server(ACK, 5000, 1000), OPEN)]),
            ("server III over", &[(server(ACK, 5000, 1001), Drops(OutOfWindow))]),
            // IV. ack >= receiver.td_end - 66000; a lower number passes without effect.
            ("site IV in", &[(site(ACK, 1000, 5000u32.wrapping_sub(66_000)), OPEN)]),
            ("site IV under", &[(site(ACK, 1000, 5000u32.wrapping_sub(66_001)), Ignored)]),
            ("server IV in", &[(server(ACK, 5000, 1000u32.wrapping_sub(66_000)), OPEN)]),
            ("server IV under", &[(server(ACK, 5000, 1000u32.wrapping_sub(66_001)), Ignored)]),
            // Beyond the window, and acknowledging too much or too little as well.
            ("I and III", &[(site(ACK, 3001, 5001), Drops(OutOfWindow))]),
            ("I and IV", &[(site(ACK, 3001, 5000u32.wrapping_sub(66_001)), Drops(OutOfWindow))]),
        ],
    );
}

/// The device's scale 7 and the server's scale 3.
const SCALE_7: &[u8] = &[3, 3, 7, 0];
const SCALE_3: &[u8] = &[3, 3, 3, 0];

#[test]
fn windows_are_scaled_if_both_ends_offer_it() {
    each(
        &[
            (site(SYN, 999, 0).options(SCALE_7), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 1000).options(SCALE_3), Goes(SynRecv, 60)),
            (site(ACK, 1000, 5000), OPEN),
            (server(ACK, 5000, 1000), OPEN),
        ],
        &[
            ("server I in", &[(server(ACK, 5000 + 128_000, 1000), DOUBTFUL)]),
            ("server I over", &[(server(ACK, 5001 + 128_000, 1000), Ignored)]),
            ("site I in", &[(site(ACK, 1000 + 16_000, 5000), DOUBTFUL)]),
            ("site I over", &[(site(ACK, 1001 + 16_000, 5000), Ignored)]),
            // Condition IV allows the sender's own window if that exceeds 66000.
            ("site IV in", &[(site(ACK, 1000, 5000u32.wrapping_sub(128_000)), OPEN)]),
            ("site IV under", &[(site(ACK, 1000, 5000u32.wrapping_sub(128_001)), Ignored)]),
        ],
    );
}

#[test]
fn window_of_a_syn_is_never_scaled() {
    each(
        &[
            (site(SYN, 999, 0).options(SCALE_7), Opens(SynSent, 120)),
            (server(SYN_ACK, 4999, 1000).options(SCALE_3), Goes(SynRecv, 60)),
        ],
        &[("in", &[(site(ACK, 3000, 5000), DOUBTFUL)]), ("over", &[(site(ACK, 3001, 5000), Ignored)])],
    );
}

#[test]
fn windows_are_not_scaled_if_one_end_does_not_offer_it() {
    let cases: &[(&str, Trace)] = &[
        ("server I in", &[(server(ACK, 6000, 1000), DOUBTFUL)]),
        ("server I over", &[(server(ACK, 6001, 1000), Ignored)]),
        ("site I in", &[(site(ACK, 3000, 5000), DOUBTFUL)]),
        ("site I over", &[(site(ACK, 3001, 5000), Ignored)]),
    ];
    for (ours, theirs) in [(SCALE_7, &[][..]), (&[], SCALE_3)] {
        each(
            &[
                (site(SYN, 999, 0).options(ours), Opens(SynSent, 120)),
                (server(SYN_ACK, 4999, 1000).options(theirs), Goes(SynRecv, 60)),
                (site(ACK, 1000, 5000), OPEN),
                (server(ACK, 5000, 1000), OPEN),
            ],
            cases,
        );
    }
}

#[test]
fn sack_counts_only_if_the_other_end_permitted_it() {
    const PERMITTED: &[u8] = &[4, 2, 0, 0];
    // Right edges 1000 and 1001; the device has sent up to 1000.
    const EDGE_1000: &[u8] = &[5, 10, 0, 0, 3, 0, 0, 0, 3, 232, 0, 0];
    const EDGE_1001: &[u8] = &[5, 10, 0, 0, 3, 0, 0, 0, 3, 233, 0, 0];
    for (permitted, over) in [(PERMITTED, Drops(OutOfWindow)), (&[], OPEN)] {
        each(
            &[
                (site(SYN, 999, 0).options(permitted), Opens(SynSent, 120)),
                (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
                (site(ACK, 1000, 5000), OPEN),
            ],
            &[
                ("in", &[(server(ACK, 5000, 900).options(EDGE_1000), OPEN)]),
                ("over", &[(server(ACK, 5000, 900).options(EDGE_1001), over)]),
            ],
        );
    }
}

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

const BOTH_FINS: Trace = &[
    (site(SYN, 999, 0), Opens(SynSent, 120)),
    (server(SYN_ACK, 4999, 1000), Goes(SynRecv, 60)),
    (site(ACK, 1000, 5000), OPEN),
    (site(FIN, 1000, 5000), Goes(FinWait, 120)),
    (server(FIN, 5000, 1001), Goes(LastAck, 30)),
];

#[test]
fn challenge_ack_is_not_the_last_ack() {
    each(
        BOTH_FINS,
        &[
            ("the last", &[(server(ACK, 5001, 1001), Goes(TimeWait, 120))]),
            (
                "the challenge, then the last",
                &[
                    (site(SYN, 8999, 0), Ignored),
                    (server(ACK, 5001, 1001), Ignored),
                    (site(ACK, 1001, 5001), Goes(TimeWait, 120)),
                ],
            ),
            (
                "one challenge a SYN",
                &[
                    (site(SYN, 8999, 0), Ignored),
                    (server(ACK, 5001, 1001), Ignored),
                    (server(ACK, 5001, 1001), Goes(TimeWait, 120)),
                ],
            ),
        ],
    );
}

#[test]
fn only_a_site_reopens_a_connection() {
    let again = (site(SYN, 8999, 0), Opens(SynSent, 120));
    each(
        BOTH_FINS,
        &[
            (
                "TIME-WAIT",
                &[
                    (site(ACK, 1001, 5001), Goes(TimeWait, 120)),
                    (server(SYN, 8999, 0), Drops(TcpStateInvalid)),
                    again,
                    (server(ACK, 5001, 1001), Ignored),
                    (server(SYN_ACK, 69_999, 9000), Goes(SynRecv, 60)),
                    (site(ACK, 9000, 70_000), OPEN),
                ],
            ),
            ("not yet", &[(site(SYN, 8999, 0), Ignored)]),
        ],
    );
    each(
        HANDSHAKE,
        &[
            ("reset by the site", &[(site(RST, 1000, 0), Goes(Close, 10)), again]),
            (
                "reset by the server",
                &[
                    (server(RST, 5000, 0), Goes(Close, 10)),
                    (site(SYN, 8999, 0), Ignored),
                    (server(SYN_ACK, 69_999, 9000), Goes(SynRecv, 60)),
                ],
            ),
            (
                "reset by the server while closing",
                &[
                    (site(FIN, 1000, 5000), Goes(FinWait, 120)),
                    (server(RST, 5000, 0), Goes(Close, 10)),
                    again,
                ],
            ),
        ],
    );
}

#[test]
fn doubt_shortens_the_timeout() {
    let again = (site(ACK, 1000, 5000), OPEN);
    each(
        HANDSHAKE,
        &[
            (
                "third repetition",
                &[again, again, (site(ACK, 1000, 5000), DOUBTFUL), (server(ACK, 5000, 1000), OPEN)],
            ),
            ("closed window", &[(site(ACK, 1000, 5000).window(0), DOUBTFUL), again]),
            (
                "both ends close outside the windows",
                &[
                    (server(FIN, 105_000, 1000), Drops(OutOfWindow)),
                    (server(RST, 105_001, 1000), Drops(OutOfWindow)),
                    (site(FIN, 101_000, 5000), Doubted(OutOfWindow, 300)),
                    (server(ACK, 5000, 1000), OPEN),
                ],
            ),
            (
                "one end closes outside the windows",
                &[
                    (server(FIN, 105_000, 1000), Drops(OutOfWindow)),
                    (site(ACK, 101_000, 5000), Drops(OutOfWindow)),
                    (server(FIN, 105_000, 1000), Drops(OutOfWindow)),
                ],
            ),
        ],
    );
}

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
