//! Starts a program in a session and a cgroup of its own, as a given user.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, fchmod, ftruncate, memfd_create};
use rustix::io::{fcntl_dupfd_cloexec, pwrite};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::net::unix::pipe::{Receiver, Sender};

use isorun_agent::protocol::{Exec, Failure, FailureKind, Size};

use super::cgroups::{Cgroup, Cgroups};
use super::launch::{Plan, launch};
use super::users::{self, User};

/// The maximum length of one argument or environment variable on Linux, in bytes.
const MAX_ARGUMENT_BYTES: usize = 131_071;
/// The descriptor from which a shell reads a command that is longer.
const SCRIPT_FD: i32 = 9;
/// The lowest number of the agent's descriptors that are passed on to a program.
const MIN_RESERVED_FD: i32 = 1000;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A running program, and the agent's ends of its streams.
pub struct Spawned {
    pub pid: Pid,
    /// The child of the agent whose exit is that of the program: the program itself, or
    /// the keeper of its terminal.
    pub watched: Pid,
    /// `None` if its standard input is empty.
    pub stdin: Option<Sender>,
    pub stdout: Receiver,
    /// `None` with a terminal.
    pub stderr: Option<Receiver>,
    /// The terminal, if there is one.
    pub terminal: Option<OwnedFd>,
}

/// Starts a program. The caller has to watch it before it does anything else.
pub fn spawn(exec: &Exec, cgroups: &Cgroups, cgroup: &Cgroup) -> Result<Spawned, Failure> {
    let user = users::find(exec.user.as_deref())?;
    let script = long_command(exec).map_err(|error| failure("cannot store the command", &error))?;
    let exec = script.as_ref().map_or(exec, |(exec, _)| exec);
    let (programs, argv, env) = prepare(exec, &user)?;
    let cwd = working_dir(exec, &user)?;
    let opened = match exec.pty {
        Some(size) => connect_terminal(size),
        None => connect_pipes(exec.stdin),
    };
    let (mut spawned, streams) =
        opened.map_err(|error| failure("cannot create the streams of the program", &error))?;
    let mut streams: Vec<(i32, OwnedFd)> = (0..).zip(streams).collect();
    if let Some((_, script)) = &script {
        let script =
            dup_high(script).map_err(|error| failure("cannot pass on the command", &error))?;
        streams.push((SCRIPT_FD, script));
    }
    let plan = Plan {
        programs,
        argv,
        env,
        cwd,
        streams,
        has_terminal: exec.pty.is_some(),
        cgroup_files: cgroups.join_files(cgroup),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
    };
    let launched = launch(&plan).map_err(|error| launch_failure(exec, &error))?;
    spawned.pid = launched.program;
    spawned.watched = launched.watched;
    Ok(spawned)
}

/// Starts a program with these streams, as the descriptors of these numbers.
pub fn spawn_with(
    exec: &Exec,
    cgroups: &Cgroups,
    cgroup: &Cgroup,
    streams: Vec<(i32, OwnedFd)>,
) -> Result<Pid, Failure> {
    let user = users::find(exec.user.as_deref())?;
    let (programs, argv, env) = prepare(exec, &user)?;
    let cwd = working_dir(exec, &user)?;
    let plan = Plan {
        programs,
        argv,
        env,
        cwd,
        streams,
        has_terminal: false,
        cgroup_files: cgroups.join_files(cgroup),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
    };
    let launched = launch(&plan).map_err(|error| launch_failure(exec, &error))?;
    Ok(launched.program)
}

/// Changes the size of a terminal.
pub fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Returns a replacement for a shell command that is too long for an argument, and
/// the file that the replacement reads the command from. `$0` stays `/bin/sh`, and
/// the file is closed before the command starts.
fn long_command(exec: &Exec) -> io::Result<Option<(Exec, OwnedFd)>> {
    let [shell, option, command] = exec.argv.as_slice() else { return Ok(None) };
    if shell != "/bin/sh" || option != "-c" || command.len() <= MAX_ARGUMENT_BYTES {
        return Ok(None);
    }
    let file = text_file("script")?;
    rewrite(&file, &format!("exec {SCRIPT_FD}<&-;{command}"))?;
    let source = format!(". /proc/self/fd/{SCRIPT_FD}");
    let argv = vec![shell.clone(), option.clone(), source];
    Ok(Some((Exec { argv, ..exec.clone() }, file)))
}

/// Creates a file without a path, which its holders can read and only the agent can
/// write.
pub fn text_file(name: &str) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
    fchmod(&file, Mode::from_raw_mode(0o444))?;
    Ok(file)
}

/// Replaces the content of a file.
pub fn rewrite(file: impl AsFd, text: &str) -> io::Result<()> {
    ftruncate(&file, 0)?;
    let mut rest = text.as_bytes();
    let mut at = 0;
    while !rest.is_empty() {
        let count = pwrite(&file, rest, at)?;
        rest = rest.get(count..).unwrap_or_default();
        at += count as u64;
    }
    Ok(())
}

/// Duplicates a descriptor to a number that programs do not use.
pub fn dup_high(file: impl AsFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(file, MIN_RESERVED_FD)?)
}

fn too_long(what: &str, length: usize) -> Failure {
    invalid(format!(
        "{what} has {length} bytes, but Linux allows {MAX_ARGUMENT_BYTES}: pass it in a file or on \
         standard input"
    ))
}

