//! The files of an interpreter, which are its own and in memory.

use isola::{Error as IsolaError, FileFailure, FileKind};
use isorun_agent::SandboxId;

use crate::{
    error::{Error, FileErrorKind, Result},
    interpreters::Interpreters,
};

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFile {
    /// Its content.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

impl Interpreters {
    /// Reads a regular file. Code may run meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::File`] and [`Error::NotFound`].
    pub async fn read_file(&self, id: &SandboxId, path: String) -> Result<ReadFile> {
        let files = self.get(id)?.files();
        self.as_task(async move {
            let stat = files.stat(&path).map_err(file_error)?;
            if stat.kind != FileKind::File {
                let message = format!("{path}: it is not a regular file");
                return Err(Error::File { kind: FileErrorKind::Other, message });
            }
            let content = files.read(&path).map_err(file_error)?;
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
        let writing = async move { files.write(&path, &content).map_err(file_error) };
        self.as_task(writing).await
    }

    /// Returns the names in a directory, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::File`] and [`Error::NotFound`].
    pub async fn list_files(&self, id: &SandboxId, path: String) -> Result<Vec<String>> {
        let files = self.get(id)?.files();
        self.as_task(async move {
            let entries = files.list(&path).map_err(file_error)?;
            Ok(entries.into_iter().map(|entry| entry.name).collect())
        })
        .await
    }
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
