//! Long steps: one line each, with the time and the last line of what runs; everything goes to a log.
use std::{
    fs::{self, File},
    io::{IsTerminal as _, Read as _, Seek as _, SeekFrom, Write as _, stderr},
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, project};

/// Between two looks at a running command.
const TICK: Duration = Duration::from_millis(100);
/// Between two lines of progress where stderr is not a terminal.
const QUIET: Duration = Duration::from_secs(20);

/// A named step of set-up. Its commands write to `target/tools/log/NAME.log`.
pub struct Step {
    title: String,
    log: PathBuf,
    started: Instant,
}

impl Step {
    /// Announces the step. `name` names the log.
    pub fn start(name: &str, title: impl Into<String>) -> Result<Self> {
        let title = title.into();
        let directory = project::tools().join("log");
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let log = directory.join(format!("{name}.log"));
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        if !stderr().is_terminal() {
            eprintln!("  {title} …");
        }
        Ok(Self { title, log, started: Instant::now() })
    }

    /// Runs a command to its end and shows how it goes on.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let open = || File::options().append(true).open(&self.log);
        let (out, err) = (open()?, open()?);
        let mut child = command
            .stdin(std::process::Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| command::cannot_start(command))?;
        let mut said = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            sleep(TICK);
            if stderr().is_terminal() {
                self.redraw();
            } else if said.elapsed() >= QUIET {
                said = Instant::now();
                eprintln!("    {} s: {}", self.started.elapsed().as_secs(), self.last_line());
            }
        };
        if status.success() {
            return Ok(());
        }
        self.clear();
        let log = fs::read(&self.log).unwrap_or_default();
        bail!("{} (log: {})", reason(&String::from_utf8_lossy(&log)), self.log.display())
    }

    /// Ends the step's line.
    pub fn done(self) {
        self.clear();
        eprintln!("  {}: done in {} s", self.title, self.started.elapsed().as_secs_f32().ceil());
    }

    fn redraw(&self) {
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        let line = format!("  {}  {} s  {}", self.title, self.started.elapsed().as_secs(), self.last_line());
        let line: String = line.chars().take(width.saturating_sub(1)).collect();
        eprint!("\r{line}\x1b[K");
        let _ = stderr().flush();
    }

    fn clear(&self) {
        if stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }

    fn last_line(&self) -> String {
        let tail = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let from = file.metadata()?.len().saturating_sub(1024);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        last_line(&String::from_utf8_lossy(&tail().unwrap_or_default()))
    }
}

/// The last line that says something; a carriage return ends a line too (progress bars).
fn last_line(text: &str) -> String {
    let line = text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty());
    line.unwrap_or_default().chars().filter(|character| !character.is_control()).collect()
}

/// Why a command failed, from its output: no network before anything else, then its first error.
fn reason(log: &str) -> String {
    const NO_NETWORK: [&str; 8] = [
        "Could not resolve",
        "Temporary failure",
        "Could not connect",
        "could not resolve",
        "dns error",
        "Network is unreachable",
        "network failure",
        "error sending request",
    ];
    let found = |line: &&str| NO_NETWORK.iter().any(|words| line.contains(words));
    if let Some(line) = log.lines().find(found) {
        return format!("no network, or what is needed cannot be reached through it: {}", line.trim());
    }
    let error =
        |line: &&str| line.starts_with("E:") || line.starts_with("error") || line.starts_with("fatal");
    log.lines().find(error).map_or_else(|| last_line(log), |line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_skips_blanks_and_colours_and_honours_carriage_returns() {
        assert_eq!(last_line("one\ntwo\r  three\u{7}\n\n"), "three");
        assert_eq!(last_line(""), "");
    }

    #[test]
    fn reason_prefers_a_missing_network_to_what_follows_from_it() {
        let log = "Err:1 host\n  Temporary failure resolving 'host'\nE: Unable to locate package x\n";
        assert!(reason(log).starts_with("no network"));
        assert_eq!(reason("E: Unable to locate package x\nbye\n"), "E: Unable to locate package x");
        assert_eq!(reason("a\nb\n"), "b");
    }
}
