//! Adds the sandbox's own name to `/etc/hosts`: a program that resolves its host
//! name must not need a resolver outside.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

const HOSTS_FILE: &str = "/etc/hosts";
/// The end of the agent's line, by which it is found and replaced.
const LINE_MARKER: &str = "# this sandbox";
/// The maximum size of an existing file whose content is kept, in bytes.
const MAX_HOSTS_BYTES: u64 = 1 << 20;

/// Makes `hostname` a name of the loopback address, on which servers are reachable
/// from outside, too. Keeps the rest of the file.
pub fn set(hostname: &str) -> io::Result<()> {
    std::fs::create_dir_all("/etc")?;
    let text = with_name(&read(Path::new(HOSTS_FILE)), hostname);
    let mut number = [0; 8];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
    // A new file, with a name that no program can have taken.
    let draft = format!("/etc/.hosts.{:016x}", u64::from_le_bytes(number));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&draft, flags, Mode::from_raw_mode(0o644))?;
    let written =
        File::from(file).write_all(&text).and_then(|()| std::fs::rename(&draft, HOSTS_FILE));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Returns the content of a regular file; nothing if it is not one, or too long.
/// Never blocks, since a guest may have created a FIFO there.
fn read(path: &Path) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reading = || -> io::Result<Vec<u8>> {
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let mut text = Vec::new();
        if file.metadata()?.is_file() && file.metadata()?.len() <= MAX_HOSTS_BYTES {
            file.take(MAX_HOSTS_BYTES).read_to_end(&mut text)?;
        }
        Ok(text)
    };
    reading().unwrap_or_default()
}

/// Returns the text of `/etc/hosts` with this name and `localhost` in it.
fn with_name(old: &[u8], hostname: &str) -> Vec<u8> {
    let lines = old.split_inclusive(|byte| *byte == b'\n');
    let mut text: Vec<u8> = lines
        .filter(|line| !line.trim_ascii_end().ends_with(LINE_MARKER.as_bytes()))
        .flatten()
        .copied()
        .collect();
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    let has_localhost = text.split(|byte| *byte == b'\n').any(|line| {
        let names = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        names.split(u8::is_ascii_whitespace).any(|word| word == b"localhost")
    });
    if !has_localhost {
        text.extend_from_slice(b"127.0.0.1 localhost\n");
    }
    text.extend_from_slice(format!("127.0.0.1 {hostname} {LINE_MARKER}\n").as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostname_replaces_the_previous_one() {
        let first = with_name(b"", "a");
        assert_eq!(first, b"127.0.0.1 localhost\n127.0.0.1 a # this sandbox\n");
        let second = with_name(&first, "b");
        assert_eq!(second, b"127.0.0.1 localhost\n127.0.0.1 b # this sandbox\n");
        let kept = with_name(b"10.0.0.1 db\n::1 localhost # x\n127.0.0.1 own", "c");
        assert_eq!(
            kept,
            b"10.0.0.1 db\n::1 localhost # x\n127.0.0.1 own\n127.0.0.1 c # this sandbox\n"
        );
        let odd = with_name(b"# localhost\n\xff\xfe", "d");
        assert!(odd.ends_with(b"127.0.0.1 localhost\n127.0.0.1 d # this sandbox\n"));
    }

    #[test]
    fn special_files_are_read_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (fifo, link, file) = (dir.join("fifo"), dir.join("link"), dir.join("file"));
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&file), b"x");
        for path in [&fifo, &link, dir, &dir.join("none")] {
            assert_eq!(read(path), b"", "{}", path.display());
        }
        std::fs::write(&file, vec![b'x'; (1 << 20) + 1]).unwrap();
        assert_eq!(read(&file), b"", "too long");
    }
}
