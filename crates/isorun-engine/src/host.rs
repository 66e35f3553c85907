//! The built-in image `host`: the machine's own programs and libraries.
//!
//! It has `/usr` with `/bin`, `/sbin` and `/lib*` of the machine, and those parts
//! of `/etc` that programs need and that disclose nothing about the machine's
//! users, secrets or network. No other file of the machine is in it.
//!
//! Root in a sandbox can read everything that the machine's root can read. So files
//! that not every user of the machine may read are hidden (`private`): an empty
//! file or directory that cannot be opened is mounted over each.

mod private;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub(crate) use self::private::{PrivatePath, find_private};

/// The directories of the machine that are part of the image.
const SHARED_DIRS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// The files and directories of `/etc` that are copied if they exist.
const COPIED_ETC_PATHS: [&str; 22] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates.conf",
    "debian_version",
    "ethertypes",
    "gai.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "networks",
    "os-release",
    "pki/tls/certs",
    "profile",
    "protocols",
    "python3",
    "python3.11",
    "services",
    "ssl/certs",
    "terminfo",
];

const GENERATED_ETC_FILES: [(&str, &str); 7] = [
    ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"),
    ("group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("hostname", "sandbox\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("resolv.conf", ""),
    ("timezone", "Etc/UTC\n"),
];

/// Returns the directories of the machine that are part of the image.
pub(crate) fn shared_dirs() -> Vec<PathBuf> {
    let dirs = SHARED_DIRS.iter().map(|name| Path::new("/").join(name));
    dirs.filter(|path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())).collect()
}

/// A directory of the machine, and its path in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDir {
    /// The path on the machine.
    pub source: PathBuf,
    /// The path below the directory of the image.
    pub target: PathBuf,
}

/// Writes the image into a directory, and returns the directories of the machine
/// that have to be mounted there read-only. Removes files of an earlier call that
/// do not belong there any more.
///
/// # Errors
///
/// The directory cannot be written.
pub fn prepare(dir: &Path) -> io::Result<Vec<SharedDir>> {
    for name in
        ["dev", "etc", "home", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var", "var/tmp"]
    {
        ensure_dir(&dir.join(name), 0o755)?;
    }
    for (name, mode) in [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)] {
        fs::set_permissions(dir.join(name), Permissions::from_mode(mode))?;
    }
    ensure_symlink(Path::new("/run"), &dir.join("var/run"))?;
    let mut shared = Vec::new();
    for name in SHARED_DIRS {
        let (source, target) = (Path::new("/").join(name), dir.join(name));
        match fs::symlink_metadata(&source) {
            // With a merged /usr.
            Ok(metadata) if metadata.is_symlink() => {
                ensure_symlink(&fs::read_link(&source)?, &target)?
            }
            Ok(metadata) if metadata.is_dir() => {
                ensure_dir(&target, 0o755)?;
                shared.push(SharedDir { source, target });
            }
            _ => {}
        }
    }
    let etc = dir.join("etc");
    for name in COPIED_ETC_PATHS {
        copy(Path::new("/etc"), &etc, Path::new(name))?;
    }
    for (name, text) in GENERATED_ETC_FILES {
        write_if_changed(&etc.join(name), text.as_bytes(), 0o644)?;
    }
    Ok(shared)
}

/// Copies a file, link or directory that every user of the machine may read, by its
/// name below `from`. Skips anything else.
fn copy(from: &Path, to: &Path, name: &Path) -> io::Result<()> {
    let parents: Vec<&Path> = name.ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
    for above in parents.iter().rev() {
        match fs::symlink_metadata(from.join(above)) {
            Ok(metadata) if is_public(&metadata) => ensure_dir(&to.join(above), 0o755)?,
            // The parent is private or does not exist.
            _ => return remove(&to.join(above)),
        }
    }
    copy_tree(&from.join(name), &to.join(name))
}

