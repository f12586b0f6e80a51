//! The developer's commands, `cargo xtask COMMAND`. One module for each command.
mod bench;
mod bpf;
mod build;
mod command;
mod diff;
mod flood;
mod fuzz;
mod guest;
mod kernel;
mod lab;
mod linker;
mod lint;
mod machine;
mod mutate;
mod native;
mod packages;
mod progress;
mod project;
mod setup;
mod signals;
mod space;
mod stream;
mod terminal;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use machine::Machine;

/// Commands for developers.
///
/// Start with `cargo xtask run`, which brings up a whole gateway with customers, tunnels and attackers, and
/// `cargo xtask test`. Every command first announces and installs the tools it lacks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
#[command(after_help = "Examples:
  cargo xtask run                  the lab: tunnels come up, requests pass, attacks fail
  cargo xtask run --shell          the same, then a shell on the gateway:
                                   bpftool map dump pinned …, ip xfrm state, swanctl -l
  cargo xtask test                 all tests; the last line sums them up
  cargo xtask test --only host rekey
                                   the host tests with \"rekey\" in their names
  cargo xtask bench --quick        all contenders, in 3 minutes; figures in target/bench
  cargo xtask bench instructions   one part in full, written to docs/benchmarks
  cargo xtask vm --tty -- bash     a shell in the virtual machine
  cargo xtask lint --fix           format, and apply clippy's suggestions

