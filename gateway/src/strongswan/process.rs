//! The process that answers on charon's socket.

use std::{fmt, fs, str::FromStr};

/// One run of a process. A number alone would not do: the kernel gives it to a later process again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its start, in clock ticks since the machine's.
    pub started_ticks: u64,
}

impl Process {
    /// Returns the process that has this id now, or None if /proc does not show it.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started_ticks: started_ticks(&stat)? })
    }
}

/// Returns field 22 of /proc/PID/stat (proc_pid_stat(5)). The second field, the name, may hold spaces and parentheses.
fn started_ticks(stat: &str) -> Option<u64> {
    const AFTER_THE_NAME: usize = 22 - 3;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(AFTER_THE_NAME)?.parse().ok()
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
    use super::*;

    #[test]
    fn start_is_read_behind_a_name_with_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(started_ticks(stat), Some(4711));
        assert_eq!(started_ticks("7 (a"), None);
    }

    #[test]
    fn own_process_is_found_again_and_survives_as_text() {
        let own = Process::of(std::process::id().cast_signed()).unwrap();
        assert_eq!(Process::of(own.pid), Some(own));
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!("x".parse::<Process>(), Err(()));
    }
}
