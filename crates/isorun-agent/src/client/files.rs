//! Moving files in and out.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};

use super::{Call, ClientError, ask, done, unexpected};
use crate::codec::{CHUNK, Frame, FrameReader, FrameWriter};
use crate::protocol::{Entry, Metadata, Name, Reply, Request, WriteFile};

/// Names in a folder beyond which listing it is an error.
const MAX_ENTRIES: usize = 1_000_000;

/// Writes a file from a source of bytes; gives how many there were. If this is
/// cancelled, or the source fails, there is no new file.
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
            buffer.reserve(CHUNK);
            let count = source
                .as_mut()
                .take(CHUNK as u64)
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
    // The agent may refuse before all is sent.
    let mut sending = std::pin::pin!(sending);
    let mut sent = false;
    let answer = loop {
        tokio::select! {
            result = &mut sending, if !sent => match result {
                Ok(()) => sent = true,
                // What the agent has to say of it explains more.
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
            Ok(FileReader { metadata, reader: call.reader, _writer: call.writer, over: false })
        }
        other => Err(unexpected(&other)),
    }
}

/// The names in a folder, sorted.
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
            return Err(ClientError::Protocol(format!("over {MAX_ENTRIES} names in one folder")));
        }
        Ok(())
    });
    collecting.await?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The same in parts, in no order, of which `take` may refuse any.
///
/// # Errors
///
/// See [`ClientError`]; that of `take` if it refuses.
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

/// What there is under a path.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn stat<S: AsyncRead + AsyncWrite>(
    stream: S,
    path: Name,
) -> Result<Metadata, ClientError> {
    match ask(stream, &Request::Stat { path }).await? {
        Reply::Stat(metadata) => Ok(metadata),
        other => Err(unexpected(&other)),
    }
}

/// Makes a folder and those above it. One that is there already is well.
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
    done(ask(stream, &Request::MakeDir { path, mode, owner }).await?)
}

/// Removes a file, or a folder with all that is in it.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn remove<S: AsyncRead + AsyncWrite>(stream: S, path: Name) -> Result<(), ClientError> {
    done(ask(stream, &Request::Remove { path }).await?)
}

/// A file that is being read.
#[derive(Debug)]
pub struct FileReader<S> {
    metadata: Metadata,
    reader: FrameReader<ReadHalf<S>>,
    // Dropping it would end the connection.
    _writer: FrameWriter<WriteHalf<S>>,
    over: bool,
}

impl<S: AsyncRead> FileReader<S> {
    /// What the file was when it was opened. It may become shorter or longer
    /// while it is read.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The next part, or `None` at the end. May be cancelled.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.over {
            return Ok(None);
        }
        match self.reader.next().await? {
            Some(Frame::Data(bytes)) => Ok(Some(bytes)),
            Some(Frame::DataEnd) => {
                self.over = true;
                Ok(None)
            }
            Some(Frame::Failed(failure)) => Err(failure.into()),
            Some(other) => Err(unexpected(&other)),
            None => Err(ClientError::Disconnected),
        }
    }

    /// All of it, unless it is longer than `limit`.
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
