//! Checks that only their owner can write to directories.
//!
//! Machine code is loaded from the cache directory, and the memory of guests is
//! stored beside it. A user who can write to such a directory, or rename one of
//! its parents, can run code in this process. So each directory on the path,
//! starting at the root and including the targets of symbolic links, must belong
//! to this user or to root, and neither its group nor others may have write
//! permission. A directory with the sticky bit, such as `/tmp`, is permitted as a
//! parent, because only owners can rename and remove its entries.
//!
//! Groups are never trusted: whether a group has other members cannot be
//! determined here, because it may come from a directory service of the network.

use std::path::Path;

use crate::error::Error;

/// The users who may have write permission for a directory and those above it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Only this user and root.
    Private,
    /// Any owner and any group, but not all users.
    NotWorldWritable,
}

/// Creates a directory for its owner only, including its parents, and refuses one
/// that other users could write to or replace.
///
/// # Errors
///
/// [`Error::InvalidArgument`] with the directory that is not safe, and the
/// correction.
pub fn private_dir(dir: &Path) -> Result<(), Error> {
    let refuse =
        |why: String| Error::InvalidArgument(format!("the directory {}: {why}", dir.display()));
    // The existing directories are checked first, so that nothing is created in a
    // directory of another user.
    check(dir, Rule::Private).map_err(refuse)?;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| refuse(format!("it cannot be created: {error}")))?;
    check(dir, Rule::Private).map_err(refuse)
}

/// Refuses a directory that other users could write to or replace. If it does not
/// exist, only the directories above it are checked.
///
/// # Errors
///
/// [`Error::InvalidArgument`], as [`private_dir`].
pub(crate) fn check_trusted(dir: &Path, rule: Rule) -> Result<(), Error> {
    check(dir, rule)
        .map_err(|why| Error::InvalidArgument(format!("the directory {}: {why}", dir.display())))
}

#[cfg(not(unix))]
fn check(_: &Path, _: Rule) -> Result<(), String> {
    Ok(())
}

#[cfg(unix)]
use self::unix::check;

#[cfg(unix)]
mod unix {
    use std::{
        collections::VecDeque,
        ffi::OsString,
        fs::{self, Metadata},
        io,
        os::unix::fs::MetadataExt as _,
        path::{Component, Path, PathBuf},
    };

    use super::Rule;

    /// The maximum number of symbolic links on a path, as in the kernel.
    const MAX_SYMLINKS: usize = 40;

    /// The mode bit of directories whose entries only owners can rename and remove.
    const STICKY: u32 = 0o1000;

