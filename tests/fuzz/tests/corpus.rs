//! Replays every committed input.
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
fn corpus_of_outer_frames_passes() {
    replay("outer");
}

#[test]
fn corpus_of_inner_frames_passes() {
    replay("inner");
}

#[test]
fn corpus_of_tracking_passes() {
    replay("tracking");
}

#[test]
fn corpus_of_policies_passes() {
    replay("policy");
}

#[test]
fn corpus_of_vici_frames_passes() {
    replay("vici");
}

#[test]
fn target_names_are_unique() {
    for target in &Target::ALL {
        assert_eq!(Target::named(target.name).map(|found| found.name), Some(target.name));
    }
}
