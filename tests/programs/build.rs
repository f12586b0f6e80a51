//! Compiles the eBPF programs of the tests into `OUT_DIR/gateway-tests-ebpf`.
#[path = "../../gateway/ebpf.rs"]
mod ebpf;

fn main() -> anyhow::Result<()> {
    ebpf::compile("gateway-tests-ebpf", "tests/programs/ebpf")
}
