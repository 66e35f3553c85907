//! Starts a process from a plan, without copying the address space of the agent.
//!
//! A fork under gVisor copies the address space, which the exec discards, and that
//! is more than half of the cost of starting a program. So the child borrows the
//! address space of the agent, as in `posix_spawn`. That function cannot do all
//! that is needed here: join cgroups, change the user, set a controlling terminal.
//!
//! ```text
//! agent ── parent (leads the session) ── program (leads its process group)
//! ```
//!
//! The parent between the two exists because of how gVisor handles orphaned process
//! groups. Whenever a process exits, it sends SIGHUP to the rest of its process
//! group if the group is orphaned and a member is stopped. (POSIX requires that
//! only when the group becomes orphaned by that exit.) A group whose members all
//! have parents in other sessions is orphaned from its start. So the program gets a
//! parent in its own session. Without a terminal that parent exits at once: gVisor
//! still counts it. With a terminal it stays as the terminal's keeper, since the
//! terminal of a session whose leader has exited sends no signals.
// There is no safe API for this; each block states why it is sound.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

/// The stack size of a child before its exec, in bytes.
const CHILD_STACK_BYTES: usize = 64 * 1024;
/// The exit code of a child whose exec failed. It is not reported.
const EXEC_FAILED_CODE: c_int = 127;
/// The time that the members of a stopped process group get to stop as well, before
/// the group is continued, in nanoseconds.
const STOP_SETTLE_NANOS: libc::c_long = 10_000_000;

/// All data that a child needs, prepared before the child exists.
pub struct Plan<'a> {
    /// The paths to try to execute, in this order.
    pub programs: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    /// Standard input, output and error first, and then further streams, each with its
    /// descriptor number. The descriptors of the further streams have to be higher than
    /// any number here, so that none is overwritten before it is duplicated.
    pub streams: Vec<(i32, OwnedFd)>,
    /// True if standard input is its controlling terminal.
    pub has_terminal: bool,
    /// The files to write `0` into, which joins the cgroups.
    pub cgroup_files: [Option<BorrowedFd<'a>>; 2],
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// A program that was started.
#[derive(Clone, Copy)]
pub struct Launched {
    /// The process of the program, which leads a process group.
    pub program: Pid,
    /// The child of the agent whose exit is the program's: the program, or the keeper
    /// of its terminal.
    pub watched: Pid,
}

/// The data that the child reads, and the fields in which it stores its error.
struct Child<'a> {
    plan: &'a Plan<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    mask: libc::sigset_t,
    /// The top of the stack on which the program is started.
    stack: *mut c_void,
    pid: c_int,
    error: c_int,
}

/// Starts the program. The error is that of the first step that failed.
pub fn launch(plan: &Plan<'_>) -> io::Result<Launched> {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let mut stack = vec![0u128; CHILD_STACK_BYTES / size_of::<u128>()];
    // SAFETY: plain data, for which all zeroes is a valid value.
    let mask: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut child = Child {
        plan,
        argv: pointers(&plan.argv),
        env: pointers(&plan.env),
        mask,
        stack: stack.as_mut_ptr_range().end.cast(),
        pid: 0,
        error: 0,
    };
    // SAFETY: plain data; no signal handler of the agent runs in a child, since all
    // signals are blocked from here until the mask is restored.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut child.mask);
    }
    let launched =
        if plan.has_terminal { with_terminal(&mut child) } else { without_terminal(&mut child) };
    // SAFETY: the mask is the one that the call above has written.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const child.mask, ptr::null_mut()) };
    launched
}

/// Starts the program through a parent that leads its session and exits at once.
fn without_terminal(child: &mut Child<'_>) -> io::Result<Launched> {
    let mut stack = vec![0u128; CHILD_STACK_BYTES / size_of::<u128>()];
    // SAFETY: the parent runs on a stack of its own, of which this is the top (aligned
    // as a `u128`), and in the memory of the agent. This thread is suspended until the
    // parent has exited, so all that the parent uses outlives it.
    let parent = unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        let pid = libc::clone(lead_session, top, flags, ptr::from_mut(child).cast());
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        pid
    };
    // SAFETY: no status is requested. The parent exits without waiting for anything.
    unsafe { libc::waitpid(parent, ptr::null_mut(), 0) };
    // SAFETY: written by children that do not write any more.
    let (pid, error) = unsafe {
        (ptr::read_volatile(&raw const child.pid), ptr::read_volatile(&raw const child.error))
    };
    let program = started(pid, error)?;
    Ok(Launched { program, watched: program })
}

