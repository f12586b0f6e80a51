//! The process dies before each step that changes the disk; what it left must be the state before or after.
use std::rc::Rc;

use super::*;
use crate::folder::{Folder, Steps};
use crate::index::{INDEX, Index};
use crate::init::init_with;
use crate::{Error, Reason, Role, Selection};

/// Most steps that any operation takes.
const MOST: usize = 200;

/// Opens the folder again at a time and checks that everything that its index names is there and whole.
fn check_at(place: &Place, now: OffsetDateTime) -> Index {
    let pki = place.open_at(now).unwrap();
    for authority in pki.authorities() {
        for (extension, content) in [("crt", &authority.certificate), ("crl", &authority.crl)] {
            let file = std::fs::read_to_string(place.path().join(format!("{}.{extension}", authority.role)));
            assert_eq!(file.unwrap(), **content, "the copy is the index's");
        }
        pki.unlock(authority.role, Some(&place.passphrase)).unwrap();
    }
    for record in pki.certificates() {
        pki.certificate_pem(record).unwrap();
        pki.key_pem(record).unwrap();
    }
    assert!(!files(&place.path()).contains(&".new".to_owned()));
    pki.index.clone()
}

/// Runs an operation that dies before step 0, 1, 2 and so on until it lives, and checks the folder after each death.
fn dies_everywhere(
    prepare: impl Fn(&Place),
    operation: impl Fn(&Place, &mut Pki, &SigningAuthority) -> Result<()>,
) {
    let (mut before_seen, mut after_seen) = (false, false);
    for steps in 0..MOST {
        let place = Place::new(true);
        prepare(&place);
        let before = check_at(&place, START);
        let folder = Folder::open(&place.path()).unwrap().with_steps(Steps::dying_after(steps));
        let result = Pki::change_in(folder, Clock { now: day(1), trusted: false }).and_then(|mut pki| {
            let signer = place.signer(&pki);
            operation(&place, &mut pki, &signer)
        });
        let after = check_at(&place, day(1));
        if result.is_ok() {
            assert_ne!(Index { changed: before.changed, ..after }, before);
            assert!(steps > 5 && before_seen && after_seen, "{steps} deaths");
            return;
        }
        let unchanged = Index { changed: before.changed, ..after.clone() } == before;
        before_seen |= unchanged;
        after_seen |= !unchanged;
        if !unchanged {
            assert!(matches!(result, Err(Error::AfterCommit { .. } | Error::Io { .. })), "{result:?}");
            continue;
        }
        // The operation was not done, so it can be repeated.
        let mut pki = place.open_at(day(1)).unwrap();
        let signer = place.signer(&pki);
        operation(&place, &mut pki, &signer).unwrap();
    }
    panic!("the operation takes more than {MOST} steps");
}

#[test]
fn issue_that_dies_leaves_the_state_before_or_after() {
    dies_everywhere(
        |_| {},
        |_, pki, signer| pki.issue(signer, &site("berlin.acme.example"), None, &random()).map(drop),
    );
}

#[test]
fn sign_that_dies_leaves_the_state_before_or_after() {
    let request = read_request(|_| {});
    dies_everywhere(
        |_| {},
        |_, pki, signer| pki.sign(signer, &site("berlin.acme.example"), &request, &random()).map(drop),
    );
}

#[test]
fn renew_that_dies_leaves_the_state_before_or_after() {
    for same_key in [false, true] {
        dies_everywhere(
            |place| drop(place.issue("berlin.acme.example").unwrap()),
            |_, pki, signer| {
                let name = "berlin.acme.example".parse().unwrap();
                pki.renew(signer, &name, 365, same_key, None, &random()).map(drop)
            },
        );
    }
}

#[test]
fn revoke_that_dies_leaves_the_state_before_or_after() {
    dies_everywhere(
        |place| drop(place.issue("berlin.acme.example").unwrap()),
        |_, pki, signer| {
            let all = Selection::All("berlin.acme.example".parse().unwrap());
            pki.revoke(signer, &all, Reason::KeyCompromise, 30).map(drop)
        },
    );
}

#[test]
fn renewal_of_the_issuing_authority_that_dies_leaves_the_state_before_or_after() {
    dies_everywhere(
        |_| {},
        |place, pki, _| {
            let root = pki.unlock(Role::Root, Some(&place.passphrase))?;
            pki.renew_issuing(&root, 1826, &random())
        },
    );
}

#[test]
fn init_that_dies_leaves_nothing_or_everything_at_its_place() {
    for force in [false, true] {
        for steps in 0..MOST {
            let place = if force { Place::new(true) } else { Place::empty() };
            let wishes = NewAuthority { force, ..place.wishes(true) };
            let old = force.then(|| check_at(&place, START));
            let made = init_with(&place.path(), &wishes, day(1), &random(), Steps::dying_after(steps));
            if let Ok(moved) = made {
                assert!(steps > 30, "{steps} steps");
                assert_eq!(moved.is_some(), force);
                check_at(&place, day(1));
                break;
            }
            let moved = place.directory.path().join(format!("pki.replaced-{}", day(1).unix_timestamp()));
            match old {
                None => assert!(!place.path().exists(), "step {steps}"),
                Some(old) if place.path().exists() => {
                    assert_eq!(check_at(&place, START), old, "step {steps}")
                }
                // Between the two renames the old one has its new name already.
                Some(old) => {
                    let folder = Folder::open(&moved).unwrap();
                    assert_eq!(Index::read(&folder).unwrap(), old);
                    std::fs::remove_dir_all(&moved).unwrap();
                }
            }
            init(&place.path(), &wishes, day(1), &random()).unwrap();
            let left: Vec<_> =
                place.directory.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
            assert!(!left.contains(&".pki.unfinished".into()), "{left:?}");
        }
    }
}

#[test]
fn bytes_are_synced_before_the_rename_and_the_folder_after_it() {
    let place = Place::new(false);
    let steps = Steps::default();
    let taken = Rc::clone(&steps.taken);
    let folder = Folder::open(&place.path()).unwrap().with_steps(steps);
    let mut pki = Pki::change_in(folder, Clock { now: START, trusted: false }).unwrap();
    let signer = place.signer(&pki);
    pki.issue(&signer, &site("berlin.acme.example"), None, &random()).unwrap();
    let taken = taken.borrow();
    let renames: Vec<usize> = (0..taken.len()).filter(|step| taken[*step] == "rename").collect();
    assert_eq!(renames.len(), 3, "key, certificate and index: {taken:?}");
    for rename in renames {
        assert_eq!(
            taken[rename - 4..=rename + 1],
            ["open", "write", "write", "sync", "rename", "sync folder"]
        );
    }
    assert!(place.path().join(INDEX).exists());
}
