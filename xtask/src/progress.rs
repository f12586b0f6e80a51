//! Long steps: one line each, with the elapsed time and the last line of output; the output goes to a log.
use std::{
    fs::{self, File},
    io::{IsTerminal as _, Read as _, Seek as _, SeekFrom, Write as _, stderr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, project};

/// Interval between two polls of a running command.
const TICK: Duration = Duration::from_millis(100);
/// Interval between two lines of progress if stderr is not a terminal.
const QUIET: Duration = Duration::from_secs(20);
/// A step shorter than this is not reported at all.
const NOTICEABLE: Duration = Duration::from_secs(1);

/// A step with a title. Its commands write to a log.
pub struct Step {
    title: String,
    log: PathBuf,
    /// The log is removed with the step.
    temporary: bool,
    started: Instant,
}

impl Step {
    /// Starts a step of set-up, whose log `target/tools/log/NAME.log` stays.
    pub fn start(name: &str, title: impl Into<String>) -> Result<Self> {
        let log = project::tools().join("log").join(format!("{name}.log"));
        Self::with_log(log, title.into(), false)
    }

    /// Starts a step whose log is removed at its end.
    pub fn unlogged(title: impl Into<String>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = project::target().join(format!("log/{}-{number}.log", std::process::id()));
        Self::with_log(log, title.into(), true)
    }

    fn with_log(log: PathBuf, title: String, temporary: bool) -> Result<Self> {
        let directory = log.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self { title, log, temporary, started: Instant::now() })
    }

    /// Runs a command to its end and shows its progress.
    ///
    /// # Errors
    /// If it fails; the error names the likely reason and the log.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        if self.status(command)?.success() {
            return Ok(());
        }
        bail!("{} (log: {})", reason(&self.output()), self.log.display())
    }

    /// Runs a command to its end, shows its progress, and shows its output if it fails.
    ///
    /// # Errors
    /// If it fails.
    pub fn run_or_show(&self, command: &mut Command) -> Result<()> {
        if stderr().is_terminal() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        let status = self.status(command)?;
        if !status.success() {
            for line in self.output().lines().filter(|line| !is_progress(line)) {
                eprintln!("{line}");
            }
        }
        command::check(command, status)
    }

    /// Ends the step and says how long it took.
    pub fn done(self) {
        if self.started.elapsed() >= NOTICEABLE {
            eprintln!("  {}: done in {} s", self.title, self.started.elapsed().as_secs_f32().ceil());
        }
    }

    fn status(&self, command: &mut Command) -> Result<ExitStatus> {
        let open = || File::options().append(true).open(&self.log);
        let (out, err) = (open()?, open()?);
        let mut child = command
            .stdin(std::process::Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| command::cannot_start(command))?;
        let mut reported: Option<Instant> = None;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            sleep(TICK);
            if stderr().is_terminal() {
                self.redraw();
            } else if reported.is_none() && self.started.elapsed() >= NOTICEABLE {
                reported = Some(Instant::now());
                eprintln!("  {} …", self.title);
            } else if reported.is_some_and(|when| when.elapsed() >= QUIET) {
                reported = Some(Instant::now());
                eprintln!("    {} s: {}", self.started.elapsed().as_secs(), self.last_line());
            }
        };
        if stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        Ok(status)
    }

    fn redraw(&self) {
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        let line = format!("  {}  {} s  {}", self.title, self.started.elapsed().as_secs(), self.last_line());
        let line: String = line.chars().take(width.saturating_sub(1)).collect();
        eprint!("\r{line}\x1b[K");
        let _ = stderr().flush();
    }

    /// Returns the log's text.
    fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
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

impl Drop for Step {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_file(&self.log);
        }
    }
}

/// Returns the last line that is not blank; a carriage return ends a line too (progress bars).
fn last_line(text: &str) -> String {
    let text = plain(text);
    let line = text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty());
    line.unwrap_or_default().chars().filter(|character| !character.is_control()).collect()
}

/// Removes the escape sequences that colour text.
fn plain(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain += piece.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
    }
    plain
}

/// Returns true for a line of cargo's progress, which says nothing about a failure.
fn is_progress(line: &str) -> bool {
    const VERBS: [&str; 11] = [
        "Adding",
        "Blocking",
        "Building",
        "Checking",
        "Compiling",
        "Downloaded",
        "Downloading",
        "Finished",
        "Locking",
        "Running",
        "Updating",
    ];
    let text = plain(line);
    // A progress bar is overwritten by the next text of its line.
    let text = text.rsplit('\r').find(|part| !part.trim().is_empty()).unwrap_or_default();
    // cargo right-aligns its verbs in 12 columns; no other output is indented so.
    let verb = text.split_whitespace().next().unwrap_or_default();
    VERBS.contains(&verb) && text.len() - text.trim_start().len() + verb.len() == 12
}

/// Finds why a command failed in its output: a missing network first, then the first error.
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
        return format!("no network, or the server cannot be reached: {}", line.trim());
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
        assert_eq!(last_line("one\n\u{1b}[1m\u{1b}[32mtwo\u{1b}[0m\n"), "two");
        assert_eq!(last_line(""), "");
    }

    #[test]
    fn progress_is_told_from_errors() {
        assert!(is_progress("   Compiling anyhow v1.0.0"));
        assert!(is_progress("\u{1b}[1m\u{1b}[32m   Compiling\u{1b}[0m anyhow v1.0.0"));
        assert!(is_progress("    Building [==>   ] 3/9: x\r    Building [===>  ] 4/9: y"));
        for error in ["error[E0425]: cannot find value", "   |", "  Compiling is not allowed here", ""] {
            assert!(!is_progress(error), "{error}");
        }
        assert!(!is_progress("    Building [==>   ] 3/9: x\rerror: could not compile"));
    }

    #[test]
    fn reason_prefers_a_missing_network_to_what_follows_from_it() {
        let log = "Err:1 host\n  Temporary failure resolving 'host'\nE: Unable to locate package x\n";
        assert!(reason(log).starts_with("no network"));
        assert_eq!(reason("E: Unable to locate package x\nbye\n"), "E: Unable to locate package x");
        assert_eq!(reason("a\nb\n"), "b");
    }

    #[test]
    fn failing_command_is_an_error_and_a_temporary_log_goes_with_its_step() {
        let step = Step::unlogged("test").unwrap();
        let log = step.log.clone();
        assert!(step.run_or_show(command::command("sh").args(["-c", "exit 1"])).is_err());
        let error = step.run(command::command("sh").args(["-c", "echo error: why; exit 1"])).unwrap_err();
        assert!(error.to_string().starts_with("error: why"), "{error}");
        assert!(log.exists());
        drop(step);
        assert!(!log.exists());
    }
}
