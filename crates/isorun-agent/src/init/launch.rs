//! From a plan to a process, without copying this one.
//!
//! A fork under gVisor copies an address space only to throw it away at the
//! exec, and that is more than half of what starting a program costs. So the
//! child borrows ours, as in `posix_spawn`, which cannot do all that is wanted
//! here: join groups, become another user, take a terminal.
// There is no safe way to do this; each block says what makes it sound.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

const STACK: usize = 64 * 1024;
const FAILED: c_int = 127;

/// All that a child needs, made before it exists.
pub struct Plan<'a> {
    /// What to try to execute, in this order.
    pub programs: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub folder: CString,
    /// Standard input, output and error, and what else it is to have, each under
    /// its number. Those beyond the three have to lie higher than any number
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

/// What the child reads, and where it leaves why it failed.
struct Child<'a> {
    plan: &'a Plan<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    mask: libc::sigset_t,
    error: c_int,
}

/// Starts it. An error is that of the first step that failed.
pub fn launch(plan: &Plan<'_>) -> io::Result<Pid> {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    // SAFETY: plain data, for which all zeroes is a value.
    let mask: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut child =
        Child { plan, argv: pointers(&plan.argv), env: pointers(&plan.env), mask, error: 0 };
    // SAFETY: the child runs on a stack of its own, of which this is the end
    // (aligned as a `u128`), and in our memory; this thread stands still until it
    // has become another program or ended, so all that it is given lives longer
    // than its use of it. No handler of ours runs in it, since all signals are
    // blocked across the call.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut child.mask);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        let pid = libc::clone(run, top, flags, (&raw mut child).cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const child.mask, ptr::null_mut());
        if pid < 0 {
            return Err(error);
        }
        pid
    };
    // SAFETY: the child wrote it, and is past doing so.
    let error = unsafe { ptr::read_volatile(&raw const child.error) };
    if error != 0 {
        // It has ended; nobody watches it yet.
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
        return Err(io::Error::from_raw_os_error(error));
    }
    Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::Other.into())
}

/// The child: system calls only, neither memory is allocated nor a lock taken.
extern "C" fn run(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` passes this, and does not touch it meanwhile.
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
                return *libc::__errno_location();
            }
        }
        for (number, stream) in &plan.streams {
            if libc::dup2(stream.as_raw_fd(), *number) < 0 {
                return *libc::__errno_location();
            }
        }
        if libc::setsid() < 0
            || plan.has_terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0
            || libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr()) < 0
            || libc::syscall(libc::SYS_setgid, ids.1) < 0
            || libc::syscall(libc::SYS_setuid, ids.0) < 0
            || libc::chdir(plan.folder.as_ptr()) < 0
        {
            return *libc::__errno_location();
        }
        // Rust ignores it, and ignoring is inherited.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const child.mask, ptr::null_mut());
        let mut error = libc::ENOENT;
        for program in &plan.programs {
            libc::execve(program.as_ptr(), child.argv.as_ptr(), child.env.as_ptr());
            match *libc::__errno_location() {
                // Perhaps in the next folder.
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => error = libc::EACCES,
                other => return other,
            }
        }
        error
    }
}
