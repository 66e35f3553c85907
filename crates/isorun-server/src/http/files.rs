//! Upload and download of files, as streams: files are never held in memory.

mod interpreter;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json as JsonResponse,
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
    App,
    body::{body_error, too_slow},
    error::{ApiError, Code},
    exec::agent_error,
    extract::{Params, ResumedRun},
    json_body::drain,
};
use crate::core::{accounts::ledger::Hold, live_run::LiveRun, validate};
use isorun_api::{Entries, ErrorBody, FILE_MODE, Written};

/// The longest time without progress of an upload.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The number of directory entries in one piece of a response.
const NAMES_PER_PIECE: usize = 256;

/// All characters except the unreserved ones of URLs: RFC 3986, section 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The memory overhead of a name beyond its bytes, in bytes.
const NAME_OVERHEAD_BYTES: usize = 32;

/// Parameters of file operations.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileParams {
    /// An absolute path in the sandbox. Bytes that are not UTF-8 are percent-encoded, like all of
    /// a query: `%FF`.
    path: Option<String>,
    /// Permissions of a new file, in octal; 644 by default.
    mode: Option<String>,
}

impl FileParams {
    /// Returns the path. Its bytes are decoded from the raw query, since bytes that are not
    /// UTF-8 are replaced in the text.
    fn path(&self, RawQuery(query): &RawQuery) -> Result<FilePath, ApiError> {
        let missing = || ApiError::invalid("the query has no `path`: give an absolute path");
        let encoded = query.as_deref().unwrap_or_default().split('&');
        let encoded = encoded.filter_map(|pair| pair.split_once('='));
        let mut encoded = encoded.filter(|(name, _)| percent_decode_str(name).eq(*b"path"));
        let (_, encoded) = encoded.next().filter(|_| self.path.is_some()).ok_or_else(missing)?;
        let bytes = percent_decode_str(&encoded.replace('+', " ")).collect::<Vec<_>>();
        validate::path_of_bytes("path", &bytes)?;
        Ok(FilePath { text: String::from_utf8_lossy(&bytes).into_owned(), name: bytes.into() })
    }

    fn mode(&self) -> Result<Option<u32>, ApiError> {
        let Some(text) = &self.mode else { return Ok(None) };
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
            _ => Err(ApiError::invalid(format!(
                "mode is {text:?}: give permissions in octal, 0 to 7777, such as 644"
            ))),
        }
    }
}

/// A path as bytes, and as text for messages.
struct FilePath {
    name: Name,
    text: String,
}

/// Write a file
///
/// The body is the content. Missing parent directories are created. An existing file is replaced
/// atomically when the upload is complete; an upload that is interrupted changes nothing.
#[utoipa::path(
    post, path = "/v1/runs/{id}/files/upload", tag = "files", operation_id = "upload",
    params(("id" = String, Path, description = "The run"), FileParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Written),
        (status = 400, body = ErrorBody, description = "The file cannot be written"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
        (status = 413, body = ErrorBody, description = "The file is too large for this server"),
        (status = 507, body = ErrorBody, description = "The sandbox's disk is full"),
    ),
)]
pub async fn upload(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Params(params): Params<FileParams>,
    query: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonResponse<Written>, ApiError> {
    let (FilePath { name, text: path }, mode) = (params.path(&query)?, params.mode()?);
    let max_bytes = app.core.config.limits.upload;
    let content_length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if content_length.is_some_and(|length| length > max_bytes) {
        return Err(too_large(max_bytes));
    }
    if run.interpreter.is_some() {
        return interpreter::upload(&app, &run, path, body).await;
    }
    let mut body = body.into_data_stream();
    let mut received = 0_u64;
    let source = with_stall_timeout((&mut body).map_err(io::Error::other)).map(move |piece| {
        let piece = piece?;
        received += piece.len() as u64;
        if received > max_bytes {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(piece)
    });
    let source = StreamReader::new(Box::pin(source));
    let request = WriteFile { path: name, mode, owner: run.defaults.user.clone() };
    let work = async {
        let stream = app.core.connect(&run).await?;
        client::write_file(stream, request, source).await.map_err(|error| match error {
            ClientError::Local(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                too_large(max_bytes)
            }
            ClientError::Local(error) if too_slow(&error).is_some() => body_error(error),
            ClientError::Local(error) => ApiError::invalid(format!(
                "the upload was interrupted, and nothing was written: {error}"
            )),
            error => file_error(&path, error),
        })
    };
    match run.during(work).await {
        Ok(size) => Ok(JsonResponse(Written { path, size })),
        Err(error) => {
            drain(&mut body).await;
            Err(error)
        }
    }
}

/// Read a file
///
/// The body is the content, as a stream. If the stream is interrupted, the content is incomplete.
/// The header `x-file-mode` has the file's permissions, in octal.
#[utoipa::path(
    get, path = "/v1/runs/{id}/files/download", tag = "files", operation_id = "download",
    params(("id" = String, Path, description = "The run"), FileParams),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 400, body = ErrorBody, description = "The path is not a regular file"),
        (status = 404, body = ErrorBody, description = "The run or the file does not exist"),
    ),
)]
pub async fn download(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Params(params): Params<FileParams>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    let FilePath { name, text: path } = params.path(&query)?;
    if run.interpreter.is_some() {
        return interpreter::download(&app, &run, path).await;
    }
    let work = async {
        let stream = app.core.connect(&run).await?;
        client::read_file(stream, name).await.map_err(|error| file_error(&path, error))
    };
    let reader = run.during(work).await?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    let mode = [(FILE_MODE, format!("{:o}", reader.metadata().mode & 0o7777))];
    Ok((kind, mode, Body::from_stream(pieces(run, reader))).into_response())
}

