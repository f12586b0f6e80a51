//! The list of reasons: numbers and names are stable and one to one.
use std::collections::BTreeSet;

use gateway_common::reason::{REASON_SLOTS, Reason};

#[test]
fn numbers_map_back_to_their_reasons_only() {
    for number in 0..=u8::MAX {
        let reason = Reason::from_number(number);
        assert_eq!(reason.map(|reason| reason as u8), reason.map(|_| number));
        assert_eq!(reason.is_some(), Reason::ALL.iter().any(|reason| *reason as u8 == number), "{number}");
    }
}

#[test]
fn zero_is_no_reason() {
    assert_eq!(Reason::from_number(0), None);
}

#[test]
fn names_and_sentences_are_unique_and_readable() {
    let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    let sentences: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.sentence()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    assert_eq!(sentences.len(), Reason::ALL.len());
    for reason in Reason::ALL {
        assert_eq!(reason.name(), format!("{reason:?}"));
        let sentence = reason.sentence();
        assert!(sentence.ends_with('.') && sentence.starts_with(char::is_uppercase), "{sentence:?}");
        assert!(!sentence.contains("  ") && sentence.trim() == sentence, "{sentence:?}");
    }
}

#[test]
fn all_are_in_the_order_of_their_numbers_and_have_a_counter() {
    assert!(Reason::ALL.is_sorted_by(|a, b| (*a as u8) < (*b as u8)));
    assert!(Reason::ALL.iter().all(|reason| (*reason as usize) < REASON_SLOTS));
}
