//! The files of an interpreter, which are its own and in memory.

use isola::{Error as IsolaError, FileFailure, FileKind, FileStat, SandboxFiles};
use isorun_agent::SandboxId;

use crate::{
    error::{Error, FileErrorKind, Result},
    interpreters::Interpreters,
};

/// The maximum number of entries of a directory that are listed.
const MAX_LISTED_ENTRIES: usize = 100_000;

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFile {
    /// Its content.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

impl Interpreters {
    /// Returns the size of a regular file, in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::File`] and [`Error::NotFound`].
    pub fn file_size(&self, id: &SandboxId, path: &str) -> Result<u64> {
        Ok(regular(&self.get(id)?.files(), path)?.size)
    }

    /// Reads a regular file of at most `max_bytes`. Code may run meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::File`] and [`Error::NotFound`].
    pub async fn read_file(
        &self,
        id: &SandboxId,
        path: String,
        max_bytes: u64,
    ) -> Result<ReadFile> {
        let files = self.get(id)?.files();
        self.as_blocking_task(move || {
            let stat = regular(&files, &path)?;
            let content = files.read_at_most(&path, max_bytes).map_err(file_error)?;
            Ok(ReadFile { content, mode: stat.mode })
        })
        .await
    }

    /// Writes a file: creates it and its missing directories, or replaces its content.
    ///
    /// # Errors
    ///
    /// [`Error::File`] and [`Error::NotFound`]. If there is not enough space, the old
    /// content is kept.
    pub async fn write_file(&self, id: &SandboxId, path: String, content: Vec<u8>) -> Result<()> {
        let files = self.get(id)?.files();
        self.as_blocking_task(move || files.write(&path, &content).map_err(file_error)).await
    }

    /// Returns the names in a directory, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::File`] and [`Error::NotFound`].
    pub async fn list_files(&self, id: &SandboxId, path: String) -> Result<Vec<String>> {
        let files = self.get(id)?.files();
        self.as_blocking_task(move || {
            let count = files.count(&path).map_err(file_error)?;
            if count > MAX_LISTED_ENTRIES {
                let message = format!(
                    "{path}: it has {count} entries, and at most {MAX_LISTED_ENTRIES} are listed"
                );
                return Err(Error::File { kind: FileErrorKind::Other, message });
            }
            let entries = files.list(&path).map_err(file_error)?;
            Ok(entries.into_iter().map(|entry| entry.name).collect())
        })
        .await
    }
}

/// Returns the metadata of a path that has to be a regular file.
fn regular(files: &SandboxFiles, path: &str) -> Result<FileStat> {
    let stat = files.stat(path).map_err(file_error)?;
    if stat.kind == FileKind::File {
        return Ok(stat);
    }
    let message = format!("{path}: it is not a regular file");
    Err(Error::File { kind: FileErrorKind::Other, message })
}

fn file_error(error: IsolaError) -> Error {
    let IsolaError::File(failed) = error else { return error.into() };
    let kind = match failed.failure {
        FileFailure::NotFound => FileErrorKind::NotFound,
        FileFailure::NoSpace => FileErrorKind::NoSpace,
        _ => FileErrorKind::Other,
    };
    let shown: String = failed.path.chars().take(200).collect();
    let message = match failed.failure {
        FileFailure::NoSpace => format!("{shown}: no space left (disk_mib)"),
        failure => format!("{shown}: {failure}"),
    };
    Error::File { kind, message }
}
