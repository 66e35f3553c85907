//! The tools' arguments: their types, from which the schemas are made that clients read, and
//! their validation.
//!
//! This file does not depend on the rest of the crate, because the fuzzer compiles it
//! alone.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The maximum length of the name of a session or a checkpoint, in bytes.
pub const MAX_NAME_BYTES: usize = 100;
/// The shortest and the longest timeout of a call, in seconds.
const MIN_TIMEOUT_SECONDS: f64 = 0.01;
pub const MAX_TIMEOUT_SECONDS: f64 = 3600.0;
/// The maximum length of an error about arguments, in characters: it may quote them.
const MAX_ERROR_CHARS: usize = 500;

/// A call of a tool, with valid arguments.
#[derive(Debug, PartialEq)]
pub enum ToolCall {
    /// Something in the sandbox of this session.
    InSandbox(Name, SandboxWork),
    Fork(Fork),
    Checkpoint(Checkpoint),
    GoBack(GoBack),
    ListSessions(ListSessions),
    EndSession(EndSession),
}

/// What a call does in a sandbox.
#[derive(Debug, PartialEq)]
pub enum SandboxWork {
    RunCommand(RunCommand),
    RunCode(RunCode),
    ReadFile(ReadFile),
    WriteFile(WriteFile),
    ListFiles(ListFiles),
    PortUrl(PortUrl),
}

/// The names of the tools, in the order in which clients see them.
pub const TOOL_NAMES: [&str; 11] = [
    "run_command",
    "run_code",
    "read_file",
    "write_file",
    "list_files",
    "fork",
    "checkpoint",
    "go_back",
    "port_url",
    "list_sessions",
    "end_session",
];

/// Runs a shell command in the sandbox of a session.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// The shell command line.
    pub command: String,
    #[serde(default)]
    pub session: Name,
    /// The working directory; by default that of the image.
    #[serde(default)]
    pub cwd: Option<String>,
    /// The content of standard input; empty by default.
    #[serde(default)]
    pub stdin: Option<String>,
    #[serde(default)]
    pub timeout: Option<Seconds>,
}

/// Runs a cell of code.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCode {
    /// The code of the cell.
    pub code: String,
    #[serde(default)]
    pub session: Name,
    /// `python` (the default), `javascript`, or the language of a Jupyter kernel of the image.
    #[serde(default)]
    pub language: Option<String>,
    #[serde(default)]
    pub timeout: Option<Seconds>,
}

/// Reads a file.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// The absolute path in the sandbox.
    pub path: String,
    #[serde(default)]
    pub session: Name,
    /// The number of bytes to skip.
    #[serde(default)]
    pub offset: u64,
    /// The maximum number of bytes to read; by default as many as a result may contain.
    #[serde(default)]
    pub limit: Option<u64>,
    /// `utf-8` for text or a whole picture, `base64` for any bytes.
    #[serde(default)]
    pub encoding: FileEncoding,
}

/// Writes a file, and creates its parent directories.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// The absolute path in the sandbox.
    pub path: String,
    /// The whole content.
    pub content: String,
    #[serde(default)]
    pub session: Name,
    /// `utf-8` if `content` is text, `base64` if it is that.
    #[serde(default)]
    pub encoding: FileEncoding,
}

/// Lists a directory.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListFiles {
    /// The absolute path of the directory in the sandbox.
    pub path: String,
    #[serde(default)]
    pub session: Name,
}

/// Copies a session.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// The name of the copy, which must not exist.
    pub new_session: Name,
    /// The session to copy.
    #[serde(default)]
    pub session: Name,
}

/// Takes a snapshot of a session.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The name of the checkpoint. One of the same name is replaced.
    pub name: Name,
    #[serde(default)]
    pub session: Name,
}

/// Resets a session to a checkpoint.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GoBack {
    /// The name of the checkpoint.
    pub name: Name,
    #[serde(default)]
    pub session: Name,
}

/// Returns the URL of a port.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortUrl {
    /// The port on which a server listens in the sandbox, on the loopback or any other address.
    #[schemars(range(min = 2))]
    pub port: u16,
    #[serde(default)]
    pub session: Name,
}

/// Lists the sessions.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSessions {}

/// Destroys the sandbox of a session.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndSession {
    #[serde(default)]
    pub session: Name,
}

/// The encoding of the content of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum FileEncoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

/// The name of a session or of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_NAME_BYTES,
            "description": "The name of the session. Each session has a sandbox of its own, which is \
                            created at its first use.",
        })
    }
}

impl Default for Name {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control) {
            Ok(Self(name))
        } else {
            Err(format!("a name has 1 to {MAX_NAME_BYTES} bytes, and no control characters"))
        }
    }
}

/// A timeout in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(f64);

impl Seconds {
    pub fn get(self) -> f64 {
        self.0
    }
}

impl JsonSchema for Seconds {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "number",
            "minimum": MIN_TIMEOUT_SECONDS,
            "maximum": MAX_TIMEOUT_SECONDS,
            "description": "The timeout in seconds, after which it is stopped.",
        })
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if (MIN_TIMEOUT_SECONDS..=MAX_TIMEOUT_SECONDS).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(format!(
                "a timeout is between {MIN_TIMEOUT_SECONDS} and {MAX_TIMEOUT_SECONDS} seconds"
            ))
        }
    }
}

