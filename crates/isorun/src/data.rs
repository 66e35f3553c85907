//! The server's folder of data: where it is, and who may use it.
//!
//! What lies in it is everything that the server's tenants have: memory and
//! files of sandboxes that are hibernated, the database, and the secret that
//! keys are made with. So the folder, and every folder and file in it, is for
//! its owner only, whatever the umask is and whatever was there before.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use etcetera::BaseStrategy;
use rustix::fs::{Mode, OFlags};

/// Names the folder, if nothing else does.
pub const VARIABLE: &str = "ISORUN_DATA_DIR";

/// Where data lies unless told otherwise: `/var/lib/isorun` for root, or else in
/// the user's own folder of data.
pub fn default_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(VARIABLE).filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/isorun".into());
    }
    let base = etcetera::choose_base_strategy().context("cannot find the home folder")?;
    Ok(base.data_dir().join("isorun"))
}

/// Where a server's images are.
pub fn images(dir: &Path) -> PathBuf {
    dir.join("images")
}

/// Makes everything that this process and its children create readable by their
/// user only, unless they say otherwise.
pub fn restrict_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
}

/// Makes the folder if there is none, for its owner only. One that other users
/// can read or enter is closed to them; one that they can write to, or replace,
/// is refused: what is in it may be theirs.
pub fn prepare(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the data folder {}", dir.display()))?;
    // Links are resolved here, and not again: those above are checked below.
    let real = fs::canonicalize(dir)
        .with_context(|| format!("cannot look at the data folder {}", dir.display()))?;
    let metadata = fs::symlink_metadata(&real)
        .with_context(|| format!("cannot look at the data folder {}", dir.display()))?;
    if !metadata.is_dir() {
        bail!("the data folder {} is no folder", dir.display());
    }
    if metadata.uid() != me() {
        bail!(
            "the data folder {} belongs to the user {}, and this is the user {}: run as its \
             owner, or give another folder with --data-dir",
            dir.display(),
            metadata.uid(),
            me()
        );
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        bail!(
            "others can write to the data folder {} (mode {mode:04o}), and may have put something \
             there. If nobody has, close it with `chmod 700 {}`",
            dir.display(),
            real.display()
        );
    }
    for above in real.ancestors().skip(1) {
        let metadata = fs::symlink_metadata(above)
            .with_context(|| format!("cannot look at {}", above.display()))?;
        let mode = metadata.permissions().mode() & 0o7777;
        let replaceable = mode & 0o022 != 0 && mode & 0o1000 == 0;
        if replaceable || !(metadata.uid() == me() || metadata.uid() == 0) {
            bail!(
                "the data folder {} could be replaced by another user, since {} has mode \
                 {mode:04o} and belongs to the user {}: close that with `chmod go-w`, or give \
                 another folder with --data-dir",
                dir.display(),
                above.display(),
                metadata.uid()
            );
        }
    }
    if mode & 0o077 != 0 {
        tracing::warn!(
            folder = %dir.display(),
            "the data folder had mode {mode:04o}: other users could look into it; it is closed now"
        );
        fs::set_permissions(&real, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close the data folder {}", dir.display()))?;
    }
    Ok(())
}

/// Makes a folder within the data folder, and closes it to other users.
pub fn private_folder(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(io::Error::from);
    let file: File = opened.with_context(|| format!("cannot open {}", folder.display()))?.into();
    close_to_others(&file, folder)
}

/// Opens a file of the data folder for writing; makes it if it is not there.
/// Links are not followed, and other users are kept out.
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
    close_to_others(&file, path)?;
    Ok(file)
}

/// Takes a file or folder of ours from everybody else.
fn close_to_others(file: &File, path: &Path) -> Result<()> {
    let metadata = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    if metadata.uid() != me() {
        bail!(
            "{} belongs to the user {}, and this is the user {}: remove it, or give it back with \
             `chown`",
            path.display(),
            metadata.uid(),
            me()
        );
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let closed = Permissions::from_mode(mode & 0o700);
        file.set_permissions(closed)
            .with_context(|| format!("cannot close {} to other users", path.display()))?;
    }
    Ok(())
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The one server of a folder holds this until it ends.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = private_file(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another isorun server uses the data folder {}: give this one its own with --data-dir",
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
    fn what_others_could_read_is_closed_and_what_they_could_write_is_refused() {
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
    fn a_folder_that_others_could_replace_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::create_dir(home.path().join("closed")).unwrap();
        for (above, good) in [(0o755, true), (0o1777, true), (0o777, false), (0o775, false)] {
            fs::set_permissions(&open, Permissions::from_mode(above)).unwrap();
            let outcome = prepare(&open.join("data"));
            assert_eq!(outcome.is_ok(), good, "{above:o}: {outcome:?}");
            // By a link it is the same folder.
            let link = home.path().join(format!("closed/{above:o}"));
            symlink(open.join("data"), &link).unwrap();
            assert_eq!(prepare(&link).is_ok(), good, "{above:o}");
        }
    }

    #[test]
    fn files_and_folders_within_are_closed() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        fs::create_dir(&folder).unwrap();
        for before in [0o755, 0o777, 0o1777, 0o700] {
            fs::set_permissions(&folder, Permissions::from_mode(before)).unwrap();
            private_folder(&folder).unwrap();
            assert_eq!(mode(&folder), 0o700, "{before:o}");
        }
        let file = folder.join("file");
        private_file(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        for before in [0o644, 0o666, 0o640] {
            fs::set_permissions(&file, Permissions::from_mode(before)).unwrap();
            private_file(&file).unwrap();
            assert_eq!(mode(&file), 0o600, "{before:o}");
        }
        let elsewhere = home.path().join("elsewhere");
        fs::write(&elsewhere, "theirs").unwrap();
        for name in ["link", "pipe", "folder"] {
            let path = folder.join(name);
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
