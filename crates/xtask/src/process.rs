//! Functions that run other programs.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

/// The output of a program on both streams, in the order in which it was written.
pub struct Captured {
    pub status: ExitStatus,
    pub text: String,
}

/// A program that runs while the caller does something else. Dropping it before its end
/// kills the program.
pub struct Background {
    shown: String,
    child: Child,
    /// Reads the output until its end.
    output: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl Background {
    /// Starts a program and captures its output.
    pub fn start(mut command: Command) -> Result<Background> {
        let shown = describe(&command);
        let (mut reader, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        // The command still holds the writing ends: the pipe would stay open.
        drop(command);
        let output = thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        Ok(Background { shown, child, output: Some(output) })
    }

    /// Waits for the end of the program.
    pub fn capture(mut self) -> Result<Captured> {
        let output = self.output.take().map(JoinHandle::join);
        let Some(Ok(bytes)) = output else { bail!("cannot read the output of `{}`", self.shown) };
        let text = String::from_utf8_lossy(&bytes?).into_owned();
        Ok(Captured { status: self.child.wait()?, text })
    }

    /// Waits for the end of the program, and shows its output only if it failed.
    pub fn finish(self) -> Result<()> {
        let shown = self.shown.clone();
        let Captured { status, text } = self.capture()?;
        if !status.success() {
            bail!("`{shown}` failed ({status}):\n{}", tail(&text, 40));
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail for a program that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program and captures its output.
pub fn capture(command: Command) -> Result<Captured> {
    Background::start(command)?.capture()
}

/// Runs a program, and shows its output only if it fails.
pub fn run_quiet(command: Command) -> Result<()> {
    Background::start(command)?.finish()
}

/// Runs a program with its output on the streams of this process.
pub fn run(mut command: Command) -> Result<()> {
    let shown = describe(&command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Returns the standard output of a program, or `None` if it cannot be started or
/// fails.
pub fn stdout_of(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Creates a command for the cargo that runs this program, at the root of the
/// checkout.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(crate::workspace::root());
    // Cargo sets these variables for the package of the program that it runs. If
    // they were passed on, build scripts and `env!` would see a change between
    // `cargo xtask test` and `cargo test`, and everything would be compiled again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_package_variable) {
            command.env_remove(&name);
        }
    }
    command
}

/// Reports whether this is a variable that cargo sets for the package of a program.
pub fn is_package_variable(variable: &str) -> bool {
    variable == "CARGO_MANIFEST_DIR" || variable.starts_with("CARGO_PKG_")
}

/// Returns the last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_are_kept_in_order() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; echo three; exit 3"]);
        let captured = capture(command).unwrap();
        assert_eq!(captured.text, "one\ntwo\nthree\n");
        assert_eq!(captured.status.code(), Some(3));
    }

    #[test]
    fn a_failure_shows_the_tail_of_the_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 100; exit 1"]);
        let message = run_quiet(command).unwrap_err().to_string();
        assert!(message.ends_with("\n99\n100"), "{message}");
        assert!(!message.contains("\n60\n"), "{message}");
    }

    #[test]
    fn a_program_runs_beside_its_caller() {
        let dir = tempfile::tempdir().unwrap();
        let go = dir.path().join("go");
        let mut command = Command::new("sh");
        command.args(["-c", "until [ -e \"$0\" ]; do sleep 0.01; done; echo went"]).arg(&go);
        let background = Background::start(command).unwrap();
        std::fs::write(&go, "").unwrap();
        assert_eq!(background.capture().unwrap().text, "went\n");
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_is_dropped_is_killed() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let background = Background::start(command).unwrap();
        let alive = format!("kill -0 {}", background.child.id());
        assert!(stdout_of("sh", &["-c", &alive]).is_some());
        drop(background);
        assert!(stdout_of("sh", &["-c", &alive]).is_none());
    }

    #[test]
    fn a_program_that_is_not_there_has_no_answer() {
        assert_eq!(stdout_of("no-such-program", &[]), None);
        assert_eq!(stdout_of("false", &[]), None);
        assert_eq!(stdout_of("echo", &["hello"]).as_deref(), Some("hello"));
    }

    #[test]
    fn the_tail_of_a_short_text_is_the_text() {
        assert_eq!(tail("a\nb\n", 5), "a\nb");
        assert_eq!(tail("", 5), "");
    }
}
