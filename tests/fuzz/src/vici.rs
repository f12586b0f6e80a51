//! VICI frames, valid and invalid.
use gateway::strongswan::{Event, IkeSa, TrafficSelector, fuzzing};

/// Largest size of a text (`raw_sa`).
const MAX_TEXT_BYTES: usize = 512;
/// Largest number of children of an IKE_SA, and of traffic selectors of a child (`raw_sa`).
const MAX_ITEMS: usize = 64;

/// Reads a frame and checks that all values are bounded and printable. The input is a frame without its
/// length.
pub fn run(input: &[u8]) {
    let frame = fuzzing::read(input);
    assert!(frame.packet || (frame.sa.is_none() && frame.event.is_none()));
    if let Some(sa) = &frame.sa {
        check_sa(sa);
    }
    if let Some(Event { ike, children, .. }) = &frame.event {
        assert!(!ike.chars().any(char::is_control));
        assert!(children.len() <= MAX_ITEMS);
    }
}

fn check_sa(sa: &IkeSa) {
    for text in [&sa.name, &sa.local_id, &sa.remote_id] {
        check_text(text);
    }
    assert!(sa.children.len() <= MAX_ITEMS);
    for child in &sa.children {
        check_text(&child.name);
        for selectors in [&child.local_ts, &child.remote_ts] {
            assert!(selectors.len() <= MAX_ITEMS);
            for selector in selectors {
                if let TrafficSelector::Other(text) = selector {
                    check_text(text);
                }
            }
        }
    }
}

fn check_text(text: &str) {
    assert!(text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control), "{text:?}");
}
