//! From a plan to a process, without copying this one.
//!
//! A fork under gVisor copies an address space only to throw it away at the
//! exec, and that is more than half of what starting a program costs. So the
//! child borrows ours, as in `posix_spawn`, which cannot do all that is wanted
//! here: join groups, become another user, take a terminal.
//!
//! ```text
//! agent ── parent (leads the session) ── program (leads its process group)
//! ```
//!
//! The parent between the two is there because of how gVisor counts. Whenever a
//! process ends, it sends SIGHUP to the rest of its process group if the group is
//! orphaned and a member is stopped. (POSIX has it done only when the group
//! becomes orphaned by that end.) A group whose members all have parents in other
//! sessions is orphaned from its start. So the program gets a parent in its own
//! session. Without a terminal that parent ends at once: gVisor goes on counting
//! it. With one it stays as the terminal's keeper, since the terminal of a session
//! whose leader has ended sends no signals.
// There is no safe way to do this; each block says what makes it sound.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

/// Bytes of stack of a child before its exec.
const STACK: usize = 64 * 1024;
/// Exit code of a child whose exec failed. Nobody sees it.
const FAILED: c_int = 127;
/// Nanoseconds that the members of a stopped process group have to stop as well,
/// before the group is continued.
const STOP_SETTLES: libc::c_long = 10_000_000;

/// All that a child needs, made before it exists.
pub struct Plan<'a> {
    /// What to try to execute, in this order.
    pub programs: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub folder: CString,
    /// Standard input, output and error first, and what else it is to have, each
    /// under its number. Those beyond the three have to lie higher than any number
    /// here, since the one may not be put where another still is.
    pub streams: Vec<(i32, OwnedFd)>,
    /// Whether standard input is to be its terminal.
    pub has_terminal: bool,
    /// Files to write `0` into.
    pub doors: [BorrowedFd<'a>; 2],
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// A program that was started.
#[derive(Clone, Copy)]
pub struct Launched {
    /// Its process, which leads a process group.
    pub program: Pid,
    /// The child of the agent whose end is the program's: the program, or the
    /// keeper of its terminal.
    pub watched: Pid,
}

/// What the child reads, and where it leaves why it failed.
struct Child<'a> {
    plan: &'a Plan<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    mask: libc::sigset_t,
    /// The end of the stack on which the program is started.
    stack: *mut c_void,
    pid: c_int,
    error: c_int,
}

/// Starts it. An error is that of the first step that failed.
pub fn launch(plan: &Plan<'_>) -> io::Result<Launched> {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    // SAFETY: plain data, for which all zeroes is a value.
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
    // SAFETY: plain data; no handler of ours runs in a child, since all signals
    // are blocked from here until the mask is restored.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut child.mask);
    }
    let launched = if plan.has_terminal { with_keeper(&mut child) } else { alone(&mut child) };
    // SAFETY: the mask is the one that the call above has written.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const child.mask, ptr::null_mut()) };
    launched
}

/// Starts the program through a parent that leads its session and ends at once.
fn alone(child: &mut Child<'_>) -> io::Result<Launched> {
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    // SAFETY: the parent runs on a stack of its own, of which this is the end
    // (aligned as a `u128`), and in our memory; this thread stands still until it
    // has ended, so all that it is given lives longer than its use of it.
    let parent = unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        let pid = libc::clone(lead_session, top, flags, ptr::from_mut(child).cast());
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        pid
    };
    // SAFETY: no status is asked for. It ends without waiting for anything.
    unsafe { libc::waitpid(parent, ptr::null_mut(), 0) };
    // SAFETY: written by children that are past doing so.
    let (pid, error) = unsafe {
        (ptr::read_volatile(&raw const child.pid), ptr::read_volatile(&raw const child.error))
    };
    let program = started(pid, error)?;
    Ok(Launched { program, watched: program })
}

/// Starts the program through a parent that keeps its terminal until it ends.
fn with_keeper(child: &mut Child<'_>) -> io::Result<Launched> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the copy makes system calls only, and never returns from `keep`.
    let keeper = unsafe {
        match libc::fork() {
            0 => keep(child, writer.as_raw_fd()),
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
            // SAFETY: no status is asked for. It ends when the program has not
            // started, and nobody watches it yet.
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
    // SAFETY: `alone` passes this, and does not touch it meanwhile.
    let child = unsafe { &mut *argument.cast::<Child<'_>>() };
    // SAFETY: system calls, and the memory that `alone` lends.
    unsafe {
        if libc::setsid() < 0 {
            child.error = errno();
        } else {
            start_program(child);
        }
        // Ends without anything that runs at an exit.
        libc::_exit(0)
    }
}

/// The parent with a terminal: a copy of the agent. It is what a shell with job
/// control is to its only job: a stop that comes from the terminal continues the
/// program in the foreground, since nobody could do that by hand, and a new size
/// of the terminal is told to whoever is in the foreground.
///
/// # Safety
///
/// Only in a process of its own, which ends here.
unsafe fn keep(child: &mut Child<'_>, outcome: c_int) -> ! {
    // SAFETY: system calls only, on what this process has for itself.
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
            libc::_exit(FAILED);
        }
        // Files of the agent must not stay open here.
        libc::dup2(terminal, 0);
        libc::syscall(libc::SYS_close_range, 1, c_int::MAX, 0);
        let mut winch: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut winch);
        libc::sigaddset(&raw mut winch, libc::SIGWINCH);
        libc::signal(libc::SIGWINCH, tell_size as *const () as libc::sighandler_t);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const winch, ptr::null_mut());
        loop {
            let mut status = 0;
            if libc::waitpid(child.pid, &raw mut status, libc::WUNTRACED) < 0 {
                if errno() == libc::EINTR {
                    continue;
                }
                libc::_exit(FAILED);
            }
            if libc::WIFSTOPPED(status) {
                if is_terminal_stop(libc::WSTOPSIG(status)) {
                    let pause = libc::timespec { tv_sec: 0, tv_nsec: STOP_SETTLES };
                    libc::nanosleep(&raw const pause, ptr::null_mut());
                    libc::tcsetpgrp(0, child.pid);
                    libc::kill(-child.pid, libc::SIGCONT);
                }
            } else if libc::WIFSIGNALED(status) {
                die_of(libc::WTERMSIG(status));
            } else {
                libc::_exit(libc::WEXITSTATUS(status));
            }
        }
    }
}

