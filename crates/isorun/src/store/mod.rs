//! What the server remembers: keys, runs and audit logs, in one SQLite file.
//!
//! SQLite blocks, so threads own the connections and take jobs in order.
//! `isorun keys` opens the same file from another process; the write-ahead log
//! lets both at it.

mod audit;
mod keys;
mod runs;
mod schema;
mod snapshots;

pub use audit::{AuditRow, LogState};
pub use keys::KeyRow;
#[cfg(test)]
pub use runs::sample_run;
pub use runs::{Ending, RunRow, Used};
pub use snapshots::SnapshotRow;

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use crate::data;

/// Jobs that wait; beyond them a caller waits to hand its own in.
const QUEUE: usize = 1024;

/// How long one process waits for another's transaction.
const BUSY: Duration = Duration::from_secs(5);

const FILE: &str = "isorun.db";

/// Why something could not be remembered or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says why.
    #[error("the database of the server: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file cannot be made.
    #[error("the database of the server: {0}")]
    Io(#[from] std::io::Error),
    /// Written by a later version.
    #[error(
        "the database has format {found}, and this isorun knows formats up to {known}: use the \
         version that wrote it, or a later one"
    )]
    TooNew {
        /// The format of the file.
        found: i64,
        /// What this program can read.
        known: i64,
    },
    /// The thread has ended.
    #[error("the database of the server is closed")]
    Closed,
}

/// A handle of the database; cheap to clone.
///
/// Each kind of work has a thread and a connection of its own, so that a long
/// query of one caller keeps nobody else waiting:
///
/// - changes, one after the other;
/// - look-ups of single rows, which every request needs;
/// - everything else that is read.
#[derive(Clone)]
pub struct Store {
    changes: mpsc::Sender<Job>,
    look_ups: mpsc::Sender<Job>,
    reads: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

impl Store {
    /// Opens the database of a data folder, and brings it to the present format.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        // SQLite makes the files beside it with the same permissions.
        drop(data::private_file(&path).map_err(|error| StoreError::Io(io::Error::other(error)))?);
        for beside in ["-wal", "-shm"] {
            close(&data_dir.join(format!("{FILE}{beside}")))?;
        }
        let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        // The folder's own path may have links in it, which SQLite refuses.
        let mut connection =
            Connection::open_with_flags(fs::canonicalize(data_dir)?.join(FILE), flags)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A crash of the process loses nothing; one of the machine may lose the
        // last moments, and never damages the file.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        schema::migrate(&mut connection)?;
        Ok(Self {
            changes: worker("store", connection)?,
            look_ups: worker("store-look-ups", reader(&path)?)?,
            reads: worker("store-reads", reader(&path)?)?,
        })
    }

    /// Does one thing with the connection for changes. A job that was handed in is
    /// done even if nobody waits for it any more.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        hand_in(&self.changes, work).await
    }

    /// Reads any number of rows. All changes whose futures have ended are seen.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        hand_in(&self.reads, work).await
    }

    /// Reads one row by its key.
    async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        hand_in(&self.look_ups, work).await
    }

    /// Whether the database answers.
    pub async fn is_there(&self) -> bool {
        self.look_up(|connection| {
            connection.query_row(
                "SELECT COUNT(*) FROM (SELECT 1 FROM keys LIMIT 1)",
                [],
                |_| Ok(()),
            )
        })
        .await
        .is_ok()
    }
}

fn reader(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "query_only", "ON")?;
    Ok(connection)
}

fn worker(name: &str, mut connection: Connection) -> Result<mpsc::Sender<Job>, StoreError> {
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        while let Some(job) = queue.blocking_recv() {
            job(&mut connection);
        }
    })?;
    Ok(jobs)
}

async fn hand_in<T: Send + 'static>(
    jobs: &mpsc::Sender<Job>,
    work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, wait) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        let _ = answer.send(work(connection));
    });
    jobs.send(job).await.map_err(|_| StoreError::Closed)?;
    Ok(wait.await.map_err(|_| StoreError::Closed)??)
}

/// Closes a file to other users, if it is there.
fn close(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {
            Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
        }
        Ok(_) => Err(StoreError::Io(io::Error::other(format!(
            "{} is not a regular file: remove it",
            path.display()
        )))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_later_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        let file = Connection::open(folder.path().join(FILE)).unwrap();
        file.pragma_update(None, "user_version", 9999).unwrap();
        drop(file);
        let Err(error) = Store::open(folder.path()) else { panic!("it opened") };
        assert!(matches!(error, StoreError::TooNew { found: 9999, .. }), "{error}");
    }

    #[tokio::test]
    async fn other_users_read_none_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        for before in [0o600, 0o644, 0o666] {
            let store = Store::open(folder.path()).unwrap();
            let key = format!("k{before:o}");
            store.add_key(KeyRow::new(&key, "t1", "mine", false)).await.unwrap();
            let mut files = 0;
            for entry in fs::read_dir(folder.path()).unwrap() {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
                files += 1;
            }
            assert!(files >= 3, "the log and its index are there");
            let path = folder.path().join(FILE);
            fs::set_permissions(path, fs::Permissions::from_mode(before)).unwrap();
        }
        let linked = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path().join(FILE), linked.path().join(FILE)).unwrap();
        assert!(Store::open(linked.path()).is_err());
    }

    #[tokio::test]
    async fn two_handles_of_one_file_see_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        one.add_key(KeyRow::new("k1", "t1", "mine", false)).await.unwrap();
        assert_eq!(two.key("k1").await.unwrap().unwrap().tenant, "t1");
        assert!(two.revoke_key("k1").await.unwrap());
        assert!(one.key("k1").await.unwrap().unwrap().revoked_at.is_some());
    }
}
