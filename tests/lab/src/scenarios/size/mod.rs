//! Scenarios of packet sizes: data gets through even if packets do not fit the tunnel or a link on the path.
mod fragments;
mod ground;
mod path_mtu;
mod transfer;

use crate::scenario::Scenario;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "mss_of_both_ends_fits_the_tunnel", run: transfer::mss_fits },
    Scenario { name: "bulk_transfers_arrive_whole_in_both_directions", run: transfer::bulk_transfers },
    Scenario {
        name: "server_sending_too_large_packets_learns_the_tunnels_mtu",
        run: path_mtu::server_learns_tunnel_mtu,
    },
    Scenario {
        name: "path_mtu_of_the_internet_reaches_the_server",
        run: |lab| path_mtu::server_learns_path_mtu(lab, "berlin"),
    },
    Scenario {
        name: "path_mtu_of_the_internet_reaches_the_server_of_a_site_behind_nat",
        run: |lab| path_mtu::server_learns_path_mtu(lab, "austin"),
    },
    Scenario {
        name: "path_mtu_of_the_ipv6_internet_reaches_the_server",
        run: |lab| path_mtu::server_learns_path_mtu(lab, "london"),
    },
    Scenario { name: "fragmented_esp_from_a_small_uplink_arrives", run: fragments::fragmented_esp },
    Scenario { name: "ike_in_ip_fragments_brings_a_tunnel_up", run: fragments::fragmented_ike },
];
