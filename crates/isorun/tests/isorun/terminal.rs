//! `isorun exec --tty` on a real terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::Stdio,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use test_macros::server_test;
use test_support::wait::wait_until;

use crate::support::Server;

/// Opens a pseudoterminal. Returns its controlling end and its terminal end.
fn open_pty(rows: u16, cols: u16) -> (File, OwnedFd) {
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    tcsetwinsize(&controller, size(rows, cols)).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    rustix::io::ioctl_fionbio(&controller, true).unwrap();
    (controller.into(), terminal)
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Reads output until it contains a text.
async fn read_until(screen: &mut File, text: &str) -> String {
    let mut seen = String::new();
    wait_until(&format!("{text:?} is on the terminal"), async || {
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = screen.read(&mut part) {
            let part = String::from_utf8_lossy(&part[..count]);
            println!("{part:?}");
            seen.push_str(&part);
        }
        seen.contains(text)
    })
    .await;
    seen
}

#[server_test]
async fn exec_tty_connects_both_terminals(server: &Server) {
    let id = server.create().await;
    let (mut controller, terminal) = open_pty(33, 111);
    let mut command = server.command();
    command.args(["exec", "--tty", &id, "--", "sh", "-c"]);
    command.arg("tty; stty size; read line; echo got $line; trap 'stty size; exit 7' WINCH; while :; do sleep 0.05; done");
    command.stdin(Stdio::from(terminal.try_clone().unwrap()));
    command.stdout(Stdio::from(terminal.try_clone().unwrap()));
    command.stderr(Stdio::from(terminal.try_clone().unwrap()));
    let mut child = command.spawn().unwrap();

    let seen = read_until(&mut controller, "33 111").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    // Keys are sent as they are typed: the local terminal neither edits nor echoes them.
    assert!(!tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ICANON));
    controller.write_all(b"hello\r").unwrap();
    read_until(&mut controller, "got hello").await;
    // It is not the controlling terminal of the command, so the kernel sends no SIGWINCH.
    tcsetwinsize(&terminal, size(20, 70)).unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::WINCH).unwrap();
    read_until(&mut controller, "20 70").await;
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    // The previous mode is restored.
    assert!(tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ICANON));
}
