//! Every input that is kept in the repository, once more.
use gateway_fuzz::{Target, corpus};

fn replay(name: &str) {
    let target = Target::named(name).expect("a target");
    let inputs = corpus(target).expect("a corpus");
    assert!(!inputs.is_empty(), "the corpus of {name} is empty");
    for path in inputs {
        let input = std::fs::read(&path).expect("an input");
        if let Err(panic) = std::panic::catch_unwind(|| (target.run)(&input)) {
            eprintln!("cargo xtask fuzz {name} --input {}", path.display());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn outer_frames_of_the_corpus_are_judged_as_they_must() {
    replay("outer");
}

#[test]
fn inner_frames_of_the_corpus_are_judged_as_they_must() {
    replay("inner");
}

#[test]
fn segments_of_the_corpus_are_tracked_as_they_must() {
    replay("tracking");
}

#[test]
fn policies_of_the_corpus_are_read_as_they_must() {
    replay("policy");
}

#[test]
fn vici_frames_of_the_corpus_are_read_as_they_must() {
    replay("vici");
}

#[test]
fn every_target_has_a_name_of_its_own() {
    for target in &Target::ALL {
        assert_eq!(Target::named(target.name).map(|found| found.name), Some(target.name));
    }
}