/// Tells the foreground process group that its terminal has a new size. Linux does
/// so by itself; gVisor does not.
extern "C" fn tell_size(_: c_int) {
    // SAFETY: both calls may be made in a signal handler. The terminal is the
    // controlling terminal of this process.
    unsafe {
        let foreground = libc::tcgetpgrp(0);
        if foreground > 1 {
            libc::kill(-foreground, libc::SIGWINCH);
        }
    }
}

/// Ends this process by that signal.
///
/// # Safety
///
/// Only in the keeper.
unsafe fn die_of(signal: c_int) -> ! {
    // SAFETY: system calls only.
    unsafe {
        let mut one: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut one);
        libc::sigaddset(&raw mut one, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const one, ptr::null_mut());
        // A signal that ends no process cannot have ended the program.
        libc::_exit(128 + signal)
    }
}

/// Returns whether a signal is one by which a terminal stops programs. In an
/// orphaned process group, as that of a container's program, Linux ignores it.
pub fn is_terminal_stop(signal: c_int) -> bool {
    matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
}

fn errno() -> c_int {
    // SAFETY: the location is that of the calling thread.
    unsafe { *libc::__errno_location() }
}

/// Starts the program as a child of this process, and returns when it has
/// executed or failed to. Leaves its number or the error.
///
/// # Safety
///
/// All pointers of `child` are valid, and nothing else runs in this memory.
unsafe fn start_program(child: &mut Child<'_>) {
    // SAFETY: as in `alone`.
    unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(run, child.stack, flags, ptr::from_mut(child).cast());
        if pid < 0 {
            child.error = errno();
        } else if ptr::read_volatile(&raw const child.error) != 0 {
            libc::waitpid(pid, ptr::null_mut(), 0);
        } else {
            child.pid = pid;
        }
    }
}

/// The program, before its exec: system calls only, neither memory is allocated
/// nor a lock taken.
extern "C" fn run(argument: *mut c_void) -> c_int {
    // SAFETY: `start_program` passes this, and does not touch it meanwhile.
    let child = unsafe { &mut *argument.cast::<Child<'_>>() };
    // SAFETY: see `steps`.
    child.error = unsafe { steps(child) };
    // SAFETY: ends the child without anything that runs at an exit.
    unsafe { libc::_exit(FAILED) }
}

/// Comes back only with an error.
///
/// # Safety
///
/// Only for a child that shares memory with a parent that stands still. All
/// pointers are those of the plan, which the parent holds.
unsafe fn steps(child: &Child<'_>) -> c_int {
    let plan = child.plan;
    let ids = (libc::c_long::from(plan.uid), libc::c_long::from(plan.gid));
    // SAFETY: by the contract above. `syscall` is used where libc would change
    // the user of all threads, which are the parent's.
    unsafe {
        for door in &plan.doors {
            if libc::pwrite(door.as_raw_fd(), c"0".as_ptr().cast(), 1, 0) < 0 {
                return errno();
            }
        }
        for (number, stream) in &plan.streams {
            if libc::dup2(stream.as_raw_fd(), *number) < 0 {
                return errno();
            }
        }
        // A terminal's foreground is set while the signal that would stop whoever
        // does so from the background is blocked, as all are.
        if libc::setpgid(0, 0) < 0
            || plan.has_terminal && libc::tcsetpgrp(0, libc::getpid()) < 0
            || libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr()) < 0
            || libc::syscall(libc::SYS_setgid, ids.1) < 0
            || libc::syscall(libc::SYS_setuid, ids.0) < 0
            || libc::chdir(plan.folder.as_ptr()) < 0
        {
            return errno();
        }
        // Rust ignores it, and ignoring is inherited.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const child.mask, ptr::null_mut());
        let mut error = libc::ENOENT;
        for program in &plan.programs {
            libc::execve(program.as_ptr(), child.argv.as_ptr(), child.env.as_ptr());
            match errno() {
                // Perhaps in the next folder.
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => error = libc::EACCES,
                other => return other,
            }
        }
        error
    }
}
