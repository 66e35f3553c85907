//! The built-in image `host`: the machine's own programs and libraries.
//!
//! `/usr` with `/bin`, `/sbin` and `/lib*` as the machine has them, and those
//! parts of `/etc` that programs need and that tell nothing of the machine's
//! users, secrets or network. Nothing else of the machine is there.
//!
//! Whoever is root in a sandbox reads what the machine's root may read. So what
//! not every user of the machine may read is hidden (`private`): an empty file
//! or folder that nobody can open lies over it.

mod private;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub(crate) use self::private::{Private, find as find_private};

/// Folders of the machine that appear as they are.
const SHARED: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Files and folders of `/etc` that are copied, if they exist.
const HARMLESS: [&str; 22] = [
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

const WRITTEN: [(&str, &str); 7] = [
    ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"),
    ("group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("hostname", "sandbox\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("resolv.conf", ""),
    ("timezone", "Etc/UTC\n"),
];

/// Folders of the image that are the machine's.
pub(crate) fn shared_folders() -> Vec<PathBuf> {
    let folders = SHARED.iter().map(|name| Path::new("/").join(name));
    folders
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()))
        .collect()
}

/// A folder of the machine, and where in the image it appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// On the machine.
    pub source: PathBuf,
    /// Below the folder of the image.
    pub target: PathBuf,
}

/// Puts the image into a folder, and tells which folders of the machine have to
/// be mounted there, read-only. What an earlier call put there and does not
/// belong there any more is removed.
///
/// # Errors
///
/// The folder cannot be written.
pub fn prepare(folder: &Path) -> io::Result<Vec<Shared>> {
    for name in
        ["dev", "etc", "home", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var", "var/tmp"]
    {
        make_folder(&folder.join(name), 0o755)?;
    }
    for (name, mode) in [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)] {
        fs::set_permissions(folder.join(name), Permissions::from_mode(mode))?;
    }
    link(Path::new("/run"), &folder.join("var/run"))?;
    let mut shared = Vec::new();
    for name in SHARED {
        let (source, target) = (Path::new("/").join(name), folder.join(name));
        match fs::symlink_metadata(&source) {
            // With a merged /usr.
            Ok(metadata) if metadata.is_symlink() => link(&fs::read_link(&source)?, &target)?,
            Ok(metadata) if metadata.is_dir() => {
                make_folder(&target, 0o755)?;
                shared.push(Shared { source, target });
            }
            _ => {}
        }
    }
    let etc = folder.join("etc");
    for name in HARMLESS {
        copy(Path::new("/etc"), &etc, Path::new(name))?;
    }
    for (name, text) in WRITTEN {
        write(&etc.join(name), text.as_bytes(), 0o644)?;
    }
    Ok(shared)
}

/// Copies a file, link or folder that every user of the machine may read, by its
/// name below `from`; anything else is left out.
fn copy(from: &Path, to: &Path, name: &Path) -> io::Result<()> {
    let parents: Vec<&Path> = name.ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
    for above in parents.iter().rev() {
        match fs::symlink_metadata(from.join(above)) {
            Ok(metadata) if is_public(&metadata) => make_folder(&to.join(above), 0o755)?,
            // What is below it is nobody's business, or it is not there.
            _ => return remove(&to.join(above)),
        }
    }
    copy_tree(&from.join(name), &to.join(name))
}

fn copy_tree(source: &Path, target: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(source) else { return remove(target) };
    if metadata.is_symlink() {
        let to = fs::read_link(source)?;
        // Into what is shared; another part of /etc may be missing.
        return link(&to, target);
    }
    if !is_public(&metadata) {
        return remove(target);
    }
    if metadata.is_dir() {
        make_folder(target, 0o755)?;
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
    write(target, &fs::read(source)?, metadata.permissions().mode() & 0o755)
}

/// Whether every user of the machine may read a file, or read and enter a folder.
fn is_public(metadata: &Metadata) -> bool {
    let mode = metadata.permissions().mode();
    metadata.is_dir() && mode & 0o005 == 0o005 || metadata.is_file() && mode & 0o004 != 0
}

/// Makes a folder if there is none, whatever the umask is.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
        fs::remove_file(path)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Writes a file anew, unless it has this content: sandboxes that run may have
/// it open.
fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
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

fn link(to: &Path, at: &Path) -> io::Result<()> {
    if fs::read_link(at).is_ok_and(|known| known == to) {
        return Ok(());
    }
    remove(at)?;
    symlink(to, at)
}

/// Changes when the machine's own programs and libraries do, by an upgrade for
/// one.
pub fn fingerprint() -> String {
    use std::os::unix::fs::MetadataExt;
    const TOLD_BY: [&str; 6] = [
        "/etc/ld.so.cache",
        "/var/lib/dpkg/status",
        "/var/lib/rpm",
        "/usr/bin",
        "/usr/lib",
        "/usr/sbin",
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in TOLD_BY {
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
    fn no_secret_of_the_machine_is_in_the_image() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        // A second time finds everything there.
        let shared = prepare(folder.path()).unwrap();
        assert!(shared.iter().any(|shared| shared.source == Path::new("/usr")));
        for name in ["shadow", "gshadow", "ssh", "sudoers", "machine-id", "apt", "ssl/private"] {
            assert!(!folder.path().join("etc").join(name).exists(), "{name}");
        }
        let passwd = fs::read_to_string(folder.path().join("etc/passwd")).unwrap();
        assert_eq!(passwd.lines().count(), 2);
        assert!(folder.path().join("etc/ld.so.cache").exists());
    }

    #[test]
    fn what_is_not_for_every_user_is_not_copied() {
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
        assert_eq!(mode & 0o7777, 0o755, "nothing runs as somebody else");
        // What was copied before goes when it is closed.
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
