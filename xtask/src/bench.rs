//! `cargo xtask bench`: the benchmark. Instructions are counted in the virtual machine; time, control and memory are
//! measured on this machine if its kernel allows. Results are written to `docs/benchmarks/`.
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    command::{self, cannot_start, command},
    flood, kernel,
    machine::Machine,
    native,
    project::{self, BENCH, GATEWAYD},
    setup::{self, Needs},
    stream,
    vm::{self, Console},
};

/// The choice of measurements.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Choice {
    /// Only this part
    part: Option<Part>,
    /// Measure fewer combinations, all in less than 3 minutes; write to target/bench
    #[arg(long)]
    quick: bool,
    /// Measure our own instructions, and fail if a packet costs over 3 % more than the committed figures; write
    /// nothing
    #[arg(long, conflicts_with_all = ["part", "quick"])]
    check: bool,
}

/// A part of the benchmark, named as in `bench report --part`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Part {
    /// Instructions for each packet and contender, in the virtual machine
    Instructions,
    /// Time for each packet, on this machine
    Time,
    /// Time to load customers and to add one
    Control,
    /// Kernel memory for each flow and each customer
    Memory,
    /// The cost of 10,000 tunnels: IKE, and gatewayd, with real charons at both ends
    Tunnels,
}

/// The combinations of instruction counts that CI checks.
const CHECKED: [&str; 12] = [
    "instructions",
    "--quick",
    "--contenders",
    "ingress-drop,redirect,stack",
    "--workloads",
    "established,reply,new-connection,denied-syn",
    "--customers",
    "1,10000",
    "--random-packets",
    "200",
    "--rounds",
    "3",
];

impl Part {
    const ALL: [Self; 5] = [Self::Instructions, Self::Time, Self::Control, Self::Memory, Self::Tunnels];

    fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Time => "time",
            Self::Control => "control",
            Self::Memory => "memory",
            Self::Tunnels => "tunnels",
        }
    }
}

/// The machine that a part is measured on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Native,
    /// The virtual machine, counting instructions.
    Icount,
    Vm,
}

/// Sets up, builds, measures, and returns the exit status.
pub fn run(choice: Choice, machine: &Machine) -> Result<i32> {
    if choice.check {
        return check(machine);
    }
    let parts = choice.part.map_or(Part::ALL.to_vec(), |part| vec![part]);
    let directory = if choice.quick { scratch()? } else { project::root().join("docs/benchmarks") };
    setup::ensure(Needs { lab: true, ..Needs::default() })?;
    let native = kernel_can();
    let mut places = Vec::new();
    for part in parts {
        let place = match (part, native) {
            (Part::Instructions, _) => Place::Icount,
            (_, true) => Place::Native,
            (Part::Time | Part::Tunnels, false) => bail!(
                "{} cannot be measured here: it needs root and a kernel with veth, TCX, nftables and \
                 iptables-legacy; in the emulated virtual machine it would mean nothing",
                part.name()
            ),
            (_, false) => Place::Vm,
        };
        places.push((part, place));
    }
    let vm = places.iter().any(|(_, place)| *place != Place::Native);
    setup::ensure(Needs { lab: true, vm, ..Needs::default() })?;
    let programs = build::tool(BENCH)?;
    // Asked before the first report changes the work tree.
    let commit = output("git", &["describe", "--always", "--dirty"])?;
    for (part, place) in places {
        eprintln!("\n=== {}", part.name());
        // These parts measure user space, so they use an optimised build, as shipped.
        let programs = match part {
            Part::Control | Part::Tunnels => build::released(BENCH)?,
            Part::Instructions | Part::Time | Part::Memory => programs.clone(),
        };
        if part == Part::Tunnels {
            build::released(GATEWAYD)?;
        }
        let mut words = vec![part.name()];
        words.extend(choice.quick.then_some("--quick"));
        let figures = scratch()?.join(format!("{}.jsonl", part.name()));
        let status = measure(&programs, &words, place, machine, &figures)?;
        if status != 0 {
            eprintln!("{} failed with status {status}; its committed figures are unchanged", part.name());
            return Ok(status);
        }
        report(&programs, part, place, choice, &directory, &figures, &commit)?;
    }
    eprintln!("\nTables and plots: {}", directory.join("README.md").display());
    Ok(0)
}

