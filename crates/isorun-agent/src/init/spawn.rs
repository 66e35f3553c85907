//! Starting a program in a session, a group and under a user of its own.
// `pre_exec` is the only way to have a child do something of its own before it
// becomes the program; what it does here is plain system calls.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Pid, Uid, ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use tokio::net::unix::pipe::{Receiver, Sender};

use isorun_agent::protocol::{Exec, Failure, FailureKind, Size};

use super::groups::{Group, Groups};
use super::users::{self, User};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that runs, and our ends of what connects it.
pub struct Spawned {
    pub pid: Pid,
    /// Absent when its standard input is empty.
    pub stdin: Option<Sender>,
    pub stdout: Receiver,
    /// Absent with a terminal.
    pub stderr: Option<Receiver>,
    /// The terminal, if there is one.
    pub terminal: Option<OwnedFd>,
}

/// Starts a program. The caller has to watch it before it does anything else.
pub fn spawn(exec: &Exec, groups: &Groups, group: &Group) -> Result<Spawned, Failure> {
    let user = users::find(exec.user.as_deref())?;
    let mut command = prepare(exec, &user)?;
    let opened = match exec.pty {
        Some(size) => connect_terminal(&mut command, size),
        None => connect_pipes(&mut command, exec.stdin),
    };
    let mut spawned = opened.map_err(|error| failure("cannot connect the program", &error))?;
    let doors = groups.doors(group).map_err(|error| failure("cannot make a group", &error))?;
    let has_terminal = exec.pty.is_some();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let also: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    // SAFETY: the closure runs between fork and exec. It makes system calls on
    // values that were made before, and neither allocates nor takes a lock; this
    // process has one thread anyway but for those that touch files.
    unsafe {
        command.pre_exec(move || {
            for door in &doors {
                rustix::io::write(door, b"0")?;
            }
            setsid()?;
            if has_terminal {
                ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            set_thread_groups(&also)?;
            set_thread_gid(gid)?;
            set_thread_uid(uid)?;
            Ok(())
        });
    }
    let child = command.spawn().map_err(|error| refused(exec, &error))?;
    spawned.pid = Pid::from_raw(child.id().cast_signed())
        .ok_or_else(|| failure("cannot start the program", &io::ErrorKind::Other.into()))?;
    Ok(spawned)
}

/// Changes the size of a terminal.
pub fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

fn prepare(exec: &Exec, user: &User) -> Result<Command, Failure> {
    let invalid = |message: String| Failure { kind: FailureKind::Invalid, message };
    let Some(program) = exec.argv.first().filter(|program| !program.is_empty()) else {
        return Err(invalid("there is no program to run: argv is empty".to_owned()));
    };
    if let Some(index) = exec.argv.iter().position(|argument| argument.contains('\0')) {
        return Err(invalid(format!("argument {index} of the command has a NUL byte in it")));
    }
    let mut command = Command::new(program);
    command.args(exec.argv.iter().skip(1));
    command.env_clear().env("PATH", PATH).env("HOME", &user.home).env("USER", &user.name);
    if exec.pty.is_some() {
        command.env("TERM", "xterm-256color");
    }
    for (name, value) in &exec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!(
                "the environment variable {name:?} has no name, or a `=` or a NUL byte where none may be"
            )));
        }
        command.env(name, value);
    }
    match exec.cwd.as_deref() {
        Some(folder) => {
            if !Path::new(folder).is_dir() {
                return Err(Failure {
                    kind: FailureKind::NotFound,
                    message: format!("the working directory {folder:?} does not exist"),
                });
            }
            command.current_dir(folder)
        }
        None if Path::new(&user.home).is_dir() => command.current_dir(&user.home),
        None => command.current_dir("/"),
    };
    Ok(command)
}

fn connect_pipes(command: &mut Command, stdin: bool) -> io::Result<Spawned> {
    let stdin = if stdin {
        let (theirs, ours) = io::pipe()?;
        command.stdin(theirs);
        Some(Sender::from_owned_fd(ours.into())?)
    } else {
        command.stdin(Stdio::null());
        None
    };
    let (stdout, theirs) = io::pipe()?;
    command.stdout(theirs);
    let (stderr, theirs) = io::pipe()?;
    command.stderr(theirs);
    Ok(Spawned {
        pid: Pid::INIT,
        stdin,
        stdout: Receiver::from_owned_fd(stdout.into())?,
        stderr: Some(Receiver::from_owned_fd(stderr.into())?),
        terminal: None,
    })
}

fn connect_terminal(command: &mut Command, size: Size) -> io::Result<Spawned> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    resize(&terminal, size)?;
    let name = ptsname(&terminal, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(Spawned {
        pid: Pid::INIT,
        stdin: Some(Sender::from_owned_fd_unchecked(terminal.try_clone()?)?),
        stdout: Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?,
        stderr: None,
        terminal: Some(terminal),
    })
}

/// Why a program could not be started, by what the system said of it.
fn refused(exec: &Exec, error: &io::Error) -> Failure {
    let program = exec.argv.first().map_or("", String::as_str);
    let (kind, why) = match error.kind() {
        io::ErrorKind::NotFound => (FailureKind::NotFound, "there is no such program"),
        io::ErrorKind::PermissionDenied => {
            (FailureKind::PermissionDenied, "it may not be executed by this user")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
            (FailureKind::NoResources, "the sandbox has no room for another process")
        }
        io::ErrorKind::ArgumentListTooLong => {
            (FailureKind::Invalid, "its arguments and environment are too long")
        }
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
