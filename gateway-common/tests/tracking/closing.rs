//! Closing connections: the last ACK, challenge ACKs, and who may open the connection again.
use gateway_common::{reason::Reason::*, tcp::State::*};

use crate::trace::{Outcome::*, *};

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
