//! Transfers files into and out of a sandbox.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};

use super::call::{Call, done, send_request};
use super::error::{ClientError, unexpected};
use crate::codec::{CHUNK_BYTES, Frame, FrameReader, FrameWriter};
use crate::protocol::{Entry, Metadata, Name, Reply, Request, WriteFile};

/// The maximum number of names in a directory that can be listed.
const MAX_ENTRIES: usize = 1_000_000;

/// Writes a file from a source of bytes and returns their number. If this is
/// cancelled, or the source fails, no file is created or replaced.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn write_file<S: AsyncRead + AsyncWrite>(
    stream: S,
    request: WriteFile,
    source: impl AsyncRead,
) -> Result<u64, ClientError> {
    let Call { mut reader, mut writer } = Call::start(stream, &Request::WriteFile(request)).await?;
    let sending = async {
        let mut source = std::pin::pin!(source);
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            let count = source
                .as_mut()
                .take(CHUNK_BYTES as u64)
                .read_buf(&mut buffer)
                .await
                .map_err(ClientError::Local)?;
            if count == 0 {
                break;
            }
            writer.send(&Frame::Data(buffer.split().freeze())).await?;
        }
        Ok(writer.send(&Frame::DataEnd).await?)
    };
    // The agent may refuse before all bytes are sent.
    let mut sending = std::pin::pin!(sending);
    let mut sent = false;
    let answer = loop {
        tokio::select! {
            result = &mut sending, if !sent => match result {
                Ok(()) => sent = true,
                // The agent's failure explains more than the broken connection.
                Err(ClientError::Disconnected) => break reader.next().await?,
                Err(error) => return Err(error),
            },
            answer = reader.next() => break answer?,
        }
    };
    match answer {
        Some(Frame::Reply(Reply::Written { bytes })) if sent => Ok(bytes),
        Some(Frame::Failed(failure)) => Err(failure.into()),
        Some(other) => Err(unexpected(&other)),
        None => Err(ClientError::Disconnected),
    }
}

/// Opens a file for reading.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn read_file<S: AsyncRead + AsyncWrite>(
    stream: S,
    path: Name,
) -> Result<FileReader<S>, ClientError> {
    let mut call = Call::start(stream, &Request::ReadFile { path }).await?;
    match call.reply().await? {
        Reply::File(metadata) => {
            Ok(FileReader { metadata, reader: call.reader, _writer: call.writer, finished: false })
        }
        other => Err(unexpected(&other)),
    }
}

/// Returns the names in a directory, sorted.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn list<S: AsyncRead + AsyncWrite>(
    stream: S,
    path: Name,
) -> Result<Vec<Entry>, ClientError> {
    let mut entries = Vec::new();
    let collecting = list_parts(stream, path, |part| {
        entries.extend(part);
        if entries.len() > MAX_ENTRIES {
            return Err(ClientError::Protocol(format!(
                "more than {MAX_ENTRIES} names in one directory"
            )));
        }
        Ok(())
    });
    collecting.await?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Lists a directory in parts, in no particular order. `take` may refuse any part.
///
/// # Errors
///
/// See [`ClientError`]; the error of `take` if it refuses.
pub async fn list_parts<S: AsyncRead + AsyncWrite, E: From<ClientError>>(
    stream: S,
    path: Name,
    mut take: impl FnMut(Vec<Entry>) -> Result<(), E>,
) -> Result<(), E> {
    let mut call = Call::start(stream, &Request::List { path }).await?;
    loop {
        match call.reply().await? {
            Reply::Entries(part) if part.is_empty() => return Ok(()),
            Reply::Entries(part) => take(part)?,
            other => return Err(unexpected(&other).into()),
        }
    }
}

/// Returns the metadata of a file.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn stat<S: AsyncRead + AsyncWrite>(
    stream: S,
    path: Name,
) -> Result<Metadata, ClientError> {
    match send_request(stream, &Request::Stat { path }).await? {
        Reply::Stat(metadata) => Ok(metadata),
        other => Err(unexpected(&other)),
    }
}

/// Creates a directory and its missing parents. It may exist already.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn make_dir<S: AsyncRead + AsyncWrite>(
    stream: S,
    path: Name,
    mode: Option<u32>,
    owner: Option<String>,
) -> Result<(), ClientError> {
    done(send_request(stream, &Request::MakeDir { path, mode, owner }).await?)
}

/// Removes a file, or a directory with its contents.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn remove<S: AsyncRead + AsyncWrite>(stream: S, path: Name) -> Result<(), ClientError> {
    done(send_request(stream, &Request::Remove { path }).await?)
}

/// A file that is being read.
#[derive(Debug)]
pub struct FileReader<S> {
    metadata: Metadata,
    reader: FrameReader<ReadHalf<S>>,
    // Dropping it would end the connection.
    _writer: FrameWriter<WriteHalf<S>>,
    finished: bool,
}

impl<S: AsyncRead> FileReader<S> {
    /// Returns the metadata of the file when it was opened. It may become shorter or
    /// longer while it is read.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads the next part, or returns `None` at the end. May be cancelled.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.finished {
            return Ok(None);
        }
        match self.reader.next().await? {
            Some(Frame::Data(bytes)) => Ok(Some(bytes)),
            Some(Frame::DataEnd) => {
                self.finished = true;
                Ok(None)
            }
            Some(Frame::Failed(failure)) => Err(failure.into()),
            Some(other) => Err(unexpected(&other)),
            None => Err(ClientError::Disconnected),
        }
    }

    /// Reads the rest of the file, unless it is longer than `limit`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn read_to_end(mut self, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(part) = self.next().await? {
            if all.len() + part.len() > limit {
                return Err(ClientError::Local(std::io::Error::new(
                    std::io::ErrorKind::FileTooLarge,
                    format!("the file is longer than {limit} bytes"),
                )));
            }
            all.extend_from_slice(&part);
        }
        Ok(all)
    }
}