Set-up installs under target/. Its logs are in target/tools/log.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring up the lab; show requests passing and attacks failing
    ///
    /// The lab has four customers with five sites, each with its own strongSwan and a device; their servers; the
    /// cloud gateway with gatewayd and the policies of policies/. It runs natively if we are root and the kernel has
    /// ESP, else in a virtual machine. The exit status is 0 only if everything went as expected. Nothing is left
    /// behind.
    #[command(after_help = "Examples:
  cargo xtask run                  takes about 4 minutes in the emulated virtual machine, else less
  cargo xtask run --shell          ends in a shell on the gateway; there for example:
                                   gatewayctl status; gatewayctl drops; swanctl -l; ip xfrm state
  cargo xtask run --vm --cpus 1    in the virtual machine, with one processor")]
    Run {
        #[command(flatten)]
        choice: lab::Choice,
        #[command(flatten)]
        then: lab::Then,
        #[command(flatten)]
        machine: Machine,
    },
    /// Run all tests, or those with FILTER in their names
    ///
    /// Stages: host tests, packet replay, differential, flood, end to end, bench, lint. All run even if one fails.
    /// Stages that cannot run on this machine count as skipped. The last line sums up.
    #[command(after_help = "Examples:
  cargo xtask test --only host reply_from_other_tunnel
                                   host tests with this in their names
  cargo +1.98.0 test -p gateway-common --test tracking
                                   one file of them, without xtask
  cargo xtask test --only replay device_closes_first
                                   one replay case: a `name` in tests/cases/*.toml
  cargo xtask test --only lab rekey
                                   lab scenarios and attacks with this in their names
  cargo xtask test --only diff     a whole stage
  cargo xtask diff -- --help       one seed of the differential test; flood likewise
  cargo xtask lint references      one check of the lint stage")]
    Test {
        /// Run only tests whose names contain this, of the host, replay and lab stages
        filter: Option<String>,
        /// Run only this stage; may be repeated
        #[arg(long, value_name = "STAGE")]
        only: Vec<test::Stage>,
        #[command(flatten)]
        choice: lab::Choice,
        #[command(flatten)]
        machine: Machine,
    },
    /// Compare our verdicts with those of the original iptables rules, packet by packet
    ///
    /// The same generated packets go through both at the same time, on real veths. A sequence with a difference that
    /// docs/differences.md does not explain is shrunk and printed as a replay case. The committed seeds, which
    /// failed once, run first.
    #[command(after_help = "Examples:
  cargo xtask diff                          100,000 packets, and every committed seed
  cargo xtask diff --packets 1000 --seed 7  fewer, and others
  cargo xtask diff --trace SEED             one sequence with both sides' verdicts")]
    Diff {
        #[command(flatten)]
        machine: Machine,
        /// --packets N, --seed S, --loose 0|1; for all options: cargo xtask diff -- --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Let one customer and the internet flood the gateway; the other customers must not notice
    ///
    /// Runs with quotas and budgets, then a control without quotas, which must fail; then measures the kernel memory
    /// of a flow. Uses network namespaces, the real programs and real TCP.
    #[command(after_help = "Examples:
  cargo xtask flood                   8 seconds of flood, then the control
  cargo xtask flood --seconds 60      a longer one
  cargo xtask flood --without-quotas  only the control: what the flood does to others without quotas")]
    Flood {
        #[command(flatten)]
        machine: Machine,
        /// --seconds N, --without-quotas; for all options: cargo xtask flood -- --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure this project and its contenders side by side
    ///
    /// Contenders: forwarding with no firewall, the original iptables rules, the best nftables rulesets, this project.
    /// They must agree on 10,000 random packets before anything is measured. Tables, plots and all figures are written
    /// to docs/benchmarks; explanations.toml there, written by hand, says why a target is missed. Instructions are
    /// exact and are counted in the virtual machine; time is measured on this machine, which should be idle.
    #[command(after_help = "Examples:
  cargo xtask bench --quick        all contenders and parts, fewer combinations
  cargo xtask bench                the whole benchmark, some hours; writes docs/benchmarks
  cargo xtask bench control        one part; the figures of the others stay
  cargo xtask bench --check        as CI does: our instructions against the committed ones

In tables, cost is the gateway's own, floor is forwarding with no firewall, tax is the cost above the floor.
A single measurement, in the virtual machine:
  cargo xtask vm --icount -- target/debug/bench instructions --contenders ingress-drop,redirect \\
      --workloads reply --customers 1000")]
    Bench {
        #[command(flatten)]
        choice: bench::Choice,
        #[command(flatten)]
        machine: Machine,
    },
    /// Check format, clippy (warnings denied), dependencies, imports, references and language
    ///
    /// Checks: rustfmt; imports (no circle between the files of a crate, no test tool that uses another);
    /// references (links, decisions, facts, paths and RFCs in the tree; rustdoc for the links in doc comments);
    /// language (openings of comments); clippy; clippy-ebpf; cargo-deny.
    #[command(after_help = "Examples:
  cargo xtask lint                      all checks; the last lines sum them up
  cargo xtask lint rustfmt clippy       these only
  cargo xtask lint rustfmt --fix        formats the files")]
    Lint {
        /// Run only these checks
        check: Vec<lint::Kind>,
        /// Let rustfmt and clippy change the files
        #[arg(long)]
        fix: bool,
    },
    /// Fuzz packets, TCP tracking, policies and VICI, guided by coverage
    ///
    /// The targets are in tests/fuzz. New inputs are kept in target/fuzz/corpus, in addition to tests/fuzz/corpus.
    /// The exit status is 1 if an input fails; the input is kept, and the last lines say how to reproduce the failure.
    #[command(after_help = "Examples:
  cargo xtask fuzz                        a minute for each target; needs a C++ compiler
  cargo xtask fuzz policy --seconds 600   one target for longer
  cargo xtask fuzz --replay               only the known inputs, as the host tests do
  cargo xtask fuzz inner --input FILE     one input, to see why it fails")]
    Fuzz {
        #[command(flatten)]
        choice: fuzz::Choice,
    },
    /// Break each rule of the packet decision, one at a time, and check that a test fails
    ///
    /// tests/mutations.toml lists the rules. gateway-common is copied to target/mutate and mutated there. The exit
    /// status is 1 if no test notices a mutation.
    #[command(after_help = "Examples:
  cargo xtask mutate --list                    the rules and their names
  cargo xtask mutate --only window_1_wider     one rule, after you changed it
  cargo xtask mutate --quick                   all rules, without the random tests")]
    Mutate {
        /// Only print the rules
        #[arg(long)]
        list: bool,
        /// Only rules with NAME in their names; may be repeated
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Skip the random tests, which take half a minute for each rule that the others miss
        #[arg(long)]
        quick: bool,
    },
    /// Run a command in the virtual machine
    ///
    /// The guest sees this machine's files at the same paths and has a kernel with complete IPsec. Files that it
    /// writes are lost when it ends. The exit status is the command's.
    #[command(after_help = "Examples:
  cargo xtask vm --tty -- bash              a shell
  cargo xtask vm -- uname -r                the guest's kernel
  cargo xtask vm -- target/debug/lab --help a program that was built here")]
    Vm {
        /// Give the command a terminal
        #[arg(long)]
        tty: bool,
        #[command(flatten)]
        machine: Machine,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Build gatewayd, gatewayctl and the lab into target/debug
    ///
    /// The other commands build what they need by themselves.
    Build,
    /// Install the tools that the commands need
    ///
    /// Installs the pinned Rust toolchain (next to yours, by rustup), bpf-linker, and what the options add. The other
    /// commands call it for what they need, so it is for preparing a machine before its network goes away.
    Setup {
        /// Add the lab's programs: strongSwan, iproute2, …
        #[arg(long)]
        lab: bool,
        /// Add QEMU and the guest's kernel
        #[arg(long)]
        vm: bool,
        /// Add cargo-deny
        #[arg(long)]
        lint: bool,
        /// Add everything
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    match project::find_root().and_then(|()| run(task)) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    /// Returns about how many gigabytes `target/` has after this command in a fresh clone, rounded up.
    fn target_gigabytes(&self) -> u64 {
        match self {
            Self::Test { only, filter: None, .. } if only.is_empty() => 6,
            Self::Bench { .. } => 4,
            Self::Test { .. } | Self::Run { .. } | Self::Fuzz { .. } | Self::Lint { .. } => 3,
            Self::Diff { .. }
            | Self::Flood { .. }
            | Self::Mutate { .. }
            | Self::Build
            | Self::Setup { .. } => 2,
            Self::Vm { .. } => 1,
        }
    }
}

/// Runs the command and returns its exit status.
fn run(task: Task) -> Result<i32> {
    space::ensure(task.target_gigabytes())?;
    match task {
        Task::Run { choice, then, machine } => lab::run(choice, then, &machine),
        Task::Test { filter, only, choice, machine } => {
            test::run(&only, filter.as_deref(), choice, &machine).map(|passed| i32::from(!passed))
        }
        Task::Diff { machine, arguments } => diff::run(&arguments, &machine),
        Task::Flood { machine, arguments } => flood::run(&arguments, &machine),
        Task::Bench { choice, machine } => bench::run(choice, &machine),
        Task::Lint { check, fix } => {
            let checks = lint::run(&check, fix)?;
            for check in &checks {
                println!("{:<14} {}", check.name, if check.passed { "passed" } else { "FAILED" });
            }
            Ok(i32::from(!checks.iter().all(|check| check.passed)))
        }
        Task::Fuzz { choice } => fuzz::run(&choice),
        Task::Mutate { list, only, quick } => {
            mutate::run(&only, list, quick).map(|all_killed| i32::from(!all_killed))
        }
        Task::Vm { tty, machine, command } => {
            setup::ensure(setup::Needs { vm: true, ..Default::default() })?;
            let mut stdout = std::io::stdout();
            let console = if tty { vm::Console::Terminal } else { vm::Console::Output(&mut stdout) };
            vm::run(&machine, &command, console)
        }
        Task::Build => {
            setup::ensure(setup::Needs::default())?;
            build::lab().map(|_| 0)
        }
        Task::Setup { lab, vm, lint, all } => {
            let needs = setup::Needs { host: all, lab: lab || all, vm: vm || all, lint: lint || all };
            if !setup::ensure(needs)? {
                eprintln!("Everything is already installed.");
            }
            Ok(0)
        }
    }
}
