//! Compiles the eBPF programs of the tests into `OUT_DIR/gateway-tests-ebpf`, as gateway/build.rs does the
//! gateway's.
use std::{env, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    // Read at run time: cargo reuses this build script in a copy of the tree.
    let package = env::var("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?;
    let linker = format!("{package}/../../target/tools/bin/bpf-linker");
    let programs = format!("{package}/ebpf");
    println!("cargo::rerun-if-changed={linker}");
    ensure!(
        Path::new(&linker).exists(),
        "bpf-linker, which links the eBPF programs, is not installed: run `cargo xtask setup`"
    );
    // SAFETY: a build script's main is single-threaded here.
    unsafe {
        // `-Z build-std` needs it on a stable rustc.
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // aya-build passes its cargo's progress on as warnings of this package.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    aya_build::build_ebpf(
        [Package { name: "gateway-tests-ebpf", root_dir: &programs, ..Default::default() }],
        Toolchain::Custom(env!("CARGO_PKG_RUST_VERSION")),
    )
}
