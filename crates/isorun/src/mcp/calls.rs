//! The tools: what each does in the sandbox of a session.

use std::{pin::pin, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::StreamExt as _;
use isorun_api::{CodeEvent, CodeRequest, CodeResult, Command, Encoding, ExecRequest, RunId};
use serde_json::{Value, json};

use super::{
    answer::ToolAnswer,
    arguments::{
        FileEncoding, Name, ReadFile, RunCode, RunCommand, SandboxWork, ToolCall, WriteFile,
    },
    excerpt::Excerpt,
    sessions::{CallError, Owner, Sessions, is_gone},
};
use crate::client::{AttachEvent, Attachment, ClientError};

/// The maximum size of all pictures of a result, in base64.
const MAX_PICTURE_BYTES: usize = 8 << 20;
/// The time that the server has to end a command or a cell after its own timeout.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(30);
/// The maximum time of a transfer of a file.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs calls of tools.
pub struct Tools {
    pub sessions: Sessions,
    /// The timeout of a command or a cell that gives none.
    pub timeout: Duration,
    /// The maximum number of bytes of text in a result.
    pub max_output: usize,
}

/// What a tool does in a sandbox: it has failed before it began, or in the middle.
enum Outcome {
    Done(ToolAnswer),
    NotBegun(ClientError),
    Failed(CallError),
}

impl Tools {
    /// Runs a call. Every failure is a result that the model can read.
    pub async fn call(&self, owner: &Owner, call: ToolCall) -> ToolAnswer {
        match self.dispatch(owner, call).await {
            Ok(answer) => answer,
            Err(CallError::Refused(message)) => ToolAnswer::failure("refused", &message),
            Err(CallError::Client(ClientError::Refused { body, .. })) => {
                ToolAnswer::failure(&body.code, &body.error)
            }
            Err(CallError::Client(error)) => {
                ToolAnswer::failure("server_failure", &error.to_string())
            }
        }
    }

    async fn dispatch(&self, owner: &Owner, call: ToolCall) -> Result<ToolAnswer, CallError> {
        match call {
            ToolCall::Fork(fork) => {
                let original = self.sessions.open(owner, &fork.session)?;
                let copy = self.sessions.open(owner, &fork.new_session)?;
                let copied = self.sessions.fork(&original.session, &copy.session).await;
                self.sessions.remove_if_empty(&copy.session);
                copied?;
                Ok(ToolAnswer::text(format!("{} is a copy now", fork.new_session.as_str())))
            }
            ToolCall::Checkpoint(checkpoint) => {
                let used = self.sessions.open(owner, &checkpoint.session)?;
                self.sessions.checkpoint(&used.session, &checkpoint.name).await?;
                let name = checkpoint.name.as_str();
                Ok(ToolAnswer::text(format!("go_back with the name {name:?} returns here")))
            }
            ToolCall::GoBack(checkpoint) => {
                let used = self.sessions.find(owner, &checkpoint.session)?;
                self.sessions.go_back(&used.session, &checkpoint.name).await?;
                Ok(ToolAnswer::text(
                    "files, memory and processes are those of the checkpoint; commands that were \
                     running have ended",
                ))
            }
            ToolCall::ListSessions(_) => Ok(self.list_sessions(owner)),
            ToolCall::EndSession(end) => {
                self.sessions.end(owner, &end.session).await?;
                Ok(ToolAnswer::text("the session and its checkpoints are gone"))
            }
            ToolCall::InSandbox(session, work) => self.in_sandbox(owner, &session, &work).await,
        }
    }

    /// Does something in the sandbox of a session. If the sandbox does not exist any more, which
    /// is known before anything has begun, a new one is created.
    async fn in_sandbox(
        &self,
        owner: &Owner,
        name: &Name,
        work: &SandboxWork,
    ) -> Result<ToolAnswer, CallError> {
        let used = self.sessions.open(owner, name)?;
        let mut lost = false;
        loop {
            let run = match self.sessions.run(&used.session).await {
                Ok(run) => run,
                Err(error) => {
                    self.sessions.remove_if_empty(&used.session);
                    return Err(error);
                }
            };
            let error = match self.work(owner, &run, work).await {
                Outcome::Done(answer) if lost => {
                    return Ok(answer.note(
                        "the sandbox of this session was gone, so this is a new one: earlier \
                         files, variables and processes are lost",
                    ));
                }
                Outcome::Done(answer) => return Ok(answer),
                Outcome::Failed(error) => {
                    if let CallError::Client(error) = &error
                        && is_gone(error)
                    {
                        used.session.forget(&run);
                    }
                    return Err(error);
                }
                Outcome::NotBegun(error) => error,
            };
            if lost || !is_gone(&error) {
                return Err(error.into());
            }
            used.session.forget(&run);
            lost = true;
        }
    }

    async fn work(&self, owner: &Owner, run: &RunId, work: &SandboxWork) -> Outcome {
        match work {
            SandboxWork::RunCommand(command) => self.run_command(owner, run, command).await,
            SandboxWork::RunCode(code) => self.run_code(owner, run, code).await,
            SandboxWork::ReadFile(file) => limited(self.read_file(owner, run, file)).await,
            SandboxWork::WriteFile(file) => limited(write_file(owner, run, file)).await,
            SandboxWork::ListFiles(list) => match owner.client.entries(run, &list.path).await {
                Ok(entries) => Outcome::Done(self.listing(entries.entries)),
                Err(error) => Outcome::NotBegun(error),
            },
            SandboxWork::PortUrl(port) => match owner.client.run(run).await {
                Ok(run) => url(owner, run.port_url.as_deref(), port.port),
                Err(error) => Outcome::NotBegun(error),
            },
        }
    }

    async fn run_command(&self, owner: &Owner, run: &RunId, wanted: &RunCommand) -> Outcome {
        let timeout = wanted.timeout.map_or(self.timeout.as_secs_f64(), |seconds| seconds.get());
        let request = ExecRequest {
            command: Command::Shell(wanted.command.clone()),
            timeout: Some(timeout),
            env: None,
            cwd: wanted.cwd.clone(),
            stdin: None,
            encoding: Encoding::Text,
        };
        let attachment = match owner.client.attach(run, &request).await {
            Ok(attachment) => attachment,
            Err(error) => return Outcome::NotBegun(error),
        };
        let stdin = wanted.stdin.clone().unwrap_or_default();
        let mut stdout = Excerpt::new(self.max_output);
        let mut stderr = Excerpt::new(self.max_output);
        let relayed = relay(attachment, stdin, &mut stdout, &mut stderr);
        let deadline = Duration::from_secs_f64(timeout) + TIMEOUT_MARGIN;
        let end =
            tokio::time::timeout(deadline, relayed).await.unwrap_or_else(|_| Err(no_answer()));
        let (stdout, stderr) = (stdout.text(), stderr.text());
        let mut answer = ToolAnswer::default();
        answer.line(&stdout);
        answer.line(&stderr);
        let answer = answer.field("stdout", stdout).field("stderr", stderr);
        match end {
            Ok(0) => Outcome::Done(answer.field("exit_code", 0)),
            Ok(code) => {
                let mut answer = answer.field("exit_code", code);
                answer.line(&format!("[exit code {code}]"));
                Outcome::Done(answer)
            }
            // What it has printed until then tells the model more than the error.
            Err(error) if error.has_code("exec_timeout") => {
                let mut answer = answer.field("code", "exec_timeout");
                answer.line(&format!("[killed after its timeout of {timeout} seconds]"));
                answer.fail();
                Outcome::Done(answer)
            }
            Err(error) => Outcome::Failed(error.into()),
        }
    }

    async fn run_code(&self, owner: &Owner, run: &RunId, wanted: &RunCode) -> Outcome {
        let timeout = wanted.timeout.map_or(self.timeout.as_secs_f64(), |seconds| seconds.get());
        let request = CodeRequest {
            code: wanted.code.clone(),
            language: wanted.language.clone(),
            context: None,
            timeout: Some(timeout),
        };
        let mut events = match owner.client.run_code(run, &request).await {
            Ok(events) => events,
            Err(error) => return Outcome::NotBegun(error),
        };
        let mut cell = Cell::new(self.max_output);
        let reading = async {
            while !cell.add(events.next().await?) {}
            Ok(())
        };
        let deadline = Duration::from_secs_f64(timeout) + TIMEOUT_MARGIN;
        match tokio::time::timeout(deadline, reading).await.unwrap_or_else(|_| Err(no_answer())) {
            Ok(()) => Outcome::Done(cell.answer()),
            Err(error) => Outcome::Failed(error.into()),
        }
    }

    async fn read_file(&self, owner: &Owner, run: &RunId, wanted: &ReadFile) -> Outcome {
        let stream = match owner.client.download(run, &wanted.path).await {
            Ok((_, stream)) => stream,
            Err(error) => return Outcome::NotBegun(error),
        };
        let mut stream = pin!(stream);
        // A whole picture may be larger than text. Whoever asks for its bytes gets them.
        let is_whole =
            wanted.offset == 0 && wanted.limit.is_none() && wanted.encoding == FileEncoding::Utf8;
        let max_text = wanted.limit.map_or(self.max_output, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX).min(self.max_output)
        });
        let max_bytes = if is_whole { max_text.max(MAX_PICTURE_BYTES / 4 * 3) } else { max_text };
        let mut skip = wanted.offset;
        let mut content = Vec::new();
        let mut has_more = false;
        while let Some(piece) = stream.next().await {
            let piece: Bytes = match piece {
                Ok(piece) => piece,
                Err(error) => return Outcome::Failed(error.into()),
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            content.extend_from_slice(&piece[skipped..]);
            let not_a_picture = content.len() >= 12 && picture_type(&content).is_none();
            if content.len() > if not_a_picture { max_text } else { max_bytes } {
                has_more = true;
                break;
            }
        }
        if is_whole
            && !has_more
            && let Some(mime) = picture_type(&content)
        {
            let mut answer = ToolAnswer::text(format!("{mime}, {} bytes", content.len()));
            answer.picture(BASE64_STANDARD.encode(&content), mime);
            return Outcome::Done(answer.field("size", content.len()));
        }
        if content.len() > max_text {
            content.truncate(max_text);
            has_more = true;
        }
        self.file_content(wanted, content, has_more)
    }

    fn file_content(&self, wanted: &ReadFile, mut content: Vec<u8>, has_more: bool) -> Outcome {
        let text = match wanted.encoding {
            FileEncoding::Base64 => BASE64_STANDARD.encode(&content),
            FileEncoding::Utf8 => {
                // The end may be inside of a character.
                if has_more
                    && let Err(error) = std::str::from_utf8(&content)
                    && error.error_len().is_none()
                {
                    content.truncate(error.valid_up_to());
                }
                match String::from_utf8(content.clone()) {
                    Ok(text) => text,
                    Err(error) => {
                        let at = wanted.offset + error.utf8_error().valid_up_to() as u64;
                        return Outcome::Failed(CallError::Refused(format!(
                            "{:?} is not UTF-8 text: byte {at} is invalid. Use encoding base64, \
                             or a command that shows it",
                            wanted.path
                        )));
                    }
                }
            }
        };
        let next = wanted.offset + content.len() as u64;
        let answer = ToolAnswer::text(text.clone()).field("content", text);
        Outcome::Done(if has_more {
            answer
                .note(&format!("bytes {} to {next}; the file continues", wanted.offset))
                .field("next_offset", next)
        } else {
            answer
        })
    }

    fn listing(&self, names: Vec<String>) -> ToolAnswer {
        let mut answer = ToolAnswer::default();
        let mut length = 0;
        let mut shown = Vec::new();
        for name in &names {
            length += name.len() + 1;
            if length > self.max_output {
                break;
            }
            answer.line(name);
            shown.push(Value::from(name.as_str()));
        }
        let omitted = names.len() - shown.len();
        let answer = answer.field("entries", shown);
        if omitted == 0 { answer } else { answer.note(&format!("{omitted} more are left out")) }
    }

    fn list_sessions(&self, owner: &Owner) -> ToolAnswer {
        let mut answer = ToolAnswer::default();
        let mut sessions = Vec::new();
        for session in self.sessions.list(owner) {
            let checkpoints: Vec<_> = session.checkpoints.iter().map(Name::as_str).collect();
            let idle = session.idle.as_secs();
            let run = session.run.as_ref().map_or("no sandbox yet", RunId::as_str);
            answer.line(&format!(
                "{}: {run}, unused for {idle} s, checkpoints: {}",
                session.name.as_str(),
                if checkpoints.is_empty() { "none".to_owned() } else { checkpoints.join(", ") }
            ));
            sessions.push(json!({
                "session": session.name.as_str(),
                "sandbox": session.run.as_ref().map(RunId::as_str),
                "idle_seconds": idle,
                "checkpoints": checkpoints,
            }));
        }
        if sessions.is_empty() {
            answer.line("there are no sessions yet: the first use of one creates it");
        }
        answer.field("sessions", sessions)
    }
}

