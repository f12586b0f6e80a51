use super::*;

/// True if the device sends the packet; its flags and other words; its fate; the numbers it must get.
type Line = (bool, &'static str, &'static str, [u32; 2]);

fn step(from_device: bool, words: &str, fate: &str) -> Step {
    let (hook, ends) = match from_device {
        true => ("from = \"berlin\"", "192.168.1.2:40000 > 10.200.0.11:80"),
        false => ("hook = \"lan_ingress\"", "10.200.0.11:80 > 192.168.1.2:40000"),
    };
    let verdict = match (fate, from_device) {
        ("dropped", _) => "drop OutOfWindow",
        (_, true) => "to server",
        (_, false) => "to tunnel berlin",
    };
    let counts = format!("acme: {}", if fate == "opens" { "opened" } else { "to_site" });
    let text = format!("{hook}\npacket = \"{ends} {words}\"\nverdict = \"{verdict}\"\ncounts = \"{counts}\"");
    toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn follow(lines: &[Line]) {
    let mut sequences = Sequences::default();
    for (from_device, words, fate, expected) in lines {
        let complete = sequences.complete(&step(*from_device, words, fate)).expect(words);
        let packet: Packet = complete.packet.parse().expect(words);
        let Network::Ip(_, Transport::Tcp(tcp)) = packet.network else { panic!("{words}") };
        assert_eq!([tcp.seq, tcp.ack], expected.map(Some), "{words}");
    }
}

#[test]
fn connection_is_numbered_from_syn_to_last_ack() {
    follow(&[
        (true, "S", "opens", [1000, 0]),
        (true, "S", "passes", [1000, 0]),
        (false, "SA", "passes", [5000, 1001]),
        (true, "A", "passes", [1001, 5001]),
        (true, "AP len 10", "passes", [1001, 5001]),
        (false, "FA len 5", "passes", [5001, 1011]),
        (false, "FA len 5", "passes", [5001, 1011]),
        (true, "FA", "passes", [1011, 5007]),
        (false, "A", "passes", [5007, 1012]),
        (true, "S", "opens", [1000, 0]),
        (false, "SA", "passes", [5000, 1001]),
    ]);
}

#[test]
fn dropped_packets_and_resets_advance_nothing() {
    follow(&[
        (true, "S", "opens", [1000, 0]),
        (false, "RA", "passes", [0, 1001]),
        (true, "AP len 10", "dropped", [1001, 5000]),
        (true, "R", "passes", [1001, 0]),
        (true, "A", "passes", [1001, 5000]),
    ]);
}

#[test]
fn later_numbers_build_on_stated_ones() {
    follow(&[
        (true, "S seq 4294967295", "opens", [u32::MAX, 0]),
        (false, "SA seq 70000", "passes", [70000, 0]),
        (true, "A len 3", "passes", [0, 70001]),
        (true, "A seq 0 len 1", "passes", [0, 70001]),
        (false, "A ack 9", "passes", [70001, 9]),
        (false, "A", "passes", [70001, 3]),
    ]);
}
