//! The built-in image `host`: the machine's own programs and libraries.
//!
//! `/usr` with `/bin`, `/sbin` and `/lib*` as the machine has them, and those
//! parts of `/etc` that programs need and that tell nothing of the machine's
//! users, secrets or network. Nothing else of the machine is there.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

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

/// A folder of the machine, and where in the image it appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// On the machine.
    pub source: PathBuf,
    /// Below the folder of the image.
    pub target: PathBuf,
}

/// Puts the image into a folder, and tells which folders of the machine have to
/// be mounted there, read-only.
///
/// # Errors
///
/// The folder cannot be written.
pub fn prepare(folder: &Path) -> io::Result<Vec<Shared>> {
    for name in ["dev", "etc", "home", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var/tmp"]
    {
        fs::create_dir_all(folder.join(name))?;
    }
    for (name, mode) in [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)] {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode))?;
    }
    link(Path::new("/run"), &folder.join("var/run"))?;
    let mut shared = Vec::new();
    for name in SHARED {
        let (source, target) = (Path::new("/").join(name), folder.join(name));
        match fs::symlink_metadata(&source) {
            // With a merged /usr.
            Ok(metadata) if metadata.is_symlink() => link(&fs::read_link(&source)?, &target)?,
            Ok(metadata) if metadata.is_dir() => {
                fs::create_dir_all(&target)?;
                shared.push(Shared { source, target });
            }
            _ => {}
        }
    }
    let etc = folder.join("etc");
    for name in HARMLESS {
        let source = Path::new("/etc").join(name);
        if let Some(above) = Path::new(name).parent() {
            fs::create_dir_all(etc.join(above))?;
        }
        copy(&source, &etc.join(name))?;
    }
    for (name, text) in WRITTEN {
        fs::write(etc.join(name), text)?;
    }
    Ok(shared)
}

/// Copies a file, link or folder that all may read; anything else is left out.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(source) else { return Ok(()) };
    if metadata.is_symlink() {
        let to = fs::read_link(source)?;
        // Into what is shared; another part of /etc may be missing.
        return link(&to, target);
    }
    if metadata.is_dir() {
        fs::create_dir_all(target)?;
        for entry in fs::read_dir(source)?.flatten() {
            copy(&entry.path(), &target.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if metadata.is_file() && metadata.permissions().mode() & 0o004 != 0 {
        fs::copy(source, target)?;
    }
    Ok(())
}

fn link(to: &Path, at: &Path) -> io::Result<()> {
    match fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => symlink(to, at),
    }
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
}
