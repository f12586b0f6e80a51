//! Everything a developer runs, as `cargo xtask COMMAND`. One module for each task.
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
mod mutate;
mod native;
mod packages;
mod progress;
mod project;
mod setup;
mod signals;
mod stream;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Everything a developer runs.
///
/// Start with `cargo xtask run`, which brings up a whole gateway with customers, tunnels and attackers, and
/// `cargo xtask test`. Every command first installs what it needs and is missing, and says what that is.
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
  cargo xtask lint --fix           format, and let clippy change what it can

Set-up caches under target/. Its logs are in target/tools/log.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring up the lab, show requests passing and attacks failing
    ///
    /// Four customers with five sites, each with its own strongSwan and a device; their servers; the cloud
    /// gateway with gatewayd and the policies of policies/. It runs natively if we are root and the kernel has
    /// ESP, else in a virtual machine. The exit status is 0 only if everything went as expected; nothing is
    /// left behind.
    Run {
        #[command(flatten)]
        choice: lab::Choice,
        #[command(flatten)]
        then: lab::Then,
        #[command(flatten)]
        machine: vm::Machine,
    },
    /// Run all tests, or those with FILTER in their names
    ///
    /// Stages: host tests, packet replay, differential, flood, end to end, bench, lint. All run even if one fails. What cannot run here
    /// counts as skipped.
    Test {
        /// Only tests whose names contain this; without lint
        filter: Option<String>,
        /// Only this stage; may be repeated
        #[arg(long, value_name = "STAGE")]
        only: Vec<test::Stage>,
        #[command(flatten)]
        choice: lab::Choice,
        #[command(flatten)]
        machine: vm::Machine,
    },
    /// Compare our verdicts with those of the original iptables rules, packet by packet
    ///
    /// The same generated packets go through both at the same time, on real veths. A sequence with a
    /// difference that has no entry in the table of purposes is shrunk and printed as a replay case. First
    /// come the seeds of tests/diff/seeds.txt.
    Diff {
        #[command(flatten)]
        machine: vm::Machine,
        /// --packets N, --seed S, --loose 0|1; see --help behind --
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Let one customer and the internet flood the gateway; the other customers must not notice
    ///
    /// With quotas and budgets, then a control without quotas, which must fail; then the kernel memory for
    /// one flow. In network namespaces, with the real programs and real TCP.
    Flood {
        #[command(flatten)]
        machine: vm::Machine,
        /// --seconds N, --without-quotas; see --help behind --
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure this project and its contenders side by side
    ///
    /// Contenders: forwarding with no firewall, the original iptables rules, the best nftables rulesets, this
    /// project. They must agree on 10,000 random packets before anything is measured. Tables, plots and all
    /// figures are written to docs/benchmarks; why a target is not met is written by hand, in its
    /// explanations.toml. Instructions are exact and are counted in the virtual machine; time is measured on
    /// this machine, which should have nothing else to do.
    #[command(after_help = "Examples:
  cargo xtask bench --quick        all contenders and parts, fewer combinations
  cargo xtask bench                all of it, for some hours; writes docs/benchmarks
  cargo xtask bench control        one part; the others' figures stay as they are
  cargo xtask bench --check        what CI does: our instructions beside the committed ones

In tables, cost is the gateway's own, floor that of forwarding with no firewall, tax cost above the floor.
One measurement by hand, in the virtual machine:
  cargo xtask vm --icount -- target/debug/bench instructions --contenders ingress-drop,redirect \\
      --workloads reply --customers 1000")]
    Bench {
        #[command(flatten)]
        choice: bench::Choice,
        #[command(flatten)]
        machine: vm::Machine,
    },
    /// Check format, clippy (warnings denied) and dependencies
    Lint {
        /// Let rustfmt and clippy change the files
        #[arg(long)]
        fix: bool,
    },
    /// Fuzz packets, TCP tracking, policies and VICI, guided by coverage
    ///
    /// The targets are in tests/fuzz. New inputs are kept in target/fuzz/corpus, beside those of
    /// tests/fuzz/corpus. The exit status is 1 if an input fails; it is then kept, and the last lines say how to see
    /// it again.
    Fuzz {
        #[command(flatten)]
        choice: fuzz::Choice,
    },
    /// Break each rule of the packet decision, one at a time, and see that a test fails
    ///
    /// The rules are in tests/mutations.toml. gateway-common is copied to target/mutate and broken there. The
    /// exit status is 1 if a rule can be broken unnoticed.
    Mutate {
        /// Only print the rules
        #[arg(long)]
        list: bool,
        /// Only those with NAME in their names; may be repeated
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Without the tests by random packets, which take half a minute for a rule that the others miss
        #[arg(long)]
        quick: bool,
    },
    /// Run a command in the virtual machine, for exploring
    ///
    /// The guest sees this machine's files at the same paths and has a kernel with complete IPsec. What it
    /// writes is gone afterwards. The exit status is the command's.
    Vm {
        /// Give the command a terminal
        #[arg(long)]
        tty: bool,
        #[command(flatten)]
        machine: vm::Machine,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Build gatewayd, gatewayctl and the lab into target/debug
    Build,
    /// Install what the commands need, without running one
    ///
    /// The pinned Rust toolchain (beside yours, by rustup) and bpf-linker, then whatever the options add.
    Setup {
        /// Also what the lab needs: strongSwan, iproute2, …
        #[arg(long)]
        lab: bool,
        /// Also QEMU and the guest's kernel
        #[arg(long)]
        vm: bool,
        /// Also cargo-deny
        #[arg(long)]
        lint: bool,
        /// All of it
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the exit status.
fn run(task: Task) -> Result<i32> {
    match task {
        Task::Run { choice, then, machine } => lab::run(choice, then, &machine),
        Task::Test { filter, only, choice, machine } => {
            test::run(&only, filter.as_deref(), choice, &machine).map(|passed| i32::from(!passed))
        }
        Task::Diff { machine, arguments } => diff::run(&arguments, &machine),
        Task::Flood { machine, arguments } => flood::run(&arguments, &machine),
        Task::Bench { choice, machine } => bench::run(choice, &machine),
        Task::Lint { fix } => {
            let checks = lint::run(fix)?;
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
            build::all().map(|_| 0)
        }
        Task::Setup { lab, vm, lint, all } => {
            let needs = setup::Needs { lab: lab || all, vm: vm || all, lint: lint || all };
            if !setup::ensure(needs)? {
                eprintln!("Everything is there already.");
            }
            Ok(0)
        }
    }
}
