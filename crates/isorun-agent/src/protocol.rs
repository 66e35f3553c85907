//! The messages, without any I/O.
//!
//! Requests and answers are JSON objects in which unknown fields are ignored,
//! so that either side may know more than the other. A change that an old side
//! would misunderstand raises [`VERSION`]; each side says which versions it
//! speaks, and the highest common one is spoken.

use serde::{Deserialize, Serialize};

/// The newest version that this library speaks.
pub const VERSION: u32 = 1;
/// The oldest version that this library speaks.
pub const OLDEST_VERSION: u32 = 1;
/// Where the agent listens, inside of each sandbox.
pub const PORT: u16 = 1;
/// How much standard input a client may send before the agent has said that the
/// program took it.
pub const STDIN_WINDOW: usize = 256 * 1024;

/// The client's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version that it speaks.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

impl Hello {
    /// What this library says.
    pub const OURS: Self = Self { oldest: OLDEST_VERSION, newest: VERSION };

    /// The version to speak with that client, if there is one.
    #[must_use]
    pub fn common(&self) -> Option<u32> {
        let version = self.newest.min(VERSION);
        (version >= self.oldest.max(OLDEST_VERSION)).then_some(version)
    }
}

/// The agent's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken.
    pub version: u32,
    /// The agent's own release.
    pub agent: String,
}

/// What a client asks, once on each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a program.
    Exec(Exec),
    /// Start a shell that runs one command after the other.
    Shell(Shell),
    /// Go on with a program or shell that another connection was detached from.
    Attach {
        /// Its name, from [`Exec::token`] or [`Shell::token`].
        token: String,
    },
    /// Get ready for a checkpoint: programs that can be attached to are detached,
    /// and the answer comes when no other connection is left. What is asked next
    /// ends that state.
    Freeze,
    /// Write a file from the `Data` frames that follow, up to `DataEnd`.
    WriteFile(WriteFile),
    /// Read a file, as `Reply::File` and `Data` frames up to `DataEnd`.
    ReadFile {
        /// Which one.
        path: Name,
    },
    /// The names in a folder.
    List {
        /// Which one.
        path: Name,
    },
    /// What there is under a path; of a symbolic link, what it leads to.
    Stat {
        /// Which one.
        path: Name,
    },
    /// Make a folder, and those above it.
    MakeDir {
        /// Which one.
        path: Name,
        /// Its permissions; `0o755` by default. Those above it get the default.
        mode: Option<u32>,
        /// Whom it belongs to, as in [`Exec::user`].
        owner: Option<String>,
    },
    /// Remove a file, or a folder with all that is in it.
    Remove {
        /// Which one.
        path: Name,
    },
    /// Connect to a server that listens inside, on its loopback address or any
    /// other; then `Data` both ways, each way up to `DataEnd`.
    Connect {
        /// Where it listens.
        port: u16,
    },
    /// Whether the agent is well, and what goes on.
    Info,
    /// The first word of an engine to a new sandbox, or to a copy of another.
    Configure(Configure),
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The program and its arguments. A name without a slash is looked for in
    /// the `PATH` of `env`.
    pub argv: Vec<String>,
    /// Its environment. `PATH`, `HOME`, `USER` and, with a terminal, `TERM` have
    /// defaults.
    pub env: Vec<(String, String)>,
    /// Its working directory; the user's home if it exists, else `/`, by
    /// default.
    pub cwd: Option<String>,
    /// Whom it runs as: a name or number, and after a colon a group; root by
    /// default.
    pub user: Option<String>,
    /// After how long it is killed, with all that it has started; never by
    /// default.
    pub timeout_ms: Option<u64>,
    /// A terminal of this size instead of three pipes.
    pub pty: Option<Size>,
    /// Whether its standard input is what the client sends; otherwise it is
    /// empty.
    pub stdin: bool,
    /// A name that nobody can guess, under which it can be attached to after it
    /// was detached by [`Request::Freeze`]. Without one it is not detached.
    pub token: Option<String>,
}

/// A shell that stays, to be given commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shell {
    /// Its environment, with the defaults of [`Exec::env`].
    pub env: Vec<(String, String)>,
    /// Its first working directory, as in [`Exec::cwd`].
    pub cwd: Option<String>,
    /// Whom it runs as, as in [`Exec::user`].
    pub user: Option<String>,
    /// A name that nobody can guess, under which it can be attached to for ten
    /// minutes after its connection ended.
    pub token: String,
}

