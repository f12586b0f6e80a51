//! Doubt: repetitions, closed windows and wrong endings, which shorten the timeout of a connection.
use gateway_common::{
    reason::Reason::*,
    tcp::{RETRANSMISSION_SLOT, State::*, UNACKNOWLEDGED_SLOT},
    time::Ticks,
};

use crate::{
    trace::{Outcome::*, *},
    world::World,
};

/// Returns a world with these timeouts in seconds for the given states.
fn world(timeouts: &[(u8, u32)]) -> World {
    let mut world = World::new();
    for (slot, seconds) in timeouts {
        world.settings.timeouts[usize::from(*slot)] = Ticks::from_seconds(*seconds);
    }
    world
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
fn only_acks_are_remembered_as_last_segment() {
    let world = world(&[(FinWait as u8, 600), (UNACKNOWLEDGED_SLOT, 600)]);
    play(&world, "FIN", &[HANDSHAKE, &[(site(FIN, 1000, 5000).window(0), Goes(FinWait, 600))]]);
}