/// Starts the program through a parent that keeps its terminal until it exits.
fn with_terminal(child: &mut Child<'_>) -> io::Result<Launched> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the copy makes system calls only, and never returns from `run_keeper`.
    let keeper = unsafe {
        match libc::fork() {
            0 => run_keeper(child, writer.as_raw_fd()),
            pid => pid,
        }
    };
    let watched = Pid::from_raw(keeper).filter(|_| keeper > 0);
    let watched = watched.ok_or_else(io::Error::last_os_error)?;
    drop(writer);
    let mut outcome = [0; 8];
    let read = reader.read_exact(&mut outcome);
    let [a, b, c, d, e, f, g, h] = outcome;
    let (pid, error) = (c_int::from_ne_bytes([a, b, c, d]), c_int::from_ne_bytes([e, f, g, h]));
    match read.and_then(|()| started(pid, error)) {
        Ok(program) => Ok(Launched { program, watched }),
        Err(error) => {
            // SAFETY: no status is requested. The keeper exits if the program has not
            // started, and it is not watched yet.
            unsafe { libc::waitpid(keeper, ptr::null_mut(), 0) };
            Err(error)
        }
    }
}

fn started(pid: c_int, error: c_int) -> io::Result<Pid> {
    match Pid::from_raw(pid) {
        Some(program) if error == 0 && pid > 0 => Ok(program),
        _ => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The parent without a terminal.
extern "C" fn lead_session(argument: *mut c_void) -> c_int {
    // SAFETY: `without_terminal` passes this, and does not access it meanwhile.
    let child = unsafe { &mut *argument.cast::<Child<'_>>() };
    // SAFETY: system calls, and the memory that `without_terminal` lends.
    unsafe {
        if libc::setsid() < 0 {
            child.error = errno();
        } else {
            start_program(child);
        }
        // Exits without running exit handlers.
        libc::_exit(0)
    }
}

/// The parent with a terminal: a copy of the agent. It acts like a shell with job
/// control and only one job. It continues the program in the foreground after a
/// stop that comes from the terminal, since no user could do that, and forwards
/// changes of the terminal's size to the foreground process group.
///
/// # Safety
///
/// Only in a process of its own, which ends here.
unsafe fn run_keeper(child: &mut Child<'_>, outcome: c_int) -> ! {
    // SAFETY: system calls only, on resources of this process alone.
    unsafe {
        let terminal = child.plan.streams.first().map_or(-1, |(_, stream)| stream.as_raw_fd());
        if libc::setsid() < 0 || libc::ioctl(terminal, libc::TIOCSCTTY, 0) < 0 {
            child.error = errno();
        } else {
            start_program(child);
        }
        let mut message = [0; 8];
        message[..4].copy_from_slice(&child.pid.to_ne_bytes());
        message[4..].copy_from_slice(&child.error.to_ne_bytes());
        libc::write(outcome, message.as_ptr().cast(), message.len());
        if child.error != 0 {
            libc::_exit(EXEC_FAILED_CODE);
        }
        // Files of the agent must not stay open here.
        libc::dup2(terminal, 0);
        libc::syscall(libc::SYS_close_range, 1, c_int::MAX, 0);
        let mut winch: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut winch);
        libc::sigaddset(&raw mut winch, libc::SIGWINCH);
        libc::signal(libc::SIGWINCH, forward_size_change as *const () as libc::sighandler_t);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const winch, ptr::null_mut());
        loop {
            let mut status = 0;
            if libc::waitpid(child.pid, &raw mut status, libc::WUNTRACED) < 0 {
                if errno() == libc::EINTR {
                    continue;
                }
                libc::_exit(EXEC_FAILED_CODE);
            }
            if libc::WIFSTOPPED(status) {
                if is_terminal_stop(libc::WSTOPSIG(status)) {
                    let pause = libc::timespec { tv_sec: 0, tv_nsec: STOP_SETTLE_NANOS };
                    libc::nanosleep(&raw const pause, ptr::null_mut());
                    libc::tcsetpgrp(0, child.pid);
                    libc::kill(-child.pid, libc::SIGCONT);
                }
            } else if libc::WIFSIGNALED(status) {
                exit_by_signal(libc::WTERMSIG(status));
            } else {
                libc::_exit(libc::WEXITSTATUS(status));
            }
        }
    }
}

/// Notifies the foreground process group that the size of its terminal has changed.
/// Linux does so by itself; gVisor does not.
extern "C" fn forward_size_change(_: c_int) {
    // SAFETY: both functions are async-signal-safe. The terminal is the controlling
    // terminal of this process.
    unsafe {
        let foreground = libc::tcgetpgrp(0);
        if foreground > 1 {
            libc::kill(-foreground, libc::SIGWINCH);
        }
    }
}

/// Terminates this process by that signal.
///
/// # Safety
///
/// Only in the keeper.
unsafe fn exit_by_signal(signal: c_int) -> ! {
    // SAFETY: system calls only.
    unsafe {
        let mut one: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut one);
        libc::sigaddset(&raw mut one, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const one, ptr::null_mut());
        // Not reached: a signal that terminated the program terminates this process.
        libc::_exit(128 + signal)
    }
}