/// The results and the output of a cell.
struct Cell {
    stdout: Excerpt,
    stderr: Excerpt,
    results: Excerpt,
    pictures: Vec<(String, &'static str)>,
    picture_bytes: usize,
    omitted_pictures: usize,
    error: Option<isorun_api::CodeError>,
    max_output: usize,
}

impl Cell {
    fn new(max_output: usize) -> Self {
        Self {
            stdout: Excerpt::new(max_output),
            stderr: Excerpt::new(max_output),
            results: Excerpt::new(max_output),
            pictures: Vec::new(),
            picture_bytes: 0,
            omitted_pictures: 0,
            error: None,
            max_output,
        }
    }

    /// Adds an event. Reports whether it is the last one.
    fn add(&mut self, event: CodeEvent) -> bool {
        match event {
            CodeEvent::Stdout { text } => self.stdout.push(text.as_bytes()),
            CodeEvent::Stderr { text } => self.stderr.push(text.as_bytes()),
            CodeEvent::Result(result) => self.result(result),
            CodeEvent::Error(error) => self.error = Some(error),
            CodeEvent::End { .. } => return true,
            CodeEvent::Failure { .. } => {}
        }
        false
    }

    /// Adds a result: as a picture if it is one, and else as the text that a model reads best.
    fn result(&mut self, mut result: CodeResult) {
        for mime in ["image/png", "image/jpeg"] {
            let Some(Value::String(data)) = result.data.remove(mime) else { continue };
            if self.picture_bytes + data.len() > MAX_PICTURE_BYTES {
                self.omitted_pictures += 1;
            } else {
                self.picture_bytes += data.len();
                self.pictures.push((data, mime));
            }
            return;
        }
        for mime in ["text/markdown", "text/plain", "text/latex", "text/html", "image/svg+xml"] {
            if let Some(Value::String(text)) = result.data.get(mime) {
                self.results.push(text.trim_end_matches('\n').as_bytes());
                self.results.push(b"\n");
                return;
            }
        }
        if let Some(value) = result.data.get("application/json") {
            self.results.push(format!("{value}\n").as_bytes());
        }
    }

