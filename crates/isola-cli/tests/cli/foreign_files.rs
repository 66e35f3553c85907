//! Files that others may have made: what is in them does not reach the terminal
//! as it is, and none of them is read without end.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    fixture::{Folder, fed, finish},
    terminal::shown,
};

/// Sequences that set the title, fill the clipboard, clear the screen, and turn
/// text around; in one byte and in two, with either end.
const SEQUENCES: [&str; 6] = [
    "\x1b]0;title\x07",
    "\x1b]52;c;eA==\x1b\\",
    "\u{9d}0;title\u{9c}",
    "\u{9b}2J",
    "\x1b[2J\r",
    "\u{202e}txt.exe\u{2066}\u{2028}",
];

/// A file that passes for a snapshot, as far as its header goes.
fn snapshot(header: &serde_json::Value) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = b"isolas01".to_vec();
    bytes.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

fn header(text: &str) -> serde_json::Value {
    serde_json::json!({
        "isola": text, "runtime": text, "guest": text, "engine": text, "created": 1,
        "memory": 65_536, "changed": 0, "base": [0, 0], "globals": [], "monotonic": 0,
        "evaluates": false,
    })
}

fn is_obeyed(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}')
}

#[track_caller]
fn is_harmless(text: &str) {
    // A terminal adds a carriage return to each newline.
    let text = text.replace("\r\n", "\n");
    assert!(!text.chars().any(is_obeyed), "{text:?}");
}

#[test]
fn what_a_snapshot_says_is_shown_and_not_obeyed() {
    for sequence in SEQUENCES {
        let home = Folder::new();
        let named = home.path().join("isola/snapshots");
        isola::private_dir(&named).unwrap();
        let bytes = snapshot(&header(&format!("a{sequence}b")));
        // Its name, too, is anybody's who can send an archive of files.
        let name = format!("n{sequence}m.snapshot").replace('/', "");
        for path in [named.join(&name), named.join("plain.snapshot")] {
            fs::write(path, &bytes).unwrap();
        }
        let command = |args: &[&str]| {
            let mut command = home.command(args);
            command.env("XDG_DATA_HOME", home.path());
            command
        };
        let path = named.join(&name).display().to_string();
        let other = Folder::with("s.py", "");
        for args in [
            &["snapshot", "ls"][..],
            &["snapshot", "show", "plain"],
            &["snapshot", "show", &path],
            &["snapshot", "ls", "--json"],
            &["snapshot", "show", "plain", "--json"],
            &["snapshot", "show", &path, "--json"],
        ] {
            let ran = finish(command(args));
            assert_eq!(ran.code, Some(0), "{ran:?}");
            is_harmless(&ran.stdout);
            is_harmless(&shown(command(args)));
            if args.contains(&"--json") {
                // The same text, for who reads it as JSON.
                let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
                let entry = value.get("entries").map_or(&value, |entries| &entries[0]);
                assert_eq!(entry["runtime"], format!("a{sequence}b"));
            }
        }
        for args in [
            &["run", "s.py", "--from-snapshot", &path][..],
            &["repl", "--from-snapshot", &path],
            &["snapshot", "rm", &path, "nothing\x1b]0;x\x07"],
            &["snapshot", "show", "./none\x1b]0;x\x07.snapshot"],
        ] {
            let failing = || {
                let mut command = command(args);
                command.current_dir(other.path());
                command
            };
            is_harmless(&finish(failing()).failed(2));
            is_harmless(&shown(failing()));
        }
    }
}

#[test]
fn a_snapshot_of_no_time_is_refused() {
    let folder = Folder::new();
    for created in [u64::MAX, i64::MAX as u64, 253_402_300_800] {
        let mut header = header("x");
        header["created"] = created.into();
        fs::write(folder.path().join("a.snapshot"), snapshot(&header)).unwrap();
        for args in [&["snapshot", "show", "a.snapshot"][..], &["snapshot", "rm", "a.snapshot"]] {
            let error = finish(folder.command(args)).failed(2);
            assert!(error.contains("beyond the year 9999"), "{error}");
        }
    }
}

/// Runs a command that must fail, and soon.
#[track_caller]
fn soon(mut command: Command, code: i32) -> String {
    let begun = Instant::now();
    let stderr = finish({
        command.env_remove("RUST_BACKTRACE");
        command
    })
    .failed(code);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
}

