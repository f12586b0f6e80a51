//! Compiles the eBPF programs into `OUT_DIR/gateway-ebpf`.
mod ebpf;

fn main() -> anyhow::Result<()> {
    ebpf::compile("gateway-ebpf", "gateway-ebpf")
}
