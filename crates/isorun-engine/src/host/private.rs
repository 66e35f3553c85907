//! Finds the programs and libraries of the machine that not every user may read.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// The number of search threads. They mostly wait for the disk.
const SEARCH_THREADS: usize = 4;
/// The maximum number of entries of one directory that are hidden individually.
/// With more, the directory is hidden, so that a sandbox does not start with
/// thousands of mounts.
const MAX_HIDDEN_PER_DIR: usize = 64;

/// A file or directory that not every user of the machine may read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PrivatePath {
    /// The path on the machine.
    pub(crate) path: PathBuf,
    pub(crate) is_dir: bool,
}

/// Finds the paths in some directories of the machine that not every user may read:
/// files without that permission, directories that not every user may list and
/// enter, and everything that is not a file, a directory or a symbolic link. The
/// result is sorted by path.
pub(crate) fn find_private(dirs: &[PathBuf]) -> Vec<PrivatePath> {
    let search = Search {
        state: Mutex::new(SearchState { queue: dirs.to_vec(), ..SearchState::default() }),
        change: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..SEARCH_THREADS {
            scope.spawn(|| search.work());
        }
        search.work();
    });
    let mut found = search.state.into_inner().unwrap_or_else(PoisonError::into_inner).found;
    found.sort();
    // Skip paths below a hidden directory.
    let mut kept: Vec<PrivatePath> = Vec::with_capacity(found.len());
    for private in found {
        let covered = |above: &PrivatePath| above.is_dir && private.path.starts_with(&above.path);
        if !kept.last().is_some_and(covered) {
            kept.push(private);
        }
    }
    kept
}

struct Search {
    state: Mutex<SearchState>,
    change: Condvar,
}

#[derive(Default)]
struct SearchState {
    queue: Vec<PathBuf>,
    /// The number of threads that may still add to the queue.
    busy: usize,
    found: Vec<PrivatePath>,
}

impl Search {
    fn lock(&self) -> MutexGuard<'_, SearchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let dir = loop {
                match state.queue.pop() {
                    Some(dir) => break dir,
                    None if state.busy == 0 => return,
                    None => {
                        state = self.change.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            state.busy += 1;
            drop(state);
            let (subdirs, found) = scan_dir(&dir);
            let mut state = self.lock();
            state.busy -= 1;
            state.queue.extend(subdirs);
            state.found.extend(found);
            drop(state);
            self.change.notify_all();
        }
    }
}

/// Scans one directory. Returns the directories in it, and the paths to hide.
fn scan_dir(dir: &Path) -> (Vec<PathBuf>, Vec<PrivatePath>) {
    let hide_dir = || (Vec::new(), vec![PrivatePath { path: dir.to_owned(), is_dir: true }]);
    let (mut subdirs, mut found) = (Vec::new(), BTreeMap::new());
    let opened = match open(dir) {
        Ok(opened) => opened,
        // It was removed meanwhile.
        Err(Errno::NOENT) => return (Vec::new(), Vec::new()),
        // A directory that cannot be examined is hidden.
        Err(_) => return hide_dir(),
    };
    let Ok(entries) = Dir::read_from(&opened) else { return hide_dir() };
    for entry in entries {
        let Ok(entry) = entry else { return hide_dir() };
        let name = entry.file_name();
        if name == c"." || name == c".." || entry.file_type() == FileType::Symlink {
            continue;
        }
        let path = || dir.join(OsStr::from_bytes(name.to_bytes()));
        match visibility(opened.as_fd(), name) {
            Ok(Visibility::Dir) => subdirs.push(path()),
            Ok(Visibility::Public) | Err(Errno::NOENT) => {}
            Ok(Visibility::Private { is_dir }) => drop(found.insert(path(), is_dir)),
            Err(_) => return hide_dir(),
        }
    }
    if found.len() > MAX_HIDDEN_PER_DIR && dir.ancestors().count() > 2 {
        return hide_dir();
    }
    let found = found.into_iter().map(|(path, is_dir)| PrivatePath { path, is_dir });
    (subdirs, found.collect())
}

/// The access that every user has to a path.
enum Visibility {
    Public,
    /// A directory that every user may list and enter.
    Dir,
    Private {
        is_dir: bool,
    },
}

fn visibility(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<Visibility> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if mode.contains(Mode::ROTH | Mode::XOTH) => Visibility::Dir,
        FileType::Directory => Visibility::Private { is_dir: true },
        FileType::RegularFile if mode.contains(Mode::ROTH) => Visibility::Public,
        FileType::Symlink => Visibility::Public,
        _ => Visibility::Private { is_dir: false },
    })
}

fn open(dir: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn private_files_and_directories_are_found() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        for (path, mode) in [
            ("file", 0o644),
            ("runs", 0o755),
            ("setuid", 0o4755),
            ("owners", 0o600),
            ("groups", 0o640),
            ("runs-only", 0o711),
            ("setuid-closed", 0o4750),
            ("odd", 0o602),
            ("dir/file", 0o644),
            ("dir/deep/er/key", 0o400),
            ("shut/file", 0o644),
            ("shut/key", 0o600),
            ("blind/file", 0o644),
        ] {
            fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
            fs::write(home.join(path), "x").unwrap();
            fs::set_permissions(home.join(path), Permissions::from_mode(mode)).unwrap();
        }
        fs::hard_link(home.join("owners"), home.join("dir/other-name")).unwrap();
        symlink("owners", home.join("link")).unwrap();
        symlink("/nowhere", home.join("dangling")).unwrap();
        let (pipe, mode) = (home.join("pipe"), Mode::from_raw_mode(0o644));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        fs::set_permissions(home.join("shut"), Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(home.join("blind"), Permissions::from_mode(0o711)).unwrap();
        let found = find_private(&[home.to_owned()]);
        let expected = [
            ("blind", true),
            ("dir/deep/er/key", false),
            ("dir/other-name", false),
            ("groups", false),
            ("odd", false),
            ("owners", false),
            ("pipe", false),
            ("runs-only", false),
            ("setuid-closed", false),
            ("shut", true),
        ]
        .map(|(path, is_dir)| PrivatePath { path: home.join(path), is_dir });
        assert_eq!(found, expected);
    }

    #[test]
    fn directory_with_many_private_files_is_hidden_as_one() {
        let home = tempfile::tempdir().unwrap();
        let many = home.path().join("many");
        fs::create_dir_all(many.join("inner")).unwrap();
        for at in 0..=MAX_HIDDEN_PER_DIR {
            let path = many.join(format!("f{at}"));
            fs::write(&path, "x").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        }
        let found = find_private(&[home.path().to_owned()]);
        assert_eq!(found, [PrivatePath { path: many, is_dir: true }]);
        assert_eq!(find_private(&[home.path().join("gone")]), []);
    }
}