/// A command for a shell. One at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// Any number of lines.
    pub command: String,
    /// After how long it is interrupted, and what it started is killed; never by
    /// default. The shell stays.
    pub timeout_ms: Option<u64>,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in each.
    pub cols: u16,
}

/// A file to write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WriteFile {
    /// Which one. Folders above it are made. An existing file is replaced at
    /// once when all has been written; a symbolic link is followed.
    pub path: Name,
    /// Its permissions; those of the file that it replaces, or `0o644`, by
    /// default.
    pub mode: Option<u32>,
    /// Whom it and new folders belong to, as in [`Exec::user`].
    pub owner: Option<String>,
}

/// What an engine tells a new sandbox about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configure {
    /// Its name in the network.
    pub hostname: Option<String>,
    /// Processes and threads at the same time, the agent not counted.
    pub pids: Option<u32>,
    /// CPUs that programs see and run on. There may be more, where the kernel of a
    /// sandbox has to have a second one.
    pub vcpus: Option<u32>,
    /// Who resolves names for it. Its `/etc/resolv.conf` is replaced.
    pub nameserver: Option<std::net::Ipv4Addr>,
    /// Whether it is a copy of another sandbox, or one that comes back: then
    /// random numbers that user space keeps are to be renewed.
    pub restored: bool,
}

/// What a program that ran came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ended by itself with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It was killed because its time was over.
    TimedOut,
}

impl Status {
    /// The code that a shell would show: 128 and the signal's number for a
    /// signal, 124 for a timeout.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut => 124,
        }
    }
}

/// The answer to everything but [`Request::Exec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// All has been written.
    Written {
        /// How many bytes.
        bytes: u64,
    },
    /// The file whose `Data` follows.
    File(Metadata),
    /// One part of the names in a folder; the last one is empty.
    Entries(Vec<Entry>),
    /// What there is.
    Stat(Metadata),
    /// It was done.
    Done,
    /// What goes on.
    Info(Info),
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last part of its path.
    pub name: Name,
    /// What it is; a symbolic link is a symbolic link here.
    pub metadata: Metadata,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Bytes in it.
    pub size: u64,
    /// Permissions, the last twelve bits.
    pub mode: u32,
    /// Whom it belongs to.
    pub uid: u32,
    /// And which group.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub modified: i64,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Bytes.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Other,
}

/// What goes on in a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// The agent's own release.
    pub agent: String,
    /// Programs that run for a client.
    pub execs: u32,
    /// Processes inside, the agent included.
    pub processes: u32,
    /// Processes and threads of programs inside, as [`Configure::pids`] limits
    /// them. An older agent does not tell.
    pub pids: Option<u32>,
    /// Bytes that files take which were written inside.
    pub disk_used: u64,
}

/// Why the agent could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// There is nothing under that path, or no such program or user.
    NotFound,
    /// The sandbox's own permissions forbid it, or a file system that is
    /// read-only.
    PermissionDenied,
    /// It is a folder, and something else is wanted.
    IsADirectory,
    /// Something else is where a folder is wanted.
    NotADirectory,
    /// It is a device, pipe or socket.
    NotAFile,
    /// There is something already.
    AlreadyExists,
    /// The sandbox's disk is full.
    NoSpace,
    /// Too many processes, or too little memory to start one.
    NoResources,
    /// The request makes no sense; the message says where.
    Invalid,
    /// Neither side's versions are spoken by the other.
    Version,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// A name of a file, which on Linux need not be text.
///
/// In messages it is text if it can be, or else a list of bytes.
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
    /// The bytes of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text, in which what is no text is replaced.
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
    fn the_highest_common_version_is_spoken() {
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
    fn names_need_not_be_text() {
        for (name, json) in [(&b"a\xc3\xa4"[..], "\"a\u{e4}\""), (b"\xff/a", "[255,47,97]")] {
            let name = Name::from(name);
            let text = serde_json::to_string(&name).unwrap();
            assert_eq!(text, json);
            assert_eq!(serde_json::from_str::<Name>(&text).unwrap(), name);
        }
    }

    #[test]
    fn a_newer_side_may_say_more() {
        let text = r#"{"exec": {"argv": ["true"], "mood": "good"}}"#;
        let Request::Exec(exec) = serde_json::from_str(text).unwrap() else { panic!() };
        assert_eq!(exec.argv, ["true"]);
        let text = r#"{"kind": "from_the_future", "message": "m"}"#;
        assert_eq!(serde_json::from_str::<Failure>(text).unwrap().kind, FailureKind::Other);
    }
}
