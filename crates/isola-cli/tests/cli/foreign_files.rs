//! Tests of untrusted files: control characters in them do not reach the terminal,
//! and endless or very large files are rejected.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    fixture::{ISOLA, TestDir, compile_once, finish, run_with_input},
    terminal::run_on_terminal,
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

/// Returns a file with the header of a snapshot.
fn snapshot(header: &serde_json::Value) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = b"isolas02".to_vec();
    bytes.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

fn header(text: &str) -> serde_json::Value {
    serde_json::json!({
        "isola": text, "runtime": text, "guest": text, "engine": text, "created": 1,
        "memory": 65_536, "changed": 0, "base": [0, 0], "globals": [], "monotonic": 0,
    })
}

/// Reports whether a terminal may execute the character.
fn is_executed(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}')
}

#[track_caller]
fn assert_harmless(text: &str) {
    // A terminal adds a carriage return to each newline.
    let text = text.replace("\r\n", "\n");
    assert!(!text.chars().any(is_executed), "{text:?}");
}

#[test]
fn control_sequences_in_snapshots_are_escaped() {
    for sequence in SEQUENCES {
        let home = TestDir::new();
        let named = home.path().join("isola/snapshots");
        isola::private_dir(&named).unwrap();
        let bytes = snapshot(&header(&format!("a{sequence}b")));
        // The name is untrusted, too: it may come from an archive.
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
        let other = TestDir::with("s.py", "");
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
            assert_harmless(&ran.stdout);
            assert_harmless(&run_on_terminal(command(args)));
            if args.contains(&"--json") {
                // As JSON, the text is unchanged.
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
            assert_harmless(&finish(failing()).failed(2));
            assert_harmless(&run_on_terminal(failing()));
        }
    }
}

#[test]
fn snapshot_created_after_year_9999_is_refused() {
    let dir = TestDir::new();
    for created in [u64::MAX, i64::MAX as u64, 253_402_300_800] {
        let mut header = header("x");
        header["created"] = created.into();
        fs::write(dir.path().join("a.snapshot"), snapshot(&header)).unwrap();
        for args in [&["snapshot", "show", "a.snapshot"][..], &["snapshot", "rm", "a.snapshot"]] {
            let error = finish(dir.command(args)).failed(2);
            assert!(error.contains("beyond the year 9999"), "{error}");
        }
    }
}

/// Runs a command that must fail within 30 seconds.
#[track_caller]
fn fails_quickly(mut command: Command, code: i32) -> String {
    let started = Instant::now();
    let stderr = finish({
        command.env_remove("RUST_BACKTRACE");
        command
    })
    .failed(code);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
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
fn pipes_devices_and_oversized_files_are_refused() {
    let dir = TestDir::new().file("good.py", "").file("s.snapshot", snapshot(&header("x")));
    let path = |name: &str| dir.path().join(name);
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
    for (script, message) in [
        ("fifo.py", "nothing writes to this pipe"),
        ("zero.py", "neither a file nor a pipe"),
        ("null.py", "neither a file nor a pipe"),
        ("sparse.py", "longer than 16777216 bytes"),
    ] {
        for args in [&["run", script][..], &["run", "good.py", "--prelude", script]] {
            let error = fails_quickly(dir.command(args), 2);
            assert!(error.contains(message), "{args:?}: {error}");
        }
    }
    for name in ["fifo.snapshot", "zero.snapshot", "sparse.snapshot", "s.snapshot"] {
        for args in
            [&["run", "good.py", "--from-snapshot", name][..], &["repl", "--from-snapshot", name]]
        {
            fails_quickly(dir.command(args), 2);
        }
        if name != "s.snapshot" {
            fails_quickly(dir.command(&["snapshot", "show", name]), 2);
            fails_quickly(dir.command(&["snapshot", "rm", name]), 2);
            assert!(fs::symlink_metadata(path(name)).is_ok(), "{name} was removed");
        }
    }
    // Only the header of a sparse file is read.
    let started = Instant::now();
    finish(dir.command(&["snapshot", "show", "s.snapshot"])).succeeded();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn pipe_with_a_writer_is_read() {
    let dir = TestDir::new();
    let run = format!("{ISOLA} run /dev/stdin --runtime python");
    compile_once();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("echo 'print(6 * 7)' | {run}")]);
    assert_eq!(finish(command).succeeded(), "42\n");
    // Standard input may be of any kind, up to the same length.
    let mut command = dir.command(&["run", "-", "--runtime", "python"]);
    command.stdin(File::open("/dev/zero").unwrap());
    let error = fails_quickly(command, 2);
    assert!(error.contains("longer than 16777216 bytes"), "{error}");
    let ran = run_with_input(dir.command(&["run", "-", "--runtime", "python"]), b"print(1)");
    assert_eq!(ran.succeeded(), "1\n");
}

#[test]
fn any_file_time_can_be_listed() {
    let dir = TestDir::new();
    let cache = dir.path().join("isola/compiled");
    isola::private_dir(&cache).unwrap();
    let name = "a\x1b]0;x\x07.cwasm";
    let file = File::create(cache.join(name)).unwrap();
    for seconds in [-1_i64, -100_000_000_000, 1, 253_402_300_800, 1 << 40, i64::MAX / 2] {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        // A file system may limit the range of times.
        rustix::fs::futimens(&file, &times).unwrap();
        for args in [&["cache", "ls"][..], &["cache", "ls", "--json"]] {
            let mut command = dir.command(args);
            command.env("XDG_CACHE_HOME", dir.path());
            assert_harmless(&finish(command).succeeded());
        }
    }
}

#[test]
fn cache_and_snapshot_directories_must_be_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TestDir::with("s.py", "def main(): return 1");
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    for mode in [0o770, 0o777] {
        fs::set_permissions(&home, fs::Permissions::from_mode(mode)).unwrap();
        for (variable, args) in [
            ("XDG_CACHE_HOME", &["run", "s.py"][..]),
            ("XDG_DATA_HOME", &["run", "s.py", "--save-snapshot", "warm"]),
        ] {
            let mut command = dir.command(args);
            command.env(variable, &home);
            let error = fails_quickly(command, 2);
            assert!(error.contains("can write there") && error.contains("chmod go-w"), "{error}");
            assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
        }
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let isola = |args: &[&str]| {
        let mut command = dir.command(args);
        command.env("XDG_DATA_HOME", &home);
        finish(command)
    };
    isola(&["run", "s.py", "--save-snapshot", "warm"]).succeeded();
    let named = home.join("isola/snapshots");
    assert_eq!(fs::metadata(&named).unwrap().permissions().mode() & 0o777, 0o700);
    isola(&["run", "s.py", "--from-snapshot", "warm"]).succeeded();
    fs::set_permissions(&named, fs::Permissions::from_mode(0o770)).unwrap();
    let error = isola(&["run", "s.py", "--from-snapshot", "warm"]).failed(2);
    assert!(error.contains("its group can write there"), "{error}");
}
