//! The messages, without any I/O.
//!
//! Requests and replies are JSON objects in which unknown fields are ignored, so
//! that either side may be newer than the other. A change that an old side would
//! misunderstand raises [`VERSION`]. The client sends the versions that it
//! supports, and the agent chooses the highest common one.

use serde::{Deserialize, Serialize};

use crate::code::{Code, ContextInfo, NewContext};

/// The newest protocol version that this library supports.
pub const VERSION: u32 = 1;
/// The oldest protocol version that this library supports.
pub const OLDEST_VERSION: u32 = 1;
/// The TCP port on which the agent listens, inside each sandbox.
pub const AGENT_PORT: u16 = 1;
/// The number of bytes of standard input that a client may send before the agent
/// reports that the program has read them.
pub const STDIN_WINDOW_BYTES: usize = 256 * 1024;

/// The client's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version that it supports.
    pub oldest: u32,
    /// The newest version that it supports.
    pub newest: u32,
}

impl Hello {
    /// The versions that this library supports.
    pub const SUPPORTED: Self = Self { oldest: OLDEST_VERSION, newest: VERSION };

    /// Returns the version to use with that client, if there is a common one.
    #[must_use]
    pub fn common(&self) -> Option<u32> {
        let version = self.newest.min(VERSION);
        (version >= self.oldest.max(OLDEST_VERSION)).then_some(version)
    }
}

/// The agent's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that the connection uses.
    pub version: u32,
    /// The version of the agent program.
    pub agent: String,
}

/// A request of a client, one on each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Runs a program.
    Exec(Exec),
    /// Starts a shell that runs one command after the other.
    Shell(Shell),
    /// Attaches to a program or shell that was detached from another connection.
    Attach {
        /// Its token, from [`Exec::token`] or [`Shell::token`].
        token: String,
    },
    /// Prepares for a checkpoint: programs that can be attached to are detached, and
    /// the reply is sent when no other connection is left. The next request ends that
    /// state.
    Freeze,
    /// Writes a file from the `Data` frames that follow, up to `DataEnd`.
    WriteFile(WriteFile),
    /// Reads a file, as `Reply::File` and `Data` frames up to `DataEnd`.
    ReadFile {
        /// The path of the file.
        path: Name,
    },
    /// Lists the names in a directory.
    List {
        /// The path of the directory.
        path: Name,
    },
    /// Returns the metadata of a file. Follows symbolic links.
    Stat {
        /// The path of the file.
        path: Name,
    },
    /// Creates a directory and its missing parents.
    MakeDir {
        /// The path of the directory.
        path: Name,
        /// Its permissions; `0o755` by default. The parents get the default.
        mode: Option<u32>,
        /// Its owner, in the form of [`Exec::user`].
        owner: Option<String>,
    },
    /// Removes a file, or a directory with its contents.
    Remove {
        /// The path of the file or directory.
        path: Name,
    },
    /// Connects to a server inside, on its loopback address or any other. `Data` frames
    /// follow in both directions, in each up to `DataEnd`.
    Connect {
        /// The port on which the server listens.
        port: u16,
    },
    /// Runs code in a context.
    Code(Code),
    /// Returns the contexts.
    Contexts,
    /// Creates a context.
    CreateContext(NewContext),
    /// Ends the interpreter of a context and starts another one. A cell in it ends with
    /// an error.
    RestartContext {
        /// The id of the context.
        id: String,
    },
    /// Interrupts the cell of a context, if one runs.
    InterruptContext {
        /// The id of the context.
        id: String,
    },
    /// Ends the interpreter of a context and forgets the context.
    RemoveContext {
        /// The id of the context.
        id: String,
    },
    /// Returns the state of the agent and figures of the sandbox.
    Info,
    /// Configures a new sandbox, or a copy of another. The engine's first request.
    Configure(Configure),
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The program and its arguments. A name without a slash is searched in the `PATH`
    /// of `env`.
    pub argv: Vec<String>,
    /// Its environment. `PATH`, `HOME`, `USER` and, with a terminal, `TERM` have
    /// defaults.
    pub env: Vec<(String, String)>,
    /// Its working directory; by default the user's home directory if it exists, else
    /// `/`.
    pub cwd: Option<String>,
    /// The user that it runs as: a name or number, and after a colon a group; root by
    /// default.
    pub user: Option<String>,
    /// The time in milliseconds after which it is killed, with all processes that it
    /// has started; no limit by default.
    pub timeout_ms: Option<u64>,
    /// The size of its terminal, which replaces the three pipes.
    pub pty: Option<Size>,
    /// True if the client sends its standard input; otherwise it is empty.
    pub stdin: bool,
    /// An unguessable token with which a client can attach to it after it was detached
    /// by [`Request::Freeze`]. Without a token it is not detached.
    pub token: Option<String>,
}