/// Returns the paths to try, the arguments and the environment.
fn prepare(exec: &Exec, user: &User) -> Result<ExecArguments, Failure> {
    let Some(program) = exec.argv.first().filter(|program| !program.is_empty()) else {
        return Err(invalid("there is no program to run: argv is empty".to_owned()));
    };
    let mut argv = Vec::with_capacity(exec.argv.len());
    for (index, argument) in exec.argv.iter().enumerate() {
        if argument.len() > MAX_ARGUMENT_BYTES {
            return Err(too_long(&format!("argument {index} of the command"), argument.len()));
        }
        argv.push(CString::new(argument.as_str()).map_err(|_| {
            invalid(format!("argument {index} of the command has a NUL byte in it"))
        })?);
    }
    let mut env: BTreeMap<&str, &str> =
        BTreeMap::from([("PATH", DEFAULT_PATH), ("HOME", &user.home), ("USER", &user.name)]);
    if exec.pty.is_some() {
        env.insert("TERM", "xterm-256color");
    }
    for (name, value) in &exec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!(
                "invalid environment variable {name:?}: the name is empty or has a `=` or a NUL \
                 byte in it, or the value has a NUL byte in it"
            )));
        }
        let length = name.len() + 1 + value.len();
        if length > MAX_ARGUMENT_BYTES {
            let name: String = name.chars().take(50).collect();
            return Err(too_long(&format!("the environment variable {name:?}"), length));
        }
        env.insert(name, value);
    }
    let search = env.get("PATH").copied().unwrap_or(DEFAULT_PATH);
    let programs = if program.contains('/') {
        vec![program.clone()]
    } else {
        search.split(':').map(|dir| format!("{dir}/{program}")).collect()
    };
    let env = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok((c_strings(programs)?, argv, c_strings(env)?))
}

type ExecArguments = (Vec<CString>, Vec<CString>, Vec<CString>);

fn c_strings(words: Vec<String>) -> Result<Vec<CString>, Failure> {
    words
        .into_iter()
        .map(|word| {
            CString::new(word)
                .map_err(|_| invalid("a path or variable has a NUL byte in it".to_owned()))
        })
        .collect()
}

fn working_dir(exec: &Exec, user: &User) -> Result<CString, Failure> {
    let dir = match exec.cwd.as_deref() {
        Some(dir) if Path::new(dir).is_dir() => dir,
        Some(dir) => {
            return Err(Failure {
                kind: FailureKind::NotFound,
                message: format!("the working directory {dir:?} does not exist"),
            });
        }
        None if Path::new(&user.home).is_dir() => &user.home,
        None => "/",
    };
    CString::new(dir).map_err(|_| invalid("the working directory has a NUL byte".to_owned()))
}

fn connect_pipes(stdin: bool) -> io::Result<(Spawned, [OwnedFd; 3])> {
    let (their_stdin, stdin) = if stdin {
        let (theirs, ours) = io::pipe()?;
        (OwnedFd::from(theirs), Some(Sender::from_owned_fd(ours.into())?))
    } else {
        (super::root::null()?, None)
    };
    let (stdout, their_stdout) = output_pipe()?;
    let (stderr, their_stderr) = output_pipe()?;
    let spawned = Spawned {
        pid: Pid::INIT,
        watched: Pid::INIT,
        stdin,
        stdout,
        stderr: Some(stderr),
        terminal: None,
    };
    Ok((spawned, [their_stdin, their_stdout, their_stderr]))
}

/// Creates a pipe of which only the agent's end is non-blocking.
fn output_pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((Receiver::from_owned_fd_unchecked(ours.into())?, theirs.into()))
}

fn connect_terminal(size: Size) -> io::Result<(Spawned, [OwnedFd; 3])> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    resize(&terminal, size)?;
    let name = ptsname(&terminal, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    let spawned = Spawned {
        pid: Pid::INIT,
        watched: Pid::INIT,
        stdin: Some(Sender::from_owned_fd_unchecked(terminal.try_clone()?)?),
        stdout: Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?,
        stderr: None,
        terminal: Some(terminal),
    };
    Ok((spawned, [theirs.try_clone()?, theirs.try_clone()?, theirs]))
}

fn invalid(message: String) -> Failure {
    Failure { kind: FailureKind::Invalid, message }
}

/// Explains why a program could not be started, by the error of the system.
fn launch_failure(exec: &Exec, error: &io::Error) -> Failure {
    let program = exec.argv.first().map_or("", String::as_str);
    let (kind, why) = match error.kind() {
        io::ErrorKind::NotFound => (FailureKind::NotFound, "there is no such program"),
        io::ErrorKind::PermissionDenied => {
            (FailureKind::PermissionDenied, "it may not be executed by this user")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
            (FailureKind::NoResources, "the sandbox has reached its limit of processes or memory")
        }
        io::ErrorKind::ArgumentListTooLong => (
            FailureKind::Invalid,
            "its arguments and environment together are longer than Linux allows",
        ),
        _ => return failure(&format!("cannot start {program:?}"), error),
    };
    Failure { kind, message: format!("cannot start {program:?}: {why}") }
}

fn failure(what: &str, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => FailureKind::NoResources,
        _ => match error.raw_os_error() {
            // EMFILE, ENFILE
            Some(23 | 24) => FailureKind::NoResources,
            _ => FailureKind::Other,
        },
    };
    Failure { kind, message: format!("{what}: {error}") }
}
