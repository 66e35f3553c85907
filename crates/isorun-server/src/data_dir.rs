//! The server's data directory: its location and permissions.
//!
//! It holds all data of the server's tenants: memory and files of hibernated
//! sandboxes, the database, and the secret that API keys are derived from. So the
//! directory, and every directory and file in it, is accessible to its owner only,
//! regardless of the umask and of earlier permissions.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use etcetera::BaseStrategy;
use rustix::fs::{Mode, OFlags};

/// The environment variable that sets the data directory, unless an option does.
pub const DATA_DIR_VAR: &str = "ISORUN_DATA_DIR";

/// Returns the default data directory: `/var/lib/isorun` for root, otherwise a
/// directory in the user's data directory.
pub fn default_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(DATA_DIR_VAR).filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/isorun".into());
    }
    let base = etcetera::choose_base_strategy().context("cannot find the home directory")?;
    Ok(base.data_dir().join("isorun"))
}

/// Returns the directory of a server's images.
pub fn images_dir(dir: &Path) -> PathBuf {
    dir.join("images")
}

/// Sets the umask so that everything that this process and its children create is
/// accessible to their user only, unless a mode is set explicitly.
pub fn restrict_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
}

/// Creates the data directory with mode 0700 if it does not exist. If other users
/// can read or enter it, sets its mode to 0700. Fails if other users can write to it
/// or replace it, since they may have put files there.
pub fn prepare(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create the data directory {}", dir.display()))?;
    // Links are resolved once, here; the directories above are checked below.
    let real = fs::canonicalize(dir)
        .with_context(|| format!("cannot stat the data directory {}", dir.display()))?;
    let metadata = fs::symlink_metadata(&real)
        .with_context(|| format!("cannot stat the data directory {}", dir.display()))?;
    if !metadata.is_dir() {
        bail!("the data directory {} is not a directory", dir.display());
    }
    if metadata.uid() != current_uid() {
        bail!(
            "the data directory {} belongs to the user {}, and this is the user {}: run as its \
             owner, or set another directory with --data-dir",
            dir.display(),
            metadata.uid(),
            current_uid()
        );
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        bail!(
            "other users can write to the data directory {} (mode {mode:04o}) and may have put \
             files there. If none did, run `chmod 700 {}`",
            dir.display(),
            real.display()
        );
    }
    for above in real.ancestors().skip(1) {
        let metadata = fs::symlink_metadata(above)
            .with_context(|| format!("cannot stat {}", above.display()))?;
        let mode = metadata.permissions().mode() & 0o7777;
        let replaceable = mode & 0o022 != 0 && mode & 0o1000 == 0;
        if replaceable || !(metadata.uid() == current_uid() || metadata.uid() == 0) {
            bail!(
                "the data directory {} could be replaced by another user, since {} has mode \
                 {mode:04o} and belongs to the user {}: run `chmod go-w` on the latter, or set \
                 another directory with --data-dir",
                dir.display(),
                above.display(),
                metadata.uid()
            );
        }
    }
    if mode & 0o077 != 0 {
        tracing::warn!(
            directory = %dir.display(),
            "the data directory had mode {mode:04o}, readable by other users; its mode is now 0700"
        );
        fs::set_permissions(&real, Permissions::from_mode(0o700)).with_context(|| {
            format!("cannot set the mode of the data directory {}", dir.display())
        })?;
    }
    Ok(())
}

/// Creates a directory within the data directory, accessible to its owner only.
pub fn private_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create {}", dir.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty()).map_err(io::Error::from);
    let file: File = opened.with_context(|| format!("cannot open {}", dir.display()))?.into();
    restrict_to_owner(&file, dir)
}

/// Opens a file of the data directory for writing, creating it if necessary, with
/// access for its owner only. Symbolic links are not followed.
pub fn private_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("{} is not a regular file: remove it, and start again", path.display());
    }
    restrict_to_owner(&file, path)?;
    Ok(file)
}

/// Removes the permissions of group and others from a file or directory.
fn restrict_to_owner(file: &File, path: &Path) -> Result<()> {
    let metadata = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?;
    if metadata.uid() != current_uid() {
        bail!(
            "{} belongs to the user {}, and this is the user {}: remove it, or change its owner \
             with `chown`",
            path.display(),
            metadata.uid(),
            current_uid()
        );
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let closed = Permissions::from_mode(mode & 0o700);
        file.set_permissions(closed).with_context(|| {
            format!("cannot remove the access of other users to {}", path.display())
        })?;
    }
    Ok(())
}

fn current_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Takes the lock of a data directory, which its server holds until it exits.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = private_file(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another isorun server uses the data directory {}: set another one with --data-dir",
            dir.display()
        ),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn readable_directories_are_restricted_and_writable_ones_refused() {
        let home = tempfile::tempdir().unwrap();
        for (before, after) in [
            (0o700, Some(0o700)),
            (0o755, Some(0o700)),
            (0o750, Some(0o700)),
            (0o711, Some(0o700)),
            (0o704, Some(0o700)),
            (0o770, None),
            (0o702, None),
            (0o777, None),
            (0o1777, None),
        ] {
            let dir = home.path().join(format!("{before:o}"));
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, Permissions::from_mode(before)).unwrap();
            match (prepare(&dir), after) {
                (Ok(()), Some(after)) => assert_eq!(mode(&dir), after, "{before:o}"),
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(text.contains("chmod 700"), "{text}");
                    assert_eq!(mode(&dir), before, "{before:o}");
                }
                (outcome, _) => panic!("{before:o}: {outcome:?}"),
            }
        }
        let made = home.path().join("made/by/us");
        prepare(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
    }

    #[test]
    fn directories_in_a_writable_parent_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::create_dir(home.path().join("closed")).unwrap();
        for (above, good) in [(0o755, true), (0o1777, true), (0o777, false), (0o775, false)] {
            fs::set_permissions(&open, Permissions::from_mode(above)).unwrap();
            let outcome = prepare(&open.join("data"));
            assert_eq!(outcome.is_ok(), good, "{above:o}: {outcome:?}");
            // Through a link it is the same directory.
            let link = home.path().join(format!("closed/{above:o}"));
            symlink(open.join("data"), &link).unwrap();
            assert_eq!(prepare(&link).is_ok(), good, "{above:o}");
        }
    }

    #[test]
    fn files_and_directories_within_are_restricted_to_the_owner() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        fs::create_dir(&dir).unwrap();
        for before in [0o755, 0o777, 0o1777, 0o700] {
            fs::set_permissions(&dir, Permissions::from_mode(before)).unwrap();
            private_dir(&dir).unwrap();
            assert_eq!(mode(&dir), 0o700, "{before:o}");
        }
        let file = dir.join("file");
        private_file(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        for before in [0o644, 0o666, 0o640] {
            fs::set_permissions(&file, Permissions::from_mode(before)).unwrap();
            private_file(&file).unwrap();
            assert_eq!(mode(&file), 0o600, "{before:o}");
        }
        let elsewhere = home.path().join("elsewhere");
        fs::write(&elsewhere, "theirs").unwrap();
        for name in ["link", "pipe", "directory"] {
            let path = dir.join(name);
            match name {
                "link" => symlink(&elsewhere, &path).unwrap(),
                "pipe" => {
                    let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600));
                    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
                }
                _ => fs::create_dir(&path).unwrap(),
            }
            assert!(private_file(&path).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "theirs");
    }
}
