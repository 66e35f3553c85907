//! Files in and out of a run, as streams: no file is ever held in memory.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use isorun_agent::{
    client::{self, ClientError, FileReader},
    protocol::{FailureKind, Name, WriteFile},
};
use isorun_engine::AgentStream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::{
    ApiError, App, Code,
    extract::{AwakeRun, Params, drain},
    limits, order,
    runs::LiveRun,
};
use crate::api::{Entries, ErrorBody, FILE_MODE, Written};

/// How long a client may send nothing, or take nothing.
const STALLED: Duration = Duration::from_secs(60);

/// Names of a folder in one piece of an answer.
const NAMES_PER_PIECE: usize = 256;

/// All but the unreserved characters of URLs: RFC 3986, section 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a name takes in memory apart from its bytes.
const NAME_OVERHEAD: usize = 32;

/// Which file.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileParams {
    /// An absolute path inside of the sandbox. Bytes that are not UTF-8 are percent-encoded, as
    /// everything in a query: `%FF`.
    path: Option<String>,
    /// Permissions of a new file, in octal; 644 if not given.
    mode: Option<String>,
}

impl FileParams {
    /// The path's bytes are taken from the query itself: as text, those that are not
    /// UTF-8 would be replaced.
    fn path(&self, RawQuery(query): &RawQuery) -> Result<FilePath, ApiError> {
        let missing = || ApiError::invalid("the query has no `path`");
        let encoded = query.as_deref().unwrap_or_default().split('&');
        let encoded = encoded.filter_map(|pair| pair.split_once('='));
        let mut encoded = encoded.filter(|(name, _)| percent_decode_str(name).eq(*b"path"));
        let (_, encoded) = encoded.next().filter(|_| self.path.is_some()).ok_or_else(missing)?;
        let bytes = percent_decode_str(&encoded.replace('+', " ")).collect::<Vec<_>>();
        order::path_of_bytes("path", &bytes)?;
        Ok(FilePath { text: String::from_utf8_lossy(&bytes).into_owned(), name: bytes.into() })
    }

    fn mode(&self) -> Result<Option<u32>, ApiError> {
        let Some(text) = &self.mode else { return Ok(None) };
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
            _ => Err(ApiError::invalid(format!(
                "mode is {text:?}: give permissions in octal, such as 644"
            ))),
        }
    }
}

/// A path as a program in the sandbox has it, and as text for messages.
struct FilePath {
    name: Name,
    text: String,
}

/// Write a file
///
/// The body is its content. Folders above it are made; a file that is there is replaced at once
/// when all has arrived, and an upload that breaks off changes nothing.
#[utoipa::path(
    post, path = "/v1/runs/{id}/files/upload", tag = "files", operation_id = "upload",
    params(("id" = String, Path, description = "The run"), FileParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Written),
        (status = 400, body = ErrorBody, description = "The path cannot be written"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 413, body = ErrorBody, description = "The file is too large for this server"),
        (status = 507, body = ErrorBody, description = "The sandbox's disk is full"),
    ),
)]
pub async fn upload(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Params(params): Params<FileParams>,
    query: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer<Written>, ApiError> {
    let (FilePath { name, text: path }, mode) = (params.path(&query)?, params.mode()?);
    let most = app.config.limits.upload;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(too_large(most));
    }
    let mut body = body.into_data_stream();
    let mut taken = 0_u64;
    let source = stalling((&mut body).map_err(io::Error::other)).map(move |piece| {
        let piece = piece?;
        taken += piece.len() as u64;
        if taken > most {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(piece)
    });
    let source = StreamReader::new(Box::pin(source));
    let request = WriteFile { path: name, mode, owner: run.defaults.user.clone() };
    let work = async {
        let stream = app.connect(&run).await?;
        client::write_file(stream, request, source).await.map_err(|error| match error {
            ClientError::Local(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                too_large(most)
            }
            ClientError::Local(error) if limits::body::too_slow(&error).is_some() => {
                limits::broken_body(error)
            }
            ClientError::Local(error) => {
                ApiError::invalid(format!("the upload broke off, and nothing was written: {error}"))
            }
            error => file_error(&path, error),
        })
    };
    match run.during(work).await {
        Ok(size) => Ok(Answer(Written { path, size })),
        Err(error) => {
            drain(&mut body).await;
            Err(error)
        }
    }
}

/// Read a file
///
/// The body is its content, as a stream. One that breaks off was cut short. The header
/// `x-file-mode` has the file's permissions, in octal.
#[utoipa::path(
    get, path = "/v1/runs/{id}/files/download", tag = "files", operation_id = "download",
    params(("id" = String, Path, description = "The run"), FileParams),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 400, body = ErrorBody, description = "There is no plain file at the path"),
        (status = 404, body = ErrorBody, description = "No such run or file"),
    ),
)]
pub async fn download(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Params(params): Params<FileParams>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    let FilePath { name, text: path } = params.path(&query)?;
    let work = async {
        let stream = app.connect(&run).await?;
        client::read_file(stream, name).await.map_err(|error| file_error(&path, error))
    };
    let reader = run.during(work).await?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    let mode = [(FILE_MODE, format!("{:o}", reader.metadata().mode & 0o7777))];
    Ok((kind, mode, Body::from_stream(pieces(run, reader))).into_response())
}

