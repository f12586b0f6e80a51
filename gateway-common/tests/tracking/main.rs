//! Short conversations with the verdicts of nf_conntrack, read off Linux 6.12's
//! net/netfilter/nf_conntrack_proto_tcp.c with `nf_conntrack_tcp_be_liberal=0`.
mod adoption;
mod closing;
mod doubt;
mod reset;
mod syn;
mod trace;
mod window;
#[path = "../decision/world.rs"]
mod world;

use gateway_common::tcp::State::*;
use trace::{Outcome::*, *};

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