    fn answer(self) -> ToolAnswer {
        let (stdout, stderr, results) =
            (self.stdout.text(), self.stderr.text(), self.results.text());
        let mut answer = ToolAnswer::default();
        for text in [&stdout, &stderr, &results] {
            answer.line(text);
        }
        for (data, mime) in self.pictures {
            answer.picture(data, mime);
        }
        if self.omitted_pictures > 0 {
            answer.line(&format!(
                "[{} pictures are left out: together they have more than {} MiB]",
                self.omitted_pictures,
                MAX_PICTURE_BYTES >> 20
            ));
        }
        let mut answer =
            answer.field("stdout", stdout).field("stderr", stderr).field("results", results);
        let Some(error) = self.error else { return answer };
        let mut text = Excerpt::new(self.max_output);
        if error.traceback.is_empty() {
            text.push(format!("{}: {}", error.name, error.value).as_bytes());
        } else {
            text.push(error.traceback.as_bytes());
        }
        answer.line(&text.text());
        answer.fail();
        answer.field("error", json!({ "name": error.name, "value": error.value }))
    }
}

/// Sends standard input to a command, and collects its output. Returns its exit code.
async fn relay(
    attachment: Attachment,
    stdin: String,
    stdout: &mut Excerpt,
    stderr: &mut Excerpt,
) -> Result<i32, ClientError> {
    let Attachment { mut events, mut input } = attachment;
    let send_input = async {
        // Pieces that the server accepts.
        let stdin = Bytes::from(stdin);
        for start in (0..stdin.len()).step_by(64 << 10) {
            let end = stdin.len().min(start + (64 << 10));
            input.write(stdin.slice(start..end)).await?;
        }
        input.close().await
    };
    let collect_output = async {
        loop {
            match events.next().await? {
                AttachEvent::Exit(code) => return Ok(code),
                // The first byte is the number of the stream.
                AttachEvent::Output(bytes) => match bytes.split_first() {
                    Some((1, bytes)) => stdout.push(bytes),
                    Some((2, bytes)) => stderr.push(bytes),
                    _ => {}
                },
            }
        }
    };
    let mut collect_output = pin!(collect_output);
    tokio::select! {
        // A command may exit without reading its input.
        code = &mut collect_output => code,
        _ = send_input => collect_output.await,
    }
}

/// Limits the time of a transfer.
async fn limited(work: impl Future<Output = Outcome>) -> Outcome {
    tokio::time::timeout(TRANSFER_TIMEOUT, work).await.unwrap_or_else(|_| {
        Outcome::Failed(CallError::Refused(format!(
            "the transfer was stopped after {} seconds: use a smaller file",
            TRANSFER_TIMEOUT.as_secs()
        )))
    })
}

fn no_answer() -> ClientError {
    ClientError::Connection("the server did not answer in time".to_owned())
}

async fn write_file(owner: &Owner, run: &RunId, file: &WriteFile) -> Outcome {
    let content = match file.encoding {
        FileEncoding::Utf8 => file.content.clone().into_bytes(),
        FileEncoding::Base64 => match BASE64_STANDARD.decode(&file.content) {
            Ok(content) => content,
            Err(error) => {
                let message = format!("content is not base64: {error}");
                return Outcome::Failed(CallError::Refused(message));
            }
        },
    };
    match owner.client.upload(run, &file.path, None, content.into()).await {
        Ok(written) => Outcome::Done(
            ToolAnswer::text(format!("wrote {} bytes", written.size)).field("size", written.size),
        ),
        Err(error) => Outcome::NotBegun(error),
    }
}

fn url(owner: &Owner, template: Option<&str>, port: u16) -> Outcome {
    let Some(template) = template else {
        return Outcome::Failed(CallError::Refused(
            "URLs of ports are disabled for this sandbox, or on its server".to_owned(),
        ));
    };
    let url = owner.client.url_of(&template.replace("{port}", &port.to_string()));
    Outcome::Done(ToolAnswer::text(url.clone()).field("url", url))
}

/// Returns the MIME type of a picture that clients show, by the first bytes of its format.
fn picture_type(content: &[u8]) -> Option<&'static str> {
    if content.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if content.starts_with(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if content.starts_with(b"GIF8") {
        Some("image/gif")
    } else if content.starts_with(b"RIFF") && content.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else {
        None
    }
}
