//! Reloads that would remove many customers at once.
use super::{Dir, customer};
use crate::policy::{Policy, check_removals};

/// Returns a policy with `count` customers and one without the first `gone` of them.
fn policies(count: usize, gone: usize) -> (Policy, Policy) {
    let dir = Dir::new();
    for n in 1..=count {
        let server = format!("10.200.0.{n}");
        dir.write(
            &format!("customers/c{n:03}.toml"),
            customer(&server, &format!("c{n}.example"), "10.1.0.0/16"),
        );
    }
    let old = dir.load().unwrap();
    for n in 1..=gone {
        dir.remove(&format!("customers/c{n:03}.toml"));
    }
    (old, dir.load().unwrap())
}

fn is_held_back(count: usize, gone: usize, max_percent: u8) -> bool {
    let (old, new) = policies(count, gone);
    check_removals(old.customers.keys(), &new, max_percent).is_err()
}

#[test]
fn removing_more_than_the_limit_is_held_back() {
    assert!(!is_held_back(100, 10, 10));
    assert!(is_held_back(100, 11, 10));
    assert!(is_held_back(110, 12, 10) && !is_held_back(110, 11, 10));
    assert!(is_held_back(100, 51, 50) && !is_held_back(100, 50, 50));
}

#[test]
fn removing_fewer_than_10_is_never_held_back() {
    assert!(!is_held_back(12, 9, 10));
    assert!(is_held_back(12, 10, 10));
}

#[test]
fn removing_everybody_is_held_back() {
    assert!(is_held_back(2, 2, 10) && is_held_back(100, 100, 99));
    assert!(!is_held_back(1, 1, 10), "the only customer may leave");
    assert!(!is_held_back(0, 0, 10));
    assert!(!is_held_back(100, 100, 100), "100 switches the limit off");
}

#[test]
fn message_names_customers_and_the_key() {
    let (old, new) = policies(30, 20);
    let message = check_removals(old.customers.keys(), &new, 10).unwrap_err().to_string();
    let names = "c001, c002, c003, c004, c005, c006, c007, c008, …";
    assert!(message.contains(&format!("remove 20 of 30 customers ({names})")), "{message}");
    assert!(message.contains("[reload] max_removed_percent is 10"), "{message}");
}

#[test]
fn added_customers_do_not_make_up_for_removed_ones() {
    let (old, mut new) = policies(100, 11);
    let (others, _) = policies(150, 0);
    new.customers.extend(others.customers.into_iter().skip(100));
    assert_eq!(new.customers.len(), 139);
    assert!(check_removals(old.customers.keys(), &new, 10).is_err());
}