/// The names in a folder
#[utoipa::path(
    get, path = "/v1/runs/{id}/files", tag = "files", operation_id = "list_files",
    params(("id" = String, Path, description = "The run"), FileParams),
    responses(
        (status = 200, body = Entries),
        (status = 400, body = ErrorBody, description = "There is no folder at the path"),
        (status = 404, body = ErrorBody, description = "No such run or folder"),
    ),
)]
pub async fn list(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Params(params): Params<FileParams>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    let FilePath { name, text: path } = params.path(&query)?;
    let memory = &app.accounts.memory;
    let refused = |exhausted| memory.refusal(exhausted);
    let mut hold = memory.take(&run.tenant, 0).map_err(refused)?;
    let mut names = Vec::new();
    let work = async {
        let stream = app.connect(&run).await?;
        let listing = client::list_parts(stream, name, |part| {
            for entry in part {
                let bytes = entry.name.to_text().len() + NAME_OVERHEAD;
                let grown = hold.grow(u64::try_from(bytes).unwrap_or(u64::MAX));
                grown.map_err(|exhausted| ListError::Refused(refused(exhausted)))?;
                names.push(entry.name);
            }
            Ok::<_, ListError>(())
        });
        listing.await.map_err(|error| match error {
            ListError::Agent(error) => file_error(&path, error),
            ListError::Refused(error) => error,
        })
    };
    run.during(work).await?;
    names.sort_unstable();
    let kind = (header::CONTENT_TYPE, "application/json");
    let listed = listing(names).map(move |piece| {
        let _held = &hold;
        piece
    });
    Ok(([kind], Body::from_stream(listed)).into_response())
}

/// Why a folder was not listed.
enum ListError {
    Agent(ClientError),
    Refused(ApiError),
}

impl From<ClientError> for ListError {
    fn from(error: ClientError) -> Self {
        Self::Agent(error)
    }
}

/// Names as an [`Entries`] in JSON, written piece by piece.
fn listing(names: Vec<Name>) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    let names = Arc::new(names);
    let all_text = names.iter().all(|name| std::str::from_utf8(name.as_bytes()).is_ok());
    let part = |text: &'static str| stream::iter([Ok(Bytes::from_static(text.as_bytes()))]);
    let entries = list_in_pieces(Arc::clone(&names), |name| name.to_text().into_owned());
    // Nothing to say where the names are all text.
    let encoded = if all_text { Arc::default() } else { names };
    let between = if all_text { "" } else { "],\"encoded_entries\":[" };
    part("{\"entries\":[")
        .chain(entries)
        .chain(part(between))
        .chain(list_in_pieces(encoded, |name| percent_encode(name.as_bytes(), ESCAPED).to_string()))
        .chain(part("]}"))
}