/// Compares our own instructions with the committed ones and returns the exit status.
pub fn check(machine: &Machine) -> Result<i32> {
    setup::ensure(Needs { lab: true, vm: true, ..Needs::default() })?;
    let programs = build::tool(BENCH)?;
    let figures = scratch()?.join("check.jsonl");
    let status = measure(&programs, &CHECKED, Place::Icount, machine, &figures)?;
    if status != 0 {
        return Ok(status);
    }
    let mut compare = command(programs.join(BENCH.program));
    compare.args(["check", "--directory"]).arg(project::root().join("docs/benchmarks"));
    let status = compare.arg("--figures").arg(&figures).status().with_context(|| cannot_start(&compare))?;
    Ok(status.code().unwrap_or(1))
}

/// Runs `bench WORDS`, writes its figures to a file, shows its other output, and returns its exit status.
fn measure(programs: &Path, words: &[&str], place: Place, machine: &Machine, figures: &Path) -> Result<i32> {
    let program = programs.join(BENCH.program);
    let file = File::create(figures).with_context(|| format!("write {}", figures.display()))?;
    let mut output = Output { figures: file, line: Vec::new(), begun: Instant::now() };
    if place == Place::Native {
        let mut bench = command(&program);
        let mut child = bench
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| cannot_start(&bench))?;
        stream::copy(child.stdout.take().context("no pipe")?, &mut output, "no mark")?;
        return Ok(child.wait()?.code().unwrap_or(1));
    }
    let mut all = vec![program.to_string_lossy().into_owned()];
    all.extend(words.iter().map(|word| (*word).to_owned()));
    // The rules of 100,000 customers need this memory.
    let memory_mib =
        if words.contains(&"--quick") { machine.memory_mib } else { machine.memory_mib.max(6144) };
    let machine = Machine { icount: place == Place::Icount, memory_mib, ..machine.clone() };
    vm::run(&machine, &all, Console::Output(&mut output))
}

/// Writes tables and plots, with the kernel and the processor that the figures are from.
fn report(
    programs: &Path,
    part: Part,
    place: Place,
    choice: Choice,
    directory: &Path,
    figures: &Path,
    commit: &str,
) -> Result<()> {
    let quick = if choice.quick { " --quick" } else { "" };
    let (kernel, processor) = match place {
        Place::Native => (output("uname", &["-sr"])?, processor()?),
        _ => {
            let kernel = kernel::installed().context("the guest's kernel was removed")?;
            let how = if place == Place::Icount { "QEMU, counting instructions" } else { "QEMU" };
            (format!("Linux {}", kernel.version), how.to_owned())
        }
    };
    let mut report = command(programs.join(BENCH.program));
    report.args(["report", "--part", part.name(), "--directory"]).arg(directory);
    report.arg("--figures").arg(figures);
    report.arg("--command").arg(format!("cargo xtask bench {}{quick}", part.name()));
    report.args(["--kernel", &kernel, "--processor", &processor]);
    report.args(["--date", &output("date", &["-u", "+%F"])?]);
    report.args(["--commit", commit]);
    command::run(&mut report)
}

/// Returns the directory for quick runs and for figures that no report has read yet.
fn scratch() -> Result<PathBuf> {
    let directory = project::target().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}

/// Returns true if all contenders can run on this machine's kernel, which must also support the flood test.
fn kernel_can() -> bool {
    let tries = "ip link set lo up && echo 'table ip t { chain c { ct state established accept; }; }' | nft -f - \
                 && iptables-legacy -A FORWARD -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT";
    flood::kernel_can() && native::can(tries)
}

fn processor() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(name.map_or("unknown", |(_, name)| name).to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    Ok(command::output(command(program).args(arguments))?.trim().to_owned())
}

/// Writes lines that are figures to a file, and all others to stderr with the elapsed time.
struct Output {
    figures: File,
    line: Vec<u8>,
    begun: Instant,
}

impl Output {
    fn line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if line.starts_with(b"{") {
            return self.figures.write_all(&[&line[..], b"\n"].concat());
        }
        let text = String::from_utf8_lossy(&line);
        eprintln!("{:>5} s  {}", self.begun.elapsed().as_secs(), text.trim_end());
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => self.line()?,
                _ => self.line.push(*byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_to_the_file_however_the_output_is_cut() {
        let path = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        let mut output =
            Output { figures: File::create(&path).unwrap(), line: Vec::new(), begun: Instant::now() };
        for piece in b"booting\r\n{\"a\":1}\nnoise {\n{\"b\":2}\n".chunks(3) {
            output.write_all(piece).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
        fs::remove_file(&path).unwrap();
    }
}
