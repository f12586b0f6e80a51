//! Windows: the four conditions to the byte, scaling, SACK, and what each end learns of the other's window.
use gateway_common::{reason::Reason::*, tcp::State::*};

use crate::trace::{Outcome::*, *};

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