impl ToolCall {
    /// Validates a call. The error names the tool and the invalid argument.
    pub fn read(tool: &str, arguments: Map<String, Value>) -> Result<Self, String> {
        use SandboxWork as Work;
        match tool {
            "run_command" => parse(tool, arguments)
                .map(|it: RunCommand| Self::InSandbox(it.session.clone(), Work::RunCommand(it))),
            "run_code" => parse(tool, arguments)
                .map(|it: RunCode| Self::InSandbox(it.session.clone(), Work::RunCode(it))),
            "read_file" => parse(tool, arguments)
                .map(|it: ReadFile| Self::InSandbox(it.session.clone(), Work::ReadFile(it))),
            "write_file" => parse(tool, arguments)
                .map(|it: WriteFile| Self::InSandbox(it.session.clone(), Work::WriteFile(it))),
            "list_files" => parse(tool, arguments)
                .map(|it: ListFiles| Self::InSandbox(it.session.clone(), Work::ListFiles(it))),
            "port_url" => parse(tool, arguments)
                .map(|it: PortUrl| Self::InSandbox(it.session.clone(), Work::PortUrl(it))),
            "fork" => parse(tool, arguments).map(Self::Fork),
            "checkpoint" => parse(tool, arguments).map(Self::Checkpoint),
            "go_back" => parse(tool, arguments).map(Self::GoBack),
            "list_sessions" => parse(tool, arguments).map(Self::ListSessions),
            "end_session" => parse(tool, arguments).map(Self::EndSession),
            _ => {
                let tool: String = tool.chars().take(MAX_ERROR_CHARS).collect();
                Err(format!("there is no tool {tool:?}: use one of {}", TOOL_NAMES.join(", ")))
            }
        }
    }
}

fn parse<T: DeserializeOwned>(tool: &str, arguments: Map<String, Value>) -> Result<T, String> {
    serde_path_to_error::deserialize(Value::Object(arguments)).map_err(|error| {
        // It starts with the name of the argument, except if that is missing or unknown.
        let error: String = error.to_string().chars().take(MAX_ERROR_CHARS).collect();
        format!("the arguments of {tool} are invalid: {error}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(tool: &str, arguments: Value) -> Result<ToolCall, String> {
        let Value::Object(arguments) = arguments else { panic!("not an object") };
        ToolCall::read(tool, arguments)
    }

    #[test]
    fn defaults_are_filled_in() {
        let call = read("run_command", json!({ "command": "true" })).unwrap();
        assert_eq!(
            call,
            ToolCall::InSandbox(
                Name::default(),
                SandboxWork::RunCommand(RunCommand {
                    command: "true".to_owned(),
                    session: Name::default(),
                    cwd: None,
                    stdin: None,
                    timeout: None,
                })
            )
        );
    }

    #[test]
    fn every_tool_has_arguments_that_are_valid() {
        for (tool, arguments) in [
            ("run_command", json!({ "command": "true", "timeout": 3600 })),
            ("run_code", json!({ "code": "1", "language": "javascript" })),
            ("read_file", json!({ "path": "/a", "offset": 5, "encoding": "base64" })),
            ("write_file", json!({ "path": "/a", "content": "" })),
            ("list_files", json!({ "path": "/" })),
            ("fork", json!({ "new_session": "b", "session": "a" })),
            ("checkpoint", json!({ "name": "before" })),
            ("go_back", json!({ "name": "before" })),
            ("port_url", json!({ "port": 8000 })),
            ("list_sessions", json!({})),
            ("end_session", json!({ "session": "a" })),
        ] {
            assert!(TOOL_NAMES.contains(&tool));
            assert!(read(tool, arguments).is_ok(), "{tool}");
        }
    }

    #[test]
    fn errors_name_the_tool_and_the_argument() {
        for (tool, arguments, parts) in [
            ("run_command", json!({}), ["run_command", "command"]),
            ("run_command", json!({ "command": 1 }), ["command: ", "string"]),
            ("run_command", json!({ "command": "", "comand": "" }), ["run_command", "`comand`"]),
            ("run_command", json!({ "command": "", "timeout": 0 }), ["timeout", "0.01"]),
            ("run_command", json!({ "command": "", "timeout": 1e9 }), ["timeout", "3600"]),
            ("run_code", json!({ "code": "", "session": "" }), ["run_code", "1 to 100 bytes"]),
            ("run_code", json!({ "code": "", "session": "a\nb" }), ["run_code", "control"]),
            ("read_file", json!({ "path": "", "offset": -1 }), ["offset: ", "-1"]),
            ("read_file", json!({ "path": "", "encoding": "x" }), ["read_file", "utf-8"]),
            ("port_url", json!({ "port": 65536 }), ["port: ", "65536"]),
            ("list_sessions", json!({ "x": 1 }), ["list_sessions", "`x`"]),
            ("remove", json!({}), ["\"remove\"", "run_command"]),
        ] {
            let error = read(tool, arguments).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{tool}: {part}: {error}");
            }
        }
    }
}