/// A shell that keeps its state between commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shell {
    /// Its environment, with the defaults of [`Exec::env`].
    pub env: Vec<(String, String)>,
    /// Its initial working directory, as in [`Exec::cwd`].
    pub cwd: Option<String>,
    /// The user that it runs as, as in [`Exec::user`].
    pub user: Option<String>,
    /// An unguessable token with which a client can attach to it for ten minutes after
    /// its connection ended.
    pub token: String,
}

/// A command for a shell, which runs one at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The text of the command, of any number of lines.
    pub command: String,
    /// The time in milliseconds after which it is interrupted and the processes that it
    /// started are killed; no limit by default. The shell keeps running.
    pub timeout_ms: Option<u64>,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// The number of lines.
    pub rows: u16,
    /// The number of characters in a line.
    pub cols: u16,
}

/// A file to write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WriteFile {
    /// The path of the file. Missing parent directories are created. An existing file
    /// is replaced atomically when all data has been written; a symbolic link is
    /// followed.
    pub path: Name,
    /// Its permissions; by default those of the file that it replaces, or `0o644`.
    pub mode: Option<u32>,
    /// The owner of the file and of new directories, in the form of [`Exec::user`].
    pub owner: Option<String>,
}

/// The configuration of a sandbox, sent by an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configure {
    /// Its host name.
    pub hostname: Option<String>,
    /// The maximum number of processes and threads, without the agent's.
    pub pids: Option<u32>,
    /// The number of CPUs that programs see and run on. There may be more, where the
    /// kernel of a sandbox needs a second one.
    pub vcpus: Option<u32>,
    /// The address of its DNS resolver. Its `/etc/resolv.conf` is replaced.
    pub nameserver: Option<std::net::Ipv4Addr>,
    /// True if it is a copy of another sandbox or was restored itself: then random
    /// numbers that user space keeps have to be renewed.
    pub restored: bool,
}

/// The exit status of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// It was killed because it reached its time limit.
    TimedOut,
}

impl Status {
    /// Returns the exit code that a shell would report: 128 and the signal's number for
    /// a signal, 124 for a timeout.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut => 124,
        }
    }
}

/// The reply to every request but [`Request::Exec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The file was written.
    Written {
        /// The number of bytes.
        bytes: u64,
    },
    /// The file that the following `Data` frames contain.
    File(Metadata),
    /// One part of the names in a directory; the last part is empty.
    Entries(Vec<Entry>),
    /// The metadata of a file.
    Stat(Metadata),
    /// The request was executed.
    Done,
    /// The state of the agent and figures of the sandbox.
    Info(Info),
    /// All contexts, in the order of their ids.
    Contexts(Vec<ContextInfo>),
    /// A context that was created or restarted.
    Context(ContextInfo),
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last component of its path.
    pub name: Name,
    /// Its metadata; a symbolic link is not followed.
    pub metadata: Metadata,
}

