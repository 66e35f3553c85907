//! Runs: what asks for one, what describes one, what is left of one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object;
use crate::id::RunId;

/// What asks for a run. Numbers are wide here, so that an absurd one is refused
/// by its name and not by its type.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// An OCI image such as `python:3.12`, or `host`: the machine's own programs, read-only.
    #[schema(example = "host")]
    pub image: String,
    /// Virtual CPUs; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<i64>,
    /// Memory in MiB; 1024 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_mib: Option<i64>,
    /// What may be written to its disk, in MiB; 10240 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<i64>,
    /// Seconds without activity until it is destroyed: 300 if not given, 0 or -1 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// Environment variables of every command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// What becomes of it when it was idle for too long; it is destroyed if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<OnIdle>,
    /// Whether a command or a file wakes it when it is hibernated; if not, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Who may use its anonymous URLs: `open`, whoever knows its id, if not given; `token`, who
    /// has a token that the answer's `port_url` holds; `off`, nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<String>,
    /// Where it may connect to, instead of a profile.
    #[serde(
        default,
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub network: Option<NetworkRules>,
    /// `default`, the web; `internet`, all of the public internet; `locked-down`, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_profile: Option<String>,
    /// Secrets that a proxy adds outside of the sandbox, by the variables that programs read them
    /// from: a text for a service that is known by its variable, such as `OPENAI_API_KEY`, or an
    /// object with `value`, `host` and perhaps `port`, `header`, `prefix`, `methods`, `paths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<BTreeMap<String, serde_json::Value>>,
}

/// Explicit network rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRules {
    /// Where it may connect to.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// Where it may not.
    #[serde(default)]
    pub deny: Option<Vec<String>>,
}

/// What a run may reach from now on: rules, or a profile. What `GET` answers is taken, too.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkChange {
    /// Lists of rules.
    #[serde(
        default,
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub network: Option<NetworkRules>,
    /// The name of a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_profile: Option<String>,
    /// The name of a profile, as `GET` has it; null for lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What becomes of that which no rule in the lists names: `denied`, `web` or `allowed`. If not
    /// given, `allowed` with `deny` alone and `denied` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
    /// The same as `network.allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// The same as `network.deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
    /// The names of the run's credentials, as `GET` has them. They cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<String>>,
}

/// What a run may reach.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// The name of a profile; nothing for lists.
    pub profile: Option<String>,
    /// What becomes of that which no rule names: `denied`, `web` or `allowed`.
    pub rest: String,
    /// Where it may connect to.
    pub allow: Vec<String>,
    /// Where it may not; goes before `allow`.
    pub deny: Vec<String>,
    /// The names of its credentials.
    pub credentials: Vec<String>,
}

/// A ready choice of rules.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// What to ask for it by.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Where one may connect to.
    pub allow: Vec<String>,
    /// Where one may not.
    pub deny: Vec<String>,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// `run` and 16 hex digits.
    #[schema(value_type = String, example = "run0123456789abcdef")]
    pub id: RunId,
    /// What it is doing.
    pub status: Status,
    /// The image that it was made from.
    pub image: String,
    /// Where the server says it is.
    pub region: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub mem_mib: u64,
    /// What may be written to its disk, in MiB.
    pub disk_mib: u64,
    /// How long it took to create, in milliseconds.
    pub create_ms: u64,
    /// When it was created, as in RFC 3339.
    pub created_at: String,
    /// Seconds without activity until it is destroyed, or hibernated; 0 for never.
    pub timeout: f64,
    /// Where its ports are reached without a key, with `{port}` in place of the port: a URL, or a
    /// path on this server. Not there if its owner or the server has switched that off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/sb/run0123456789abcdef/p/{port}/")]
    pub port_url: Option<String>,
    /// What becomes of it then.
    #[serde(default)]
    pub on_idle: OnIdle,
    /// Whether a command or a file wakes it when it is hibernated.
    #[serde(default)]
    pub auto_resume: bool,
}

/// What becomes of a run that was idle for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnIdle {
    /// It goes.
    #[default]
    Destroy,
    /// It is put on disk, until it is resumed.
    Hibernate,
}

impl OnIdle {
    pub fn name(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Hibernate => "hibernate",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Destroy, Self::Hibernate].into_iter().find(|what| what.name() == name)
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being made.
    Creating,
    /// It takes commands.
    Running,
    /// It is on disk and takes no commands until it is resumed.
    Hibernated,
    /// Its sandbox died by itself; it can only be destroyed.
    Failed,
    /// It is gone.
    Destroyed,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Hibernated => "hibernated",
            Self::Failed => "failed",
            Self::Destroyed => "destroyed",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Creating, Self::Running, Self::Hibernated, Self::Failed, Self::Destroyed]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

/// The caller's runs that are not destroyed, the oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    pub runs: Vec<Run>,
}

/// What can be changed of a run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Seconds without activity until it is destroyed, 0 or -1 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// Where it may connect to from now on.
    #[serde(
        default,
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub network: Option<NetworkRules>,
    /// The same, by the name of a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_profile: Option<String>,
}

/// What a run used, measured, when it is destroyed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DestroyStats {
    /// `destroyed`.
    pub status: Status,
    /// CPU time of everything in it, in milliseconds.
    pub cpu_ms: u64,
    /// The most memory that it held at once.
    pub mem_peak_bytes: u64,
    /// What it had written to its disk.
    pub disk_used_bytes: u64,
    /// From create to destroy, in milliseconds.
    pub uptime_ms: u64,
    /// Always 0: it is your machine.
    pub cost_cents: f64,
}

/// What a run uses now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunStats {
    /// CPU time of everything in it, in milliseconds.
    pub cpu_ms: u64,
    /// The memory that it holds.
    pub mem_bytes: u64,
    /// The most memory that it held at once.
    pub mem_peak_bytes: u64,
    /// What it has written to its disk.
    pub disk_used_bytes: u64,
    /// Processes.
    pub pids: u64,
    /// Since it was created, in milliseconds.
    pub uptime_ms: u64,
}

/// What is in a folder.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Entries {
    /// Names without their folder, sorted by their bytes. What is not UTF-8 is replaced by U+FFFD.
    pub entries: Vec<String>,
    /// The same names in the same order, percent-encoded as a query takes them; only if one of
    /// them is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_entries: Option<Vec<String>>,
}

/// What an upload wrote.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// Where.
    pub path: String,
    /// How much.
    pub size: u64,
}

/// The server answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The server's version.
    pub version: String,
}

/// Whether the server takes new runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// `ready`, or `stopping`.
    pub status: String,
    /// What runs the sandboxes.
    pub engine: String,
    /// What keeps a guest in.
    pub isolation: String,
}
