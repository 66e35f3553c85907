//! A directory with scripts, and the command started in it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::Once,
    thread,
    time::{Duration, Instant},
};

pub(crate) const ISOLA: &str = env!("CARGO_BIN_EXE_isola");

/// The maximum time until an event that a test waits for.
pub(crate) const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The interval at which a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The size of the content of a full pipe, in bytes. A pipe of Linux has a capacity of
/// 64 KiB in pages, and the last bytes of a page may be too few for a write.
#[cfg(unix)]
const FULL_PIPE_BYTES: u64 = 60 << 10;

/// A temporary directory with scripts, in which the command runs.
pub(crate) struct TestDir(tempfile::TempDir);

/// The output and the exit code of a command.
#[derive(Debug)]
pub(crate) struct Completed {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

impl TestDir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Creates a directory with one script.
    pub(crate) fn with(name: &str, source: &str) -> Self {
        Self::new().file(name, source)
    }

    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path().join(name), content).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    /// Creates the command `isola ARGS` with an empty standard input.
    pub(crate) fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        compile_once();
        let mut command = isola(args);
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Runs `isola run ARGS` to its end.
    pub(crate) fn run<S: AsRef<str>>(&self, args: &[S]) -> Completed {
        finish(self.command(&with_run(args)))
    }

    /// Runs `isola run ARGS` with this standard input.
    pub(crate) fn run_with_stdin<S: AsRef<str>>(&self, args: &[S], input: &[u8]) -> Completed {
        run_with_input(self.command(&with_run(args)), input)
    }

    /// Starts `isola run ARGS`.
    pub(crate) fn start<S: AsRef<str>>(&self, args: &[S]) -> Running {
        Running::of(self.command(&with_run(args)))
    }
}

/// Creates the command in the current directory.
pub(crate) fn isola<S: AsRef<str>>(args: &[S]) -> Command {
    let mut command = Command::new(ISOLA);
    command.args(args.iter().map(AsRef::as_ref));
    command
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command) -> Completed {
    Completed::of(command.output().unwrap())
}

/// Runs a command to its end with this standard input.
pub(crate) fn run_with_input(mut command: Command, input: &[u8]) -> Completed {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Completed::of(child.wait_with_output().unwrap())
}

/// Waits until a condition is true. Panics if it does not become true in time.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: it did not happen within {EVENT_TIMEOUT:?}");
        thread::sleep(POLL_INTERVAL);
    }
}

fn with_run<S: AsRef<str>>(args: &[S]) -> Vec<&str> {
    ["run"].into_iter().chain(args.iter().map(AsRef::as_ref)).collect()
}

impl Completed {
    fn of(output: Output) -> Self {
        Self {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code(),
        }
    }

    /// Returns the standard output of a command that succeeded and wrote nothing to
    /// standard error.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// Returns the standard error of a command that succeeded.
    #[cfg(unix)]
    #[track_caller]
    pub(crate) fn succeeded_with_messages(self) -> String {
        self.failed(0)
    }

    /// Returns the standard error of a command that exited with this code.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }

    /// Returns the lines of `--events`.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A running command, which is killed at the end of the test.
pub(crate) struct Running {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
    started: Instant,
}

impl Running {
    pub(crate) fn of(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, lines: None, started: Instant::now() }
    }

    /// Waits for the first bytes of standard error.
    pub(crate) fn first_stderr(&mut self) -> String {
        let mut bytes = [0; 1000];
        let read = self.child.stderr.as_mut().unwrap().read(&mut bytes).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    /// Waits for the next line of standard output.
    pub(crate) fn line(&mut self) -> String {
        let lines =
            self.lines.get_or_insert_with(|| BufReader::new(self.child.stdout.take().unwrap()));
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the pipe of standard output, which is not read, is full: the command
    /// waits in a write.
    #[cfg(unix)]
    pub(crate) fn fill_stdout(&self) {
        let stdout = self.child.stdout.as_ref().unwrap();
        wait_until("standard output is full", || {
            rustix::io::ioctl_fionread(stdout).unwrap() >= FULL_PIPE_BYTES
        });
    }

    /// Closes the reading end of standard output.
    pub(crate) fn stop_reading(&mut self) {
        self.lines = None;
        drop(self.child.stdout.take());
    }

    #[cfg(unix)]
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits for the end. Returns the exit code, standard error and the elapsed time.
    /// The rest of standard output is not read.
    pub(crate) fn end(mut self) -> (Option<i32>, String, Duration) {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, stderr, self.started.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles the runtimes, the first time. The first run after a build reports that it
/// compiles, which must not be in the output of the tests.
pub(crate) fn compile_once() {
    static COMPILED: Once = Once::new();
    COMPILED.call_once(|| {
        for runtime in ["python", "js"] {
            compile(runtime);
        }
    });
}

/// Compiles the runtime `python-data`, the first time.
pub(crate) fn compile_data_once() {
    static COMPILED: Once = Once::new();
    COMPILED.call_once(|| compile("python-data"));
}

fn compile(runtime: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script: PathBuf = dir.path().join("empty");
    fs::write(&script, "").unwrap();
    let ran = finish(isola(&["run", script.to_str().unwrap(), "--runtime", runtime]));
    assert_eq!(ran.code, Some(0), "the runtime {runtime} is needed: {}", ran.stderr);
}
