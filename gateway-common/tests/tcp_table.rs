//! The TCP state table, checked against an independent statement of `tcp_conntracks` in Linux 6.12's
//! net/netfilter/nf_conntrack_proto_tcp.c.
use gateway_common::{
    packet::Kind,
    tcp::{Direction, State, Transition, transition},
};

/// Origin states, separated by spaces, and the destination state.
type Transitions = &'static [(&'static str, &'static str)];

/// The transitions of each direction and kind of segment. `same` keeps the state; `ignore` passes the segment
/// without learning from it. All unlisted transitions are invalid. Linux's state NONE is missing: here a flow
/// either exists or does not.
const LINUX: &[(Direction, Kind, Transitions)] = {
    use Direction::{ToServer, ToSite};
    use Kind::{Ack, Fin, Rst, Syn, SynAck};
    const FIN: Transitions = &[
        ("syn-recv established", "fin-wait"),
        ("fin-wait close-wait last-ack", "last-ack"),
        ("time-wait close", "same"),
    ];
    const RST: Transitions =
        &[("syn-sent syn-recv established fin-wait close-wait last-ack time-wait close syn-sent2", "close")];
    &[
        (
            ToServer,
            Syn,
            &[
                ("syn-sent time-wait close", "syn-sent"),
                ("syn-sent2", "same"),
                ("syn-recv established fin-wait close-wait last-ack", "ignore"),
            ],
        ),
        (ToServer, SynAck, &[("syn-recv syn-sent2", "syn-recv")]),
        (ToServer, Fin, FIN),
        (
            ToServer,
            Ack,
            &[
                ("syn-recv established", "established"),
                ("fin-wait close-wait", "close-wait"),
                ("last-ack time-wait", "time-wait"),
                ("close", "same"),
            ],
        ),
        (ToServer, Rst, RST),
        (ToSite, Syn, &[("syn-sent syn-sent2", "syn-sent2"), ("time-wait", "syn-sent")]),
        (
            ToSite,
            SynAck,
            &[
                ("syn-sent syn-sent2", "syn-recv"),
                ("syn-recv established fin-wait close-wait last-ack time-wait close", "ignore"),
            ],
        ),
        (ToSite, Fin, FIN),
        (
            ToSite,
            Ack,
            &[
                ("syn-sent syn-sent2", "ignore"),
                ("syn-recv established", "same"),
                ("fin-wait close-wait", "close-wait"),
                ("last-ack time-wait", "time-wait"),
                ("close", "same"),
            ],
        ),
        (ToSite, Rst, RST),
    ]
};

/// Returns true for the one deliberate difference: a server reopens nothing.
fn differs(state: State, direction: Direction, kind: Kind) -> bool {
    (state, direction, kind) == (State::TimeWait, Direction::ToSite, Kind::Syn)
}

fn linux(state: State, direction: Direction, kind: Kind) -> Transition {
    let (_, _, transitions) = LINUX
        .iter()
        .find(|(d, k, _)| (*d, *k) == (direction, kind))
        .expect("every direction and kind is stated");
    let mut to = transitions.iter().filter(|(from, _)| from.split(' ').any(|name| name == state.name()));
    let Some((_, to)) = to.next() else { return Transition::Invalid };
    match *to {
        "same" => Transition::To(state),
        "ignore" => Transition::Ignore,
        name => Transition::To(*State::ALL.iter().find(|state| state.name() == name).expect("a state")),
    }
}

#[test]
fn every_transition_is_linuxs_except_a_server_reopening() {
    let kinds = [Kind::Syn, Kind::SynAck, Kind::Fin, Kind::Ack, Kind::Rst];
    let mut differences = 0;
    for state in State::ALL {
        for direction in [Direction::ToServer, Direction::ToSite] {
            for kind in kinds {
                let (ours, linux) = (transition(*state, direction, kind), linux(*state, direction, kind));
                if differs(*state, direction, kind) {
                    assert_eq!((ours, linux), (Transition::Invalid, Transition::To(State::SynSent)));
                    differences += 1;
                } else {
                    assert_eq!(ours, linux, "{state:?} {direction:?} {kind:?}");
                }
            }
        }
    }
    assert_eq!(differences, 1);
}

#[test]
fn every_state_in_the_statement_exists() {
    for (_, _, transitions) in LINUX {
        for (from, _) in *transitions {
            for name in from.split(' ') {
                assert!(State::ALL.iter().any(|state| state.name() == name), "{name}");
            }
        }
    }
}

#[test]
fn no_segment_of_a_server_leads_to_a_new_connection() {
    for state in State::ALL {
        for kind in [Kind::Syn, Kind::SynAck, Kind::Fin, Kind::Ack, Kind::Rst] {
            assert_ne!(
                transition(*state, Direction::ToSite, kind),
                Transition::To(State::SynSent),
                "{state:?} {kind:?}"
            );
        }
    }
}

#[test]
fn state_numbers_and_names_are_one_to_one() {
    for number in 0..=u8::MAX {
        let state = State::from_number(number);
        assert_eq!(state.map(|state| state as u8), state.map(|_| number));
        assert_eq!(state.is_some(), State::ALL.iter().any(|state| *state as u8 == number));
    }
    let mut names: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), State::ALL.len());
}

/// Linux's `tcp_timeouts` in the same file, and RFC 5382 REQ-5 for established connections.
#[test]
fn timeouts_are_linuxs_except_for_established_connections() {
    let seconds = State::ALL.iter().map(|state| (state.name(), state.default_timeout_seconds()));
    let linux = [
        ("syn-sent", 2 * 60),
        ("syn-recv", 60),
        ("established", 2 * 3600 + 4 * 60),
        ("fin-wait", 2 * 60),
        ("close-wait", 60),
        ("last-ack", 30),
        ("time-wait", 2 * 60),
        ("close", 10),
        ("syn-sent2", 2 * 60),
    ];
    assert!(seconds.eq(linux));
}
