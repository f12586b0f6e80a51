//! Runs of processes, as /proc shows them.

use std::{fmt, fs, str::FromStr};

/// One run of a process. A number alone would not do: the kernel gives it to a later process again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its start, in clock ticks since the machine's.
    pub started_ticks: u64,
}

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It runs, or waits for something.
    Alive,
    /// A signal (SIGSTOP) or a debugger has stopped it.
    Stopped,
    /// It has ended; a zombie is all that may be left of it.
    Ended,
}

impl Process {
    /// Returns this process, or None if /proc does not show it.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id().cast_signed())
    }

    /// Returns the process that has this id now, or None if /proc does not show it.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started_ticks: started_ticks(&read_stat(pid)?)? })
    }

    /// Returns the state of this run: whatever has its id by now does not count.
    pub fn state(self) -> RunState {
        match read_stat(self.pid).filter(|stat| started_ticks(stat) == Some(self.started_ticks)) {
            Some(stat) => run_state(&stat),
            None => RunState::Ended,
        }
    }
}

fn read_stat(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// Returns a field of /proc/PID/stat by its number from 3 (proc_pid_stat(5)). The second field, the name, may hold spaces
/// and parentheses.
fn field(stat: &str, number: usize) -> Option<&str> {
    const FIRST_AFTER_THE_NAME: usize = 3;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - FIRST_AFTER_THE_NAME)
}

fn started_ticks(stat: &str) -> Option<u64> {
    field(stat, 22)?.parse().ok()
}

fn run_state(stat: &str) -> RunState {
    match field(stat, 3) {
        Some("T" | "t") => RunState::Stopped,
        Some("Z" | "X" | "x") | None => RunState::Ended,
        Some(_) => RunState::Alive,
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started_ticks)
    }
}

impl FromStr for Process {
    type Err = ();

    /// Parses the text that `Display` writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, started_ticks) = text.trim_end().split_once(' ').ok_or(())?;
        Ok(Self { pid: pid.parse().map_err(drop)?, started_ticks: started_ticks.parse().map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        thread,
        time::{Duration, Instant},
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::*;

    #[test]
    fn start_is_read_behind_a_name_with_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(started_ticks(stat), Some(4711));
        assert_eq!(run_state(stat), RunState::Alive);
        assert_eq!(started_ticks("7 (a"), None);
    }

    #[test]
    fn own_process_is_found_again_and_survives_as_text() {
        let own = Process::own().unwrap();
        assert_eq!(own.state(), RunState::Alive);
        assert_eq!(Process::of(own.pid), Some(own));
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!("x".parse::<Process>(), Err(()));
    }

    #[test]
    fn process_that_is_stopped_a_zombie_or_another_run_is_not_alive() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let run = Process::of(child.id().cast_signed()).unwrap();
        let becomes = |expected| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while run.state() != expected {
                assert!(Instant::now() < deadline, "{:?}", run.state());
                thread::sleep(Duration::from_millis(5));
            }
        };
        becomes(RunState::Alive);
        assert_eq!(Process { started_ticks: run.started_ticks + 1, ..run }.state(), RunState::Ended);
        kill(Pid::from_raw(run.pid), Signal::SIGSTOP).unwrap();
        becomes(RunState::Stopped);
        child.kill().unwrap();
        // Nobody has waited for it: /proc still shows a zombie.
        becomes(RunState::Ended);
        assert!(Process::of(run.pid).is_some());
        child.wait().unwrap();
        assert_eq!(run.state(), RunState::Ended);
    }
}