#[test]
fn files_without_an_end_or_a_beginning_are_refused() {
    let folder = Folder::new().file("good.py", "").file("s.snapshot", snapshot(&header("x")));
    let path = |name: &str| folder.path().join(name);
    for name in ["fifo.py", "fifo.snapshot"] {
        fifo(&path(name));
    }
    for (name, target) in
        [("zero.py", "/dev/zero"), ("zero.snapshot", "/dev/zero"), ("null.py", "/dev/null")]
    {
        std::os::unix::fs::symlink(target, path(name)).unwrap();
    }
    for name in ["sparse.py", "sparse.snapshot"] {
        File::create(path(name)).unwrap().set_len(8 << 30).unwrap();
    }
    File::options().write(true).open(path("s.snapshot")).unwrap().set_len(8 << 30).unwrap();
    for (script, says) in [
        ("fifo.py", "nothing writes to this pipe"),
        ("zero.py", "neither a file nor a pipe"),
        ("null.py", "neither a file nor a pipe"),
        ("sparse.py", "longer than 16777216 bytes"),
    ] {
        for args in [&["run", script][..], &["run", "good.py", "--prelude", script]] {
            let error = soon(folder.command(args), 2);
            assert!(error.contains(says), "{args:?}: {error}");
        }
    }
    for name in ["fifo.snapshot", "zero.snapshot", "sparse.snapshot", "s.snapshot"] {
        for args in
            [&["run", "good.py", "--from-snapshot", name][..], &["repl", "--from-snapshot", name]]
        {
            soon(folder.command(args), 2);
        }
        if name != "s.snapshot" {
            soon(folder.command(&["snapshot", "show", name]), 2);
            soon(folder.command(&["snapshot", "rm", name]), 2);
            assert!(fs::symlink_metadata(path(name)).is_ok(), "{name} was removed");
        }
    }
    // The header of a sparse file is all that is read of it.
    let begun = Instant::now();
    finish(folder.command(&["snapshot", "show", "s.snapshot"])).well();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_pipe_that_somebody_writes_to_is_read() {
    let folder = Folder::new();
    let run = format!("{} run /dev/stdin --runtime python", crate::fixture::ISOLA);
    // Has the runtimes compiled by now.
    drop(folder.command::<&str>(&[]));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("echo 'print(6 * 7)' | {run}")]);
    assert_eq!(finish(command).well(), "42\n");
    // Standard input may be of any kind, up to the same length.
    let mut command = folder.command(&["run", "-", "--runtime", "python"]);
    command.stdin(File::open("/dev/zero").unwrap());
    let error = soon(command, 2);
    assert!(error.contains("longer than 16777216 bytes"), "{error}");
    let ran = fed(folder.command(&["run", "-", "--runtime", "python"]), b"print(1)");
    assert_eq!(ran.well(), "1\n");
}

#[test]
fn times_of_files_are_written_or_left_out() {
    let folder = Folder::new();
    let cache = folder.path().join("isola/compiled");
    isola::private_dir(&cache).unwrap();
    let name = "a\x1b]0;x\x07.cwasm";
    let file = File::create(cache.join(name)).unwrap();
    for seconds in [-1_i64, -100_000_000_000, 1, 253_402_300_800, 1 << 40, i64::MAX / 2] {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        // Not every file system has every time: it is cut to the next.
        rustix::fs::futimens(&file, &times).unwrap();
        for args in [&["cache", "ls"][..], &["cache", "ls", "--json"]] {
            let mut command = folder.command(args);
            command.env("XDG_CACHE_HOME", folder.path());
            is_harmless(&finish(command).well());
        }
    }
}

#[test]
fn a_cache_and_named_snapshots_are_the_owners() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::with("s.py", "def main(): return 1");
    let place = folder.path().join("home");
    fs::create_dir(&place).unwrap();
    for mode in [0o770, 0o777] {
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        for (variable, args) in [
            ("XDG_CACHE_HOME", &["run", "s.py"][..]),
            ("XDG_DATA_HOME", &["run", "s.py", "--save-snapshot", "warm"]),
        ] {
            let mut command = folder.command(args);
            command.env(variable, &place);
            let error = soon(command, 2);
            assert!(error.contains("can write there") && error.contains("chmod go-w"), "{error}");
            assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        }
    }
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    let isola = |args: &[&str]| {
        let mut command = folder.command(args);
        command.env("XDG_DATA_HOME", &place);
        finish(command)
    };
    isola(&["run", "s.py", "--save-snapshot", "warm"]).well();
    let named = place.join("isola/snapshots");
    assert_eq!(fs::metadata(&named).unwrap().permissions().mode() & 0o777, 0o700);
    isola(&["run", "s.py", "--from-snapshot", "warm"]).well();
    fs::set_permissions(&named, fs::Permissions::from_mode(0o770)).unwrap();
    let error = isola(&["run", "s.py", "--from-snapshot", "warm"]).failed(2);
    assert!(error.contains("its group can write there"), "{error}");
}
