//! Compiles the eBPF programs of the tests into `OUT_DIR/gateway-tests-ebpf`, as gateway/build.rs does the
//! gateway's.
use anyhow::{Result, ensure};
use aya_build::{Package, Toolchain};

const LINKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/bin/bpf-linker");
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf");

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={LINKER}");
    ensure!(
        std::path::Path::new(LINKER).exists(),
        "bpf-linker, which links the eBPF programs, is not installed: run `cargo xtask setup`"
    );
    // SAFETY: a build script's main is single-threaded here. `-Z build-std` needs it on a stable rustc.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    aya_build::build_ebpf(
        [Package { name: "gateway-tests-ebpf", root_dir: PROGRAMS, ..Default::default() }],
        Toolchain::Custom(env!("CARGO_PKG_RUST_VERSION")),
    )
}
