//! `isorun exec --tty` on a real terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::fixture::{Server, bounded};

/// Both ends of a terminal: a person's, and a program's.
fn terminal(rows: u16, cols: u16) -> (File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    tcsetwinsize(&ours, size(rows, cols)).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    rustix::io::ioctl_fionbio(&ours, true).unwrap();
    (ours.into(), theirs)
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Reads what appears until it has a text in it.
fn until(screen: &mut File, text: &str) -> String {
    let mut seen = String::new();
    let start = Instant::now();
    let mut part = [0; 4096];
    while !seen.contains(text) {
        match screen.read(&mut part) {
            Ok(count) => seen.push_str(&String::from_utf8_lossy(&part[..count])),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{text:?} does not appear: {seen:?}");
    }
    seen
}

#[test]
fn a_terminal_is_one_at_both_ends() {
    let server = Server::start();
    let mut id = String::new();
    bounded(async { id = server.create().await });
    let (mut person, theirs) = terminal(33, 111);
    let mut command = server.command();
    command.args(["exec", "--tty", &id, "--", "sh", "-c"]);
    command.arg("tty; stty size; read line; echo got $line; trap 'stty size; exit 7' WINCH; while :; do sleep 0.05; done");
    command.stdin(Stdio::from(theirs.try_clone().unwrap()));
    command.stdout(Stdio::from(theirs.try_clone().unwrap()));
    command.stderr(Stdio::from(theirs.try_clone().unwrap()));
    let mut child = command.spawn().unwrap();

    let seen = until(&mut person, "33 111");
    assert!(seen.contains("/dev/pts/"), "{seen}");
    // Keys go there as they are typed: nothing is edited or echoed on this side.
    assert!(!tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ICANON));
    person.write_all(b"hello\r").unwrap();
    until(&mut person, "got hello");
    // The terminal is not its controlling one, so that the system does not tell.
    tcsetwinsize(&theirs, size(20, 70)).unwrap();
    kill_process(Pid::from_child(&child), Signal::WINCH).unwrap();
    until(&mut person, "20 70");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    // And it is left as it was found.
    assert!(tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ICANON));
}