/// List a directory
#[utoipa::path(
    get, path = "/v1/runs/{id}/files", tag = "files", operation_id = "list_files",
    params(("id" = String, Path, description = "The run"), FileParams),
    responses(
        (status = 200, body = Entries),
        (status = 400, body = ErrorBody, description = "The path is not a directory"),
        (status = 404, body = ErrorBody, description = "The run or the directory does not exist"),
    ),
)]
pub async fn list(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Params(params): Params<FileParams>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    let FilePath { name, text: path } = params.path(&query)?;
    if run.interpreter.is_some() {
        return interpreter::list(&app, &run, path).await;
    }
    let memory = &app.core.accounts.memory;
    let refusal = |exhausted| memory.refusal(exhausted);
    let mut hold = memory.take(&run.tenant, 0).map_err(refusal)?;
    let mut names = Vec::new();
    let work = async {
        let stream = app.core.connect(&run).await?;
        let listing = client::list_parts(stream, name, |part| {
            for entry in part {
                let bytes = entry.name.to_text().len() + NAME_OVERHEAD_BYTES;
                let grown = hold.grow(u64::try_from(bytes).unwrap_or(u64::MAX));
                grown.map_err(|exhausted| ListError::Refused(refusal(exhausted).into()))?;
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
    Ok(listing_response(names, hold))
}

/// Returns names as an [`Entries`], with the memory that is reserved for them.
fn listing_response(mut names: Vec<Name>, hold: Hold) -> Response {
    names.sort_unstable();
    let kind = (header::CONTENT_TYPE, "application/json");
    let listed = listing(names).map(move |piece| {
        let _held = &hold;
        piece
    });
    ([kind], Body::from_stream(listed)).into_response()
}

/// An error of listing a directory.
enum ListError {
    Agent(ClientError),
    Refused(ApiError),
}

impl From<ClientError> for ListError {
    fn from(error: ClientError) -> Self {
        Self::Agent(error)
    }
}

/// Encodes names as an [`Entries`] in JSON, piece by piece.
fn listing(names: Vec<Name>) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    let names = Arc::new(names);
    let all_text = names.iter().all(|name| std::str::from_utf8(name.as_bytes()).is_ok());
    let part = |text: &'static str| stream::iter([Ok(Bytes::from_static(text.as_bytes()))]);
    let entries = list_in_pieces(Arc::clone(&names), |name| name.to_text().into_owned());
    // Absent if all names are UTF-8.
    let encoded = if all_text { Arc::default() } else { names };
    let between = if all_text { "" } else { "],\"encoded_entries\":[" };
    part("{\"entries\":[")
        .chain(entries)
        .chain(part(between))
        .chain(list_in_pieces(encoded, |name| percent_encode(name.as_bytes(), ESCAPED).to_string()))
        .chain(part("]}"))
}

/// Encodes the content of a JSON list of names, without the brackets.
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

/// Returns the content of a file, piece by piece. It counts as activity of the run, and
/// fails when the run ends.
fn pieces(
    run: Arc<LiveRun>,
    reader: FileReader<AgentStream>,
) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send {
    stream::try_unfold((run, reader), async |(run, mut reader)| {
        match run.during(async { reader.next().await.map_err(agent_error) }).await {
            Ok(piece) => Ok(piece.map(|piece| (piece, (run, reader)))),
            Err(error) => Err(io::Error::other(error.message)),
        }
    })
}

/// Adds an error to a stream that makes no progress for too long.
fn with_stall_timeout<S>(
    source: S,
) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send
where
    S: futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send + Unpin,
{
    stream::try_unfold(source, async |mut source| {
        match timeout(STALL_TIMEOUT, source.try_next()).await {
            Ok(piece) => Ok(piece?.map(|piece| (piece, source))),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no data was received for {} s", STALL_TIMEOUT.as_secs()),
            )),
        }
    })
}

fn too_large(max_bytes: u64) -> ApiError {
    ApiError::new(
        Code::TooLarge,
        format!("the file is too large: at most {max_bytes} bytes are allowed"),
    )
}

fn file_error(path: &str, error: ClientError) -> ApiError {
    let ClientError::Failed(failure) = error else { return agent_error(error) };
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
    async fn pieces_of_a_listing_form_one_document() {
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
    async fn names_that_are_not_utf8_can_be_requested() {
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
