//! The database of a server of one machine, in one SQLite file.
//!
//! SQLite calls block, so threads own the connections and run jobs in order.
//! `isorun keys` opens the same file from another process; the write-ahead log
//! allows concurrent access.

mod audit;
mod keys;
mod runs;
mod schema;
mod snapshots;

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::{Database, StoreError};
use crate::data_dir;

/// The largest number of queued jobs of a worker. Callers wait while a queue is full.
const MAX_QUEUED_JOBS: usize = 1024;

/// The longest time to wait for a transaction of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const DB_FILE: &str = "isorun.db";

/// A database in one SQLite file.
///
/// Each kind of operation has its own thread and connection, so that a long query of
/// one caller does not delay others:
///
/// - changes, one after the other;
/// - look-ups of single rows, which every request needs;
/// - all other queries.
pub struct Sqlite {
    changes: mpsc::Sender<Job>,
    look_ups: mpsc::Sender<Job>,
    reads: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

impl Sqlite {
    /// Opens the database of a data directory, and migrates it to the current format.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(DB_FILE);
        // SQLite creates the files next to it with the same permissions.
        drop(
            data_dir::private_file(&path)
                .map_err(|error| StoreError::Io(io::Error::other(error)))?,
        );
        for suffix in ["-wal", "-shm"] {
            restrict_to_owner(&data_dir.join(format!("{DB_FILE}{suffix}")))?;
        }
        let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        // The path of the directory may contain links, which SQLite refuses.
        let mut connection =
            Connection::open_with_flags(fs::canonicalize(data_dir)?.join(DB_FILE), flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A crash of the process loses no data. A crash of the machine may lose the
        // latest transactions, but never corrupts the file.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        schema::migrate(&mut connection)?;
        Ok(Self {
            changes: worker("store", connection)?,
            look_ups: worker("store-look-ups", reader(&path)?)?,
            reads: worker("store-reads", reader(&path)?)?,
        })
    }

    /// Runs a job on the connection for changes. A submitted job runs even if the caller
    /// drops the future.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        submit(&self.changes, work).await
    }

    /// Runs a query for any number of rows. Sees all changes whose futures have completed.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        submit(&self.reads, work).await
    }

    /// Runs a query for one row by its key.
    async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        submit(&self.look_ups, work).await
    }
}

#[async_trait]
impl Database for Sqlite {
    async fn is_reachable(&self) -> bool {
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
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", "ON")?;
    Ok(connection)
}

fn worker(name: &str, mut connection: Connection) -> Result<mpsc::Sender<Job>, StoreError> {
    let (jobs, mut queue) = mpsc::channel::<Job>(MAX_QUEUED_JOBS);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        while let Some(job) = queue.blocking_recv() {
            job(&mut connection);
        }
    })?;
    Ok(jobs)
}

async fn submit<T: Send + 'static>(
    jobs: &mpsc::Sender<Job>,
    work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let (sender, receiver) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        let _ = sender.send(work(connection));
    });
    jobs.send(job).await.map_err(|_| StoreError::Closed)?;
    Ok(receiver.await.map_err(|_| StoreError::Closed)??)
}

/// Makes a file, if it exists, accessible to its owner only.
fn restrict_to_owner(path: &Path) -> Result<(), StoreError> {
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
    use super::{
        super::{KeyRow, Store},
        *,
    };

    #[tokio::test]
    async fn a_later_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let file = Connection::open(dir.path().join(DB_FILE)).unwrap();
        file.pragma_update(None, "user_version", 9999).unwrap();
        drop(file);
        let Err(error) = Store::open(dir.path()) else { panic!("it opened") };
        assert!(matches!(error, StoreError::TooNew { found: 9999, .. }), "{error}");
    }

    #[tokio::test]
    async fn database_files_are_accessible_to_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        for before in [0o600, 0o644, 0o666] {
            let store = Store::open(dir.path()).unwrap();
            let key = format!("k{before:o}");
            store.add_key(KeyRow::new(&key, "t1", "mine", false)).await.unwrap();
            let mut files = 0;
            for entry in fs::read_dir(dir.path()).unwrap() {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
                files += 1;
            }
            assert!(files >= 3, "the log and its index are there");
            let path = dir.path().join(DB_FILE);
            fs::set_permissions(path, fs::Permissions::from_mode(before)).unwrap();
        }
        let linked = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join(DB_FILE), linked.path().join(DB_FILE)).unwrap();
        assert!(Store::open(linked.path()).is_err());
    }

    #[tokio::test]
    async fn two_handles_of_one_database_see_the_same_rows() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        one.add_key(KeyRow::new("k1", "t1", "mine", false)).await.unwrap();
        assert_eq!(two.key("k1").await.unwrap().unwrap().tenant, "t1");
        assert!(two.revoke_key("k1").await.unwrap());
        assert!(one.key("k1").await.unwrap().unwrap().revoked_at.is_some());
    }
}
