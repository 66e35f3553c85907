//! Finds what of the machine's programs and libraries is not for every user.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Threads that look: most of the time goes into waiting for the disk.
const THREADS: usize = 4;
/// Entries of one folder that are hidden one by one. Beyond them the folder is,
/// so that a sandbox does not start with thousands of mounts.
const MAX_PER_FOLDER: usize = 64;

/// A file or folder that not every user of the machine may read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Private {
    /// On the machine.
    pub(crate) path: PathBuf,
    pub(crate) is_folder: bool,
}

/// Finds in some folders of the machine what not every user may read: files
/// without that permission, folders that not everybody may list and enter, and
/// what is neither a file, a folder nor a link. Sorted by path.
pub(crate) fn find(folders: &[PathBuf]) -> Vec<Private> {
    let search = Search {
        state: Mutex::new(State { waiting: folders.to_vec(), ..State::default() }),
        change: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(|| search.work());
        }
        search.work();
    });
    let mut found = search.state.into_inner().unwrap_or_else(PoisonError::into_inner).found;
    found.sort();
    // Within what is hidden there is nothing more to hide.
    let mut kept: Vec<Private> = Vec::with_capacity(found.len());
    for private in found {
        let covered = |above: &Private| above.is_folder && private.path.starts_with(&above.path);
        if !kept.last().is_some_and(covered) {
            kept.push(private);
        }
    }
    kept
}

struct Search {
    state: Mutex<State>,
    change: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<PathBuf>,
    /// Threads that may still add to what waits.
    busy: usize,
    found: Vec<Private>,
}

impl Search {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let folder = loop {
                match state.waiting.pop() {
                    Some(folder) => break folder,
                    None if state.busy == 0 => return,
                    None => {
                        state = self.change.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            state.busy += 1;
            drop(state);
            let (inner, found) = look(&folder);
            let mut state = self.lock();
            state.busy -= 1;
            state.waiting.extend(inner);
            state.found.extend(found);
            drop(state);
            self.change.notify_all();
        }
    }
}

/// Looks into one folder: gives the folders in it, and what is to be hidden.
fn look(folder: &Path) -> (Vec<PathBuf>, Vec<Private>) {
    let whole = || (Vec::new(), vec![Private { path: folder.to_owned(), is_folder: true }]);
    let (mut inner, mut found) = (Vec::new(), BTreeMap::new());
    let opened = match open(folder) {
        Ok(opened) => opened,
        // Gone meanwhile.
        Err(Errno::NOENT) => return (Vec::new(), Vec::new()),
        // What cannot be looked at is not shown either.
        Err(_) => return whole(),
    };
    let Ok(entries) = Dir::read_from(&opened) else { return whole() };
    for entry in entries {
        let Ok(entry) = entry else { return whole() };
        let name = entry.file_name();
        if name == c"." || name == c".." || entry.file_type() == FileType::Symlink {
            continue;
        }
        let path = || folder.join(OsStr::from_bytes(name.to_bytes()));
        match kind(opened.as_fd(), name) {
            Ok(Sight::Folder) => inner.push(path()),
            Ok(Sight::Public) | Err(Errno::NOENT) => {}
            Ok(Sight::Private { is_folder }) => drop(found.insert(path(), is_folder)),
            Err(_) => return whole(),
        }
    }
    if found.len() > MAX_PER_FOLDER && folder.ancestors().count() > 2 {
        return whole();
    }
    let found = found.into_iter().map(|(path, is_folder)| Private { path, is_folder });
    (inner, found.collect())
}

/// How something is seen by every user.
enum Sight {
    Public,
    /// A folder that everybody may list and enter.
    Folder,
    Private {
        is_folder: bool,
    },
}

fn kind(folder: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<Sight> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if mode.contains(Mode::ROTH | Mode::XOTH) => Sight::Folder,
        FileType::Directory => Sight::Private { is_folder: true },
        FileType::RegularFile if mode.contains(Mode::ROTH) => Sight::Public,
        FileType::Symlink => Sight::Public,
        _ => Sight::Private { is_folder: false },
    })
}

fn open(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn all_that_is_not_for_everybody_is_found() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        for (path, mode, hidden) in [
            ("file", 0o644, false),
            ("runs", 0o755, false),
            ("setuid", 0o4755, false),
            ("owners", 0o600, true),
            ("groups", 0o640, true),
            ("runs-only", 0o711, true),
            ("setuid-closed", 0o4750, true),
            ("odd", 0o602, true),
            ("dir/file", 0o644, false),
            ("dir/deep/er/key", 0o400, true),
            ("shut/file", 0o644, false),
            ("shut/key", 0o600, false),
            ("blind/file", 0o644, false),
        ] {
            fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
            fs::write(home.join(path), "x").unwrap();
            fs::set_permissions(home.join(path), Permissions::from_mode(mode)).unwrap();
            let _ = hidden;
        }
        fs::hard_link(home.join("owners"), home.join("dir/other-name")).unwrap();
        symlink("owners", home.join("link")).unwrap();
        symlink("/nowhere", home.join("dangling")).unwrap();
        let (pipe, mode) = (home.join("pipe"), Mode::from_raw_mode(0o644));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        fs::set_permissions(home.join("shut"), Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(home.join("blind"), Permissions::from_mode(0o711)).unwrap();
        let found = find(&[home.to_owned()]);
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
        .map(|(path, is_folder)| Private { path: home.join(path), is_folder });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_folder_of_many_is_hidden_as_one() {
        let home = tempfile::tempdir().unwrap();
        let many = home.path().join("many");
        fs::create_dir_all(many.join("inner")).unwrap();
        for at in 0..=MAX_PER_FOLDER {
            let path = many.join(format!("f{at}"));
            fs::write(&path, "x").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        }
        let found = find(&[home.path().to_owned()]);
        assert_eq!(found, [Private { path: many, is_folder: true }]);
        assert_eq!(find(&[home.path().join("gone")]), []);
    }
}