    /// Checks the owner and the mode of each directory on the path, and of the targets
    /// of symbolic links.
    pub(super) fn check(dir: &Path, rule: Rule) -> Result<(), String> {
        let broken = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
        let absolute = std::path::absolute(dir).map_err(|error| broken(dir, &error))?;
        let mut left: VecDeque<OsString> = component_names(&absolute);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        loop {
            let metadata = fs::symlink_metadata(&here).map_err(|error| broken(&here, &error))?;
            check_dir(&here, &metadata, left.is_empty(), rule)?;
            let Some(name) = left.pop_front() else { return Ok(()) };
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(name);
            let metadata = match fs::symlink_metadata(&next) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(broken(&next, &error)),
            };
            if !metadata.is_symlink() {
                here = next;
                continue;
            }
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(format!("{}: there are too many symbolic links", next.display()));
            }
            if rule == Rule::Private {
                check_owner(&next, &metadata)?;
            }
            let target = fs::read_link(&next).map_err(|error| broken(&next, &error))?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            for name in component_names(&target).into_iter().rev() {
                left.push_front(name);
            }
        }
    }

    fn component_names(path: &Path) -> VecDeque<OsString> {
        path.components()
            .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
            .map(|part| part.as_os_str().to_owned())
            .collect()
    }

    fn check_dir(
        path: &Path,
        metadata: &Metadata,
        is_last: bool,
        rule: Rule,
    ) -> Result<(), String> {
        let shown = path.display();
        if !metadata.is_dir() {
            return Err(format!("{shown} is not a directory"));
        }
        let bits = match rule {
            Rule::Private => {
                check_owner(path, metadata)?;
                0o022
            }
            Rule::NotWorldWritable => 0o002,
        };
        let mode = metadata.mode() & 0o7777;
        let who = match mode & bits {
            0 => return Ok(()),
            0o020 => "its group",
            _ => "others",
        };
        if mode & STICKY != 0 && !is_last {
            return Ok(());
        }
        Err(format!(
            "{shown} has the mode {mode:04o}, so {who} can write there, and put code there that \
             would be run: run `chmod go-w {shown}`, or give another directory"
        ))
    }

    fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), String> {
        let owner = metadata.uid();
        let me = rustix::process::geteuid().as_raw();
        if owner == me || owner == 0 || is_unmapped(owner) {
            return Ok(());
        }
        Err(format!(
            "{} belongs to another user (uid {owner}, this process has {me}), who could put code \
             there: give a directory of your own",
            path.display()
        ))
    }

    /// Reports whether this is the overflow id, which in a user namespace stands for
    /// all users without a mapping, including root of the machine.
    fn is_unmapped(owner: u32) -> bool {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
        if number("/proc/sys/kernel/overflowuid") != Some(owner) {
            return false;
        }
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let mut rows = map.lines().map(|line| {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
            (numbers.next().flatten(), numbers.nth(1).flatten())
        });
        // Outside of a user namespace all ids are mapped, and this is a regular user.
        let maps = |(first, count): (Option<u64>, Option<u64>)| match (first, count) {
            (Some(first), Some(count)) => {
                (first..first.saturating_add(count)).contains(&owner.into())
            }
            _ => true,
        };
        !map.is_empty() && !rows.any(maps)
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

    use super::*;

    /// Creates a private directory in a temporary one.
    fn private_temp_dir() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        private_dir(&inner).unwrap();
        (root, inner)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        let error = private_dir(path).unwrap_err();
        assert_eq!(error.code(), "invalid_argument");
        error.to_string()
    }

    #[test]
    fn new_directory_is_private() {
        let (_root, inner) = private_temp_dir();
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
        private_dir(&inner).unwrap();
    }

    #[test]
    fn directory_writable_by_others_is_refused() {
        let (_root, inner) = private_temp_dir();
        for (mode, who) in [
            (0o770, "its group"),
            (0o720, "its group"),
            (0o2775, "its group"),
            (0o707, "others"),
            (0o777, "others"),
            // The sticky bit does not prevent other users from creating a file.
            (0o1777, "others"),
            (0o1770, "its group"),
        ] {
            set_mode(&inner, mode);
            let error = refused(&inner);
            assert!(error.contains(who) && error.contains("chmod go-w"), "{mode:o}: {error}");
        }
        set_mode(&inner, 0o755);
        private_dir(&inner).unwrap();
    }

    #[test]
    fn directory_below_a_writable_one_is_refused() {
        let (root, inner) = private_temp_dir();
        let outer = root.path().join("outer");
        for mode in [0o770, 0o707, 0o777] {
            set_mode(&outer, mode);
            let error = refused(&inner);
            assert!(error.contains(&outer.display().to_string()), "{mode:o}: {error}");
            // Also a directory that does not exist yet, and it is not created.
            refused(&outer.join("new"));
            assert!(!outer.join("new").exists());
        }
        set_mode(&outer, 0o1777);
        private_dir(&inner).unwrap();
    }

    #[test]
    fn group_may_write_if_only_others_are_excluded() {
        let (root, inner) = private_temp_dir();
        set_mode(&inner, 0o2775);
        check_trusted(&inner, Rule::NotWorldWritable).unwrap();
        for path in [inner.clone(), root.path().join("outer")] {
            set_mode(&path, 0o777);
            let error = check_trusted(&inner, Rule::NotWorldWritable).unwrap_err().to_string();
            assert!(error.contains("others can write there"), "{error}");
            set_mode(&path, 0o755);
        }
    }

    #[test]
    fn targets_and_directories_of_links_are_checked() {
        let (root, inner) = private_temp_dir();
        let (_other, safe) = private_temp_dir();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&inner, &link).unwrap();
        private_dir(&link).unwrap();
        // The target of the link.
        set_mode(&inner, 0o770);
        assert!(refused(&link).contains("its group"));
        // The directory that contains the link: a user with write permission there can
        // replace it.
        let shared = root.path().join("shared");
        fs::create_dir(&shared).unwrap();
        set_mode(&shared, 0o777);
        std::os::unix::fs::symlink(&safe, shared.join("link")).unwrap();
        assert!(refused(&shared.join("link")).contains("others"));
        // A link to a link, and a link with `..`.
        std::os::unix::fs::symlink("shared/link", root.path().join("chain")).unwrap();
        assert!(refused(&root.path().join("chain")).contains("others"));
        std::os::unix::fs::symlink("../outer", shared.join("up")).unwrap();
        set_mode(&shared, 0o755);
        private_dir(&shared.join("up")).unwrap();
        std::os::unix::fs::symlink("circle", root.path().join("circle")).unwrap();
        assert!(refused(&root.path().join("circle/x")).contains("too many symbolic links"));
    }

    #[test]
    fn directory_of_another_user_is_refused() {
        // Only root can change the owner of a directory. Other users check the working
        // directory of process 1.
        if !rustix::process::geteuid().is_root() {
            assert!(private_dir(Path::new("/proc/1/cwd")).is_err());
            return;
        }
        let (root, inner) = private_temp_dir();
        let outer = root.path().join("outer");
        let other = Some(rustix::fs::Uid::from_raw(4321));
        rustix::fs::chown(&inner, other, None).unwrap();
        assert!(refused(&inner).contains("uid 4321"));
        rustix::fs::chown(&inner, Some(rustix::fs::Uid::ROOT), None).unwrap();
        private_dir(&inner).unwrap();
        rustix::fs::chown(&outer, other, None).unwrap();
        assert!(refused(&inner).contains("uid 4321"));
    }
}
