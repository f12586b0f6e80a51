//! Runs other programs, with errors that name them.
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    project::{self, Pinned},
    signals,
};

/// Returns a command that starts in the repository's root, with no signal blocked or ignored, and without the
/// variables that `cargo run` sets: with them, children would use xtask's toolchain.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(project::root());
    signals::reset_in_child(&mut command);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if matches!(&*text, "CARGO" | "RUSTUP_TOOLCHAIN" | "RUST_RECURSION_COUNT")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_PKG_")
        {
            command.env_remove(name);
        }
    }
    command
}

/// Returns a command for `program` of the pinned toolchain, e.g. `cargo`.
pub fn pinned(pinned: &Pinned, program: impl AsRef<OsStr>) -> Command {
    let mut command = command(find("rustup").unwrap_or_else(|| "rustup".into()));
    command.arg("run").arg(&pinned.rust).arg(program);
    command.env("CARGO_TARGET_DIR", project::target());
    // Incremental compilation only helps who compiles again, and doubles the room that our crates take.
    if env::var_os("CI").is_some() && env::var_os("CARGO_INCREMENTAL").is_none() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Runs the command to its end with our own stdin, stdout and stderr.
///
/// # Errors
/// If it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    check(command, status)
}

/// Runs the command and returns its stdout.
///
/// # Errors
/// If it cannot be started or fails; the error holds the last line of its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", show(command), stderr.trim().lines().last().unwrap_or("failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns an error unless the command succeeded.
pub fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Returns the context for an error of `spawn`.
pub fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", show(command))
}

/// Returns the command as it would be typed, shortened to 160 characters.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Returns the path of an executable on the PATH, in the system's directories or in cargo's, which a PATH may
/// lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Quotes a word for the POSIX shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_word_comes_back_from_the_shell_unchanged() {
        let word = "a 'b' \"$c\" \\ *\n`d`";
        let echoed = output(command("sh").arg("-c").arg(format!("printf %s {}", quoted(word)))).unwrap();
        assert_eq!(echoed, word);
    }

    #[test]
    fn failing_command_is_an_error_with_its_last_words() {
        let error = output(command("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with(": last"), "{error}");
    }
}
