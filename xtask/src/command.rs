//! Running other programs, with errors that name them.
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};

use crate::project::{self, Pinned};

/// A command in the repository's root without what `cargo run` put into our environment: with it,
/// children would take xtask's toolchain for theirs.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(project::root());
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

/// `program` of the pinned toolchain, e.g. `cargo`.
pub fn pinned(pinned: &Pinned, program: impl AsRef<OsStr>) -> Command {
    let mut command = command(find("rustup").unwrap_or_else(|| "rustup".into()));
    command.arg("run").arg(&pinned.rust).arg(program);
    command.env("CARGO_TARGET_DIR", project::target());
    command
}

/// Runs to the end with our own stdin, stdout and stderr; failing is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    check(command, status)
}

/// What it wrote to stdout; failing is an error that holds the last line of its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", show(command), stderr.trim().lines().last().unwrap_or("failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An error unless the command succeeded.
pub fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Context for an error of `spawn`.
pub fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", show(command))
}

/// The command as one would type it, shortened.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An executable on the PATH, or where system programs and rustup's are when the PATH lacks that.
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

/// The POSIX shell's spelling of one word.
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