/// What stands between the brackets of a list of names.
fn list_in_pieces(
    names: Arc<Vec<Name>>,
    form: fn(&Name) -> String,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream::iter((0..names.len()).step_by(NAMES_PER_PIECE)).map(move |start| {
        let end = names.len().min(start + NAMES_PER_PIECE);
        let mut piece = Vec::new();
        for (at, name) in names.get(start..end).unwrap_or_default().iter().enumerate() {
            if start + at > 0 {
                piece.push(b',');
            }
            serde_json::to_writer(&mut piece, &form(name))?;
        }
        Ok(Bytes::from(piece))
    })
}

/// What is left of a file, piece by piece. It counts as use of the run, and
/// breaks off when the run ends.
fn pieces(
    run: Arc<LiveRun>,
    reader: FileReader<AgentStream>,
) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send {
    stream::try_unfold((run, reader), async |(run, mut reader)| {
        match run.during(async { reader.next().await.map_err(super::exec::agent_error) }).await {
            Ok(piece) => Ok(piece.map(|piece| (piece, (run, reader)))),
            Err(error) => Err(io::Error::other(error.message)),
        }
    })
}

/// Fails when nothing comes for too long.
fn stalling<S>(source: S) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send
where
    S: futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send + Unpin,
{
    stream::try_unfold(source, async |mut source| match timeout(STALLED, source.try_next()).await {
        Ok(piece) => Ok(piece?.map(|piece| (piece, source))),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came for {} s", STALLED.as_secs()),
        )),
    })
}

fn too_large(most: u64) -> ApiError {
    ApiError::new(
        Code::TooLarge,
        format!("the file is too large: this server takes up to {most} bytes"),
    )
}

fn file_error(path: &str, error: ClientError) -> ApiError {
    let ClientError::Failed(failure) = error else { return super::exec::agent_error(error) };
    let code = match failure.kind {
        FailureKind::NotFound => Code::FileNotFound,
        FailureKind::NoSpace | FailureKind::NoResources => Code::SandboxFull,
        _ => Code::FileError,
    };
    let message = failure.message;
    let named = message.contains(path);
    ApiError::new(code, if named { message } else { format!("{path}: {message}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listing_in_pieces_is_one_document() {
        for count in [0, 1, 255, 256, 257, 1000] {
            let names: Vec<Name> =
                (0..count).map(|number| format!("{number:04}\"\n\u{1}").as_str().into()).collect();
            let mut body = Vec::new();
            for piece in listing(names.clone()).collect::<Vec<_>>().await {
                body.extend_from_slice(&piece.unwrap());
            }
            let entries: Entries = serde_json::from_slice(&body).unwrap();
            let texts: Vec<_> = names.iter().map(|name| name.to_text().into_owned()).collect();
            assert_eq!(entries.entries, texts);
            assert_eq!(entries.encoded_entries, None);
        }
    }

    #[tokio::test]
    async fn names_that_are_no_text_can_be_asked_for() {
        let names: Vec<Name> =
            [&b"plain"[..], b"caf\xe9", "caf\u{e9}".as_bytes(), b"a b+c%41&=\xff\x80/"]
                .map(|bytes| bytes.to_vec().into())
                .into();
        let mut body = Vec::new();
        for piece in listing(names.clone()).collect::<Vec<_>>().await {
            body.extend_from_slice(&piece.unwrap());
        }
        let entries: Entries = serde_json::from_slice(&body).unwrap();
        assert_eq!(entries.entries[1], "caf\u{fffd}");
        let encoded = entries.encoded_entries.unwrap();
        assert_eq!(encoded[1], "caf%E9");
        for (name, encoded) in names.iter().zip(encoded) {
            let query = RawQuery(Some(format!("mode=644&path=/tmp/{encoded}")));
            let params = FileParams { path: Some(String::new()), mode: None };
            let path = params.path(&query).unwrap();
            assert_eq!(path.name.as_bytes(), [b"/tmp/", name.as_bytes()].concat());
        }
    }
}