fn copy_tree(source: &Path, target: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(source) else { return remove(target) };
    if metadata.is_symlink() {
        let to = fs::read_link(source)?;
        // The link may lead to another part of /etc, which may be missing.
        return ensure_symlink(&to, target);
    }
    if !is_public(&metadata) {
        return remove(target);
    }
    if metadata.is_dir() {
        ensure_dir(target, 0o755)?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(source)?.flatten() {
            copy_tree(&entry.path(), &target.join(entry.file_name()))?;
            names.insert(entry.file_name());
        }
        for entry in fs::read_dir(target)?.flatten() {
            if !names.contains(&entry.file_name()) {
                remove(&entry.path())?;
            }
        }
        return Ok(());
    }
    write_if_changed(target, &fs::read(source)?, metadata.permissions().mode() & 0o755)
}

/// Reports whether every user of the machine may read a file, or list and enter a
/// directory.
fn is_public(metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    metadata.is_dir() && mode & 0o005 == 0o005 || metadata.is_file() && mode & 0o004 != 0
}

/// Creates a directory if it does not exist, and sets its mode regardless of the
/// umask.
fn ensure_dir(path: &Path, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
        fs::remove_file(path)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Replaces a file, unless it has this content already: running sandboxes may have
/// it open.
fn write_if_changed(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !(is_file && fs::read(path)? == content) {
        remove(path)?;
        fs::write(path, content)?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn ensure_symlink(to: &Path, at: &Path) -> io::Result<()> {
    if fs::read_link(at).is_ok_and(|known| known == to) {
        return Ok(());
    }
    remove(at)?;
    symlink(to, at)
}

/// Returns a value that changes when the machine's own programs and libraries
/// change, for example by an upgrade.
pub fn fingerprint() -> String {
    use std::os::unix::fs::MetadataExt;
    const FINGERPRINTED_PATHS: [&str; 6] = [
        "/etc/ld.so.cache",
        "/var/lib/dpkg/status",
        "/var/lib/rpm",
        "/usr/bin",
        "/usr/lib",
        "/usr/sbin",
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in FINGERPRINTED_PATHS {
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        for part in [metadata.mtime(), metadata.mtime_nsec(), metadata.size().cast_signed()] {
            for byte in part.to_le_bytes() {
                // FNV-1a.
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    format!("host {hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_contains_no_secret_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        // A second call finds everything in place.
        let shared = prepare(dir.path()).unwrap();
        assert!(shared.iter().any(|shared| shared.source == Path::new("/usr")));
        for name in ["shadow", "gshadow", "ssh", "sudoers", "machine-id", "apt", "ssl/private"] {
            assert!(!dir.path().join("etc").join(name).exists(), "{name}");
        }
        let passwd = fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
        assert_eq!(passwd.lines().count(), 2);
        assert!(dir.path().join("etc/ld.so.cache").exists());
    }

    #[test]
    fn private_files_are_not_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path());
        for path in ["a/open/file", "a/open/closed", "a/dir/file", "a/half/file", "b/c/file"] {
            fs::create_dir_all(from.join(path).parent().unwrap()).unwrap();
            fs::write(from.join(path), path).unwrap();
        }
        let copied = |names: [(&str, u32); 7]| {
            for (name, mode) in names {
                fs::set_permissions(from.join(name), Permissions::from_mode(mode)).unwrap();
            }
            for name in ["a", "b/c", "missing", "missing/too"] {
                copy(from, to, Path::new(name)).unwrap();
            }
            ["a/open/file", "a/open/closed", "a/dir/file", "a/half/file", "b/c/file"]
                .map(|path| to.join(path).exists())
        };
        let all = [
            ("a/open/file", 0o644),
            ("a/open/closed", 0o644),
            ("a/dir", 0o755),
            ("a/half", 0o755),
            ("b", 0o755),
            ("b/c", 0o755),
            ("b/c/file", 0o4755),
        ];
        assert_eq!(copied(all), [true; 5]);
        let mode = fs::metadata(to.join("b/c/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "no setuid bit is copied");
        // A copy is removed when its source becomes private.
        let some = [
            ("a/open/file", 0o644),
            ("a/open/closed", 0o640),
            ("a/dir", 0o750),
            ("a/half", 0o711),
            ("b", 0o700),
            ("b/c", 0o755),
            ("b/c/file", 0o644),
        ];
        assert_eq!(copied(some), [true, false, false, false, false]);
        assert_eq!(copied(all), [true; 5]);
        fs::remove_file(from.join("a/open/file")).unwrap();
        copy(from, to, Path::new("a")).unwrap();
        assert!(!to.join("a/open/file").exists());
    }
}