/// Reports whether a signal is one by which a terminal stops programs. In an
/// orphaned process group, such as that of a container's program, Linux ignores it.
pub fn is_terminal_stop(signal: c_int) -> bool {
    matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
}

fn errno() -> c_int {
    // SAFETY: the location is that of the calling thread.
    unsafe { *libc::__errno_location() }
}

/// Starts the program as a child of this process, and returns when its exec has
/// succeeded or failed. Stores its process id or the error.
///
/// # Safety
///
/// All pointers of `child` are valid, and nothing else runs in this memory.
unsafe fn start_program(child: &mut Child<'_>) {
    // SAFETY: as in `without_terminal`.
    unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(exec_program, child.stack, flags, ptr::from_mut(child).cast());
        if pid < 0 {
            child.error = errno();
        } else if ptr::read_volatile(&raw const child.error) != 0 {
            libc::waitpid(pid, ptr::null_mut(), 0);
        } else {
            child.pid = pid;
        }
    }
}

/// The program before its exec: system calls only, without allocating memory or
/// taking a lock.
extern "C" fn exec_program(argument: *mut c_void) -> c_int {
    // SAFETY: `start_program` passes this, and does not access it meanwhile.
    let child = unsafe { &mut *argument.cast::<Child<'_>>() };
    // SAFETY: see `set_up_and_exec`.
    child.error = unsafe { set_up_and_exec(child) };
    // SAFETY: exits without running exit handlers.
    unsafe { libc::_exit(EXEC_FAILED_CODE) }
}

/// Sets up the child and executes the program. Returns only with an error.
///
/// # Safety
///
/// Only for a child that shares memory with a suspended parent. All pointers are
/// those of the plan, which the parent holds.
unsafe fn set_up_and_exec(child: &Child<'_>) -> c_int {
    let plan = child.plan;
    let ids = (libc::c_long::from(plan.uid), libc::c_long::from(plan.gid));
    // SAFETY: by the contract above. `syscall` is used where libc would change the
    // user of all threads, which are the parent's.
    unsafe {
        for file in plan.cgroup_files.iter().flatten() {
            if libc::pwrite(file.as_raw_fd(), c"0".as_ptr().cast(), 1, 0) < 0 {
                return errno();
            }
        }
        for (number, stream) in &plan.streams {
            if libc::dup2(stream.as_raw_fd(), *number) < 0 {
                return errno();
            }
        }
        // Setting the foreground process group from the background raises SIGTTOU,
        // which is blocked, as all signals are.
        if libc::setpgid(0, 0) < 0
            || plan.has_terminal && libc::tcsetpgrp(0, libc::getpid()) < 0
            || libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr()) < 0
            || libc::syscall(libc::SYS_setgid, ids.1) < 0
            || libc::syscall(libc::SYS_setuid, ids.0) < 0
            || libc::chdir(plan.cwd.as_ptr()) < 0
        {
            return errno();
        }
        // Rust ignores SIGPIPE, and that would be inherited.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const child.mask, ptr::null_mut());
        let mut error = libc::ENOENT;
        for program in &plan.programs {
            libc::execve(program.as_ptr(), child.argv.as_ptr(), child.env.as_ptr());
            match errno() {
                // It may be in the next directory.
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => error = libc::EACCES,
                other => return other,
            }
        }
        error
    }
}