/// The metadata of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Its type.
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// The last twelve bits of its mode: the permissions.
    pub mode: u32,
    /// The user id of its owner.
    pub uid: u32,
    /// The id of its group.
    pub gid: u32,
    /// The time of the last modification, in seconds since 1970.
    pub modified: i64,
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Other,
}

/// The state of the agent and figures of the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// The version of the agent program.
    pub agent: String,
    /// The number of programs that run for a client.
    pub execs: u32,
    /// The number of processes inside, the agent included.
    pub processes: u32,
    /// The number of processes and threads of programs inside, as limited by
    /// [`Configure::pids`]. An older agent does not send it.
    pub pids: Option<u32>,
    /// The bytes on disk of files that were written inside.
    pub disk_used: u64,
}

/// The reason why the agent could not execute a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// The message, for people.
    pub message: String,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The path, program or user does not exist.
    NotFound,
    /// The sandbox's own permissions or a read-only file system do not allow it.
    PermissionDenied,
    /// It is a directory, but something else is required.
    IsADirectory,
    /// It is not a directory, but one is required.
    NotADirectory,
    /// It is a device, pipe or socket.
    NotAFile,
    /// The file exists already.
    AlreadyExists,
    /// The sandbox's disk is full.
    NoSpace,
    /// The limit of processes is reached, or there is too little memory to start one.
    NoResources,
    /// The request is invalid; the message names the error.
    Invalid,
    /// There is no context with that id.
    NoContext,
    /// The context runs a cell.
    ContextBusy,
    /// The image has no interpreter of the language.
    NoInterpreter,
    /// The limit of contexts is reached.
    TooManyContexts,
    /// The client and the agent have no common protocol version.
    Version,
    /// Any other error.
    #[serde(other)]
    Other,
}

/// The name of a file, which on Linux may be any bytes.
///
/// In messages it is a string if it is valid UTF-8, or else a list of bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "NameForm", into = "NameForm")]
pub struct Name(Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NameForm {
    Text(String),
    Bytes(Vec<u8>),
}

impl Name {
    /// Returns the bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the name as text, with replacement characters for bytes that are not
    /// valid UTF-8.
    #[must_use]
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

impl<T: Into<Vec<u8>>> From<T> for Name {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl From<NameForm> for Name {
    fn from(form: NameForm) -> Self {
        match form {
            NameForm::Text(text) => Self(text.into_bytes()),
            NameForm::Bytes(bytes) => Self(bytes),
        }
    }
}

impl From<Name> for NameForm {
    fn from(name: Name) -> Self {
        match String::from_utf8(name.0) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes(error.into_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_common_version_is_chosen() {
        for (oldest, newest, expected) in [
            (VERSION, VERSION, Some(VERSION)),
            (OLDEST_VERSION, VERSION + 7, Some(VERSION)),
            (VERSION + 1, VERSION + 7, None),
            (0, OLDEST_VERSION - 1, None),
            (7, 3, None),
        ] {
            assert_eq!(Hello { oldest, newest }.common(), expected, "{oldest} to {newest}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        for (name, json) in [(&b"a\xc3\xa4"[..], "\"a\u{e4}\""), (b"\xff/a", "[255,47,97]")] {
            let name = Name::from(name);
            let text = serde_json::to_string(&name).unwrap();
            assert_eq!(text, json);
            assert_eq!(serde_json::from_str::<Name>(&text).unwrap(), name);
        }
    }

    #[test]
    fn unknown_fields_and_kinds_are_accepted() {
        let text = r#"{"exec": {"argv": ["true"], "mood": "good"}}"#;
        let Request::Exec(exec) = serde_json::from_str(text).unwrap() else { panic!() };
        assert_eq!(exec.argv, ["true"]);
        let text = r#"{"kind": "from_the_future", "message": "m"}"#;
        assert_eq!(serde_json::from_str::<Failure>(text).unwrap().kind, FailureKind::Other);
    }
}
