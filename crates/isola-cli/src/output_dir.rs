//! `--output`: writes the files of a sandbox's home to a directory of the machine.
//!
//! The names and the number of the files are the script's, and it may have written to the
//! directory through a mount. So every entry is created below an open directory, no
//! symbolic link is followed, and the depth, the total size and the number of messages are
//! bounded.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use cap_primitives::{
    ambient_authority,
    fs::{self, DirOptions, OpenOptions},
};
use isola::{Error, FileFailure, FileKind, SandboxFiles};

use crate::failure::Failure;

/// The home of a sandbox, in which scripts start.
const HOME: &str = "/root";

/// The largest depth of directories that are written.
const MAX_DEPTH: usize = 100;

/// The largest number of files that are named as not written.
const MAX_WARNINGS: usize = 10;

/// A directory to which files are written.
pub struct OutputDir {
    dir: File,
}

impl OutputDir {
    /// Opens a directory, and creates it if it does not exist.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let opened = std::fs::create_dir_all(path)
            .and_then(|()| fs::open_ambient_dir(path, ambient_authority()));
        match opened {
            Ok(dir) => Ok(Self { dir }),
            Err(error) => Err(Failure::usage(format!("--output {}: {error}", path.display()))),
        }
    }

    /// Writes the files of a sandbox, of at most `max_size` bytes together. Returns messages
    /// about those that were not written.
    pub fn write(&self, files: &SandboxFiles, max_size: usize) -> Result<Vec<String>, Failure> {
        let mut writer = Writer { files, left: max_size as u64, skipped: Vec::new(), more: 0 };
        match files.list(HOME) {
            Ok(_) => writer.directory(&self.dir, HOME, 0)?,
            // The script has removed its home, or it is a mount.
            Err(Error::File(error)) if error.failure == FileFailure::NotFound => {}
            Err(error) => writer.skip(HOME, &error.to_string()),
        }
        if writer.more > 0 {
            writer.skipped.push(format!("{} more files were not written", writer.more));
        }
        Ok(writer.skipped)
    }
}

struct Writer<'a> {
    files: &'a SandboxFiles,
    /// The number of bytes that may still be written.
    left: u64,
    /// The messages about files that were not written.
    skipped: Vec<String>,
    /// The number of further ones.
    more: usize,
}

impl Writer<'_> {
    /// Writes the entries of a directory of the sandbox.
    fn directory(&mut self, dir: &File, path: &str, depth: usize) -> Result<(), Failure> {
        let entries = match self.files.list(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.skip(path, &error.to_string());
                return Ok(());
            }
        };
        for entry in entries {
            let below = format!("{path}/{}", entry.name);
            if !is_one_name(&entry.name) {
                self.skip(&below, "its name is not possible here");
                continue;
            }
            match entry.stat.kind {
                FileKind::Directory if depth >= MAX_DEPTH => {
                    self.skip(&below, &format!("it is deeper than {MAX_DEPTH} directories"));
                }
                FileKind::Directory => match subdirectory(dir, &entry.name) {
                    Ok(subdirectory) => self.directory(&subdirectory, &below, depth + 1)?,
                    Err(error) if is_occupied(&error) => {
                        self.skip(&below, "the output directory has something else at its path");
                    }
                    Err(error) => return Err(failure(error)),
                },
                FileKind::File => self.file(dir, &entry.name, &below, entry.stat.mode)?,
                _ => self.skip(&below, "it is a link or a device"),
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: &File, name: &str, path: &str, mode: u32) -> Result<(), Failure> {
        let content = match self.files.read(path) {
            Ok(content) => content,
            Err(error) => {
                self.skip(path, &error.to_string());
                return Ok(());
            }
        };
        // Files with holes, and files with several names, are larger here than in the sandbox.
        let Some(left) = self.left.checked_sub(content.len() as u64) else {
            self.skip(path, "the files together would be larger than --max-storage");
            return Ok(());
        };
        self.left = left;
        match create(dir, name, mode).and_then(|mut file| file.write_all(&content)) {
            Ok(()) => Ok(()),
            Err(error) if is_occupied(&error) => {
                self.skip(path, "the output directory has something else at its path");
                Ok(())
            }
            Err(error) => Err(failure(error)),
        }
    }

    fn skip(&mut self, path: &str, why: &str) {
        if self.skipped.len() < MAX_WARNINGS {
            self.skipped.push(format!("{path} was not written: {why}"));
        } else {
            self.more += 1;
        }
    }
}

/// Opens a directory below another one, and creates it if it does not exist.
fn subdirectory(dir: &File, name: &str) -> io::Result<File> {
    match fs::create_dir(dir, Path::new(name), &DirOptions::new()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::open_dir_nofollow(dir, Path::new(name))
}

/// Creates a file, in place of an existing one. An existing file is removed and not opened:
/// it may be a link, a pipe, or have further names elsewhere.
fn create(dir: &File, name: &str, mode: u32) -> io::Result<File> {
    match fs::remove_file(dir, Path::new(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use cap_primitives::fs::OpenOptionsExt as _;
        // The owner can read the file in every case.
        options.mode(mode & 0o777 | 0o600);
    }
    #[cfg(not(unix))]
    let _ = mode;
    fs::open(dir, Path::new(name), &options)
}

/// Reports whether an error means that an entry of another kind has the name.
fn is_occupied(error: &io::Error) -> bool {
    use io::ErrorKind;
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return true;
    }
    matches!(
        error.kind(),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists
    )
}

/// Reports whether a name is one component of a path on this machine.
fn is_one_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(std::path::Component::Normal(first)) if first == name)
        && components.next().is_none()
        && !name.contains('\0')
}

fn failure(error: io::Error) -> Failure {
    Failure::Io { context: "cannot write to the directory of --output", error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_names_are_accepted() {
        for name in ["a", "a.txt", "...", "a b", "é"] {
            assert!(is_one_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "/", "/a", "a/", "a\0b"] {
            assert!(!is_one_name(name), "{name:?}");
        }
    }
}
