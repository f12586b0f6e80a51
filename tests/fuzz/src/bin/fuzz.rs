//! Runs one target under libFuzzer, which provides `main` and reads the command line. The environment
//! variable FUZZ_TARGET names the target.
#![no_main]

use std::sync::LazyLock;

use gateway_fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("FUZZ_TARGET names no target: {name:?}"))
});

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
