//! Runs: requests to create and change them, descriptions, and statistics. A run is a
//! sandbox together with its settings and its history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object;
use crate::RunId;

/// A request to create a run. Numbers have wide types here, so that an error about one
/// that is out of range names the field and not the type.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// An OCI image such as `python:3.12`, or `host`: the machine's own programs, read-only.
    #[schema(example = "host")]
    pub image: String,
    /// Number of virtual CPUs; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<i64>,
    /// Memory in MiB; 1024 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_mib: Option<i64>,
    /// Limit of data written to its disk, in MiB; 10240 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<i64>,
    /// Idle timeout in seconds, after which `on_idle` applies: 300 by default, 0 or -1 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// Environment variables of all commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The action after the idle timeout; `destroy` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<OnIdle>,
    /// If true, a command or a file transfer resumes the run when it is hibernated. If false, the
    /// default, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Access to its anonymous URLs: `open`, the default, for everyone who knows its id; `token`
    /// for those who have the token that is part of `port_url` in the response; `off` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<String>,
    /// Network rules, instead of a profile.
    #[serde(
        default,
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub network: Option<NetworkRules>,
    /// A network profile: `default`, the web; `internet`, the public internet; `locked-down`, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_profile: Option<String>,
    /// Secrets that a proxy outside of the sandbox adds to requests, by the names of the
    /// environment variables that programs read them from: a string for a known variable such as
    /// `OPENAI_API_KEY`, or an object with `value`, `host` and optionally `port`, `header`,
    /// `prefix`, `methods`, `paths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<BTreeMap<String, serde_json::Value>>,
}

/// Explicit network rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRules {
    /// Destinations that it may connect to.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// Destinations that it may not connect to.
    #[serde(default)]
    pub deny: Option<Vec<String>>,
}

/// New network rules of a run: lists, or a profile. The response of `GET` is accepted, too.
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
    /// The name of a profile, as in the response of `GET`; null for lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The default action for destinations that no rule matches: `denied`, `web` or `allowed`. By
    /// default `allowed` with `deny` alone, and `denied` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
    /// The same as `network.allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// The same as `network.deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
    /// The names of the run's credentials, as in the response of `GET`. They cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<String>>,
}

/// The network rules of a run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// The name of a profile; null for lists.
    pub profile: Option<String>,
    /// The default action for destinations that no rule matches: `denied`, `web` or `allowed`.
    pub rest: String,
    /// Destinations that it may connect to.
    pub allow: Vec<String>,
    /// Destinations that it may not connect to. Takes precedence over `allow`.
    pub deny: Vec<String>,
    /// The names of its credentials.
    pub credentials: Vec<String>,
}

/// A predefined set of network rules.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// The name.
    pub name: String,
    /// A description.
    pub description: String,
    /// Destinations that a run may connect to.
    pub allow: Vec<String>,
    /// Destinations that a run may not connect to.
    pub deny: Vec<String>,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// The id: `run` and 16 hex digits.
    #[schema(value_type = String, example = "run0123456789abcdef")]
    pub id: RunId,
    /// The status.
    pub status: Status,
    /// The image that it was created from.
    pub image: String,
    /// The region of the server.
    pub region: String,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub mem_mib: u64,
    /// Limit of data written to its disk, in MiB.
    pub disk_mib: u64,
    /// The time that it took to create, in milliseconds.
    pub create_ms: u64,
    /// The time of creation, as RFC 3339.
    pub created_at: String,
    /// Idle timeout in seconds, after which `on_idle` applies; 0 for none.
    pub timeout: f64,
    /// The URL of its ports for access without an API key, with `{port}` in place of the port: a
    /// full URL, or a path on this server. Absent if its owner or the server has disabled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/sb/run0123456789abcdef/p/{port}/")]
    pub port_url: Option<String>,
    /// The action after the idle timeout.
    #[serde(default)]
    pub on_idle: OnIdle,
    /// True if a command or a file transfer resumes it when it is hibernated.
    #[serde(default)]
    pub auto_resume: bool,
}

/// The action after the idle timeout of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnIdle {
    /// The run is destroyed.
    #[default]
    Destroy,
    /// The run is hibernated: written to disk until it is resumed.
    Hibernate,
}

impl OnIdle {
    /// Returns the name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Hibernate => "hibernate",
        }
    }

    /// Returns the value with this name in the API.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Destroy, Self::Hibernate].into_iter().find(|action| action.name() == name)
    }
}

/// The status of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The sandbox is being created.
    Creating,
    /// The sandbox is running and accepts commands.
    Running,
    /// The sandbox is on disk and accepts no commands until it is resumed.
    Hibernated,
    /// The sandbox exited unexpectedly. The run can only be destroyed.
    Failed,
    /// The run was destroyed.
    Destroyed,
}

impl Status {
    /// Returns the name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Hibernated => "hibernated",
            Self::Failed => "failed",
            Self::Destroyed => "destroyed",
        }
    }

    /// Returns the value with this name in the API.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Creating, Self::Running, Self::Hibernated, Self::Failed, Self::Destroyed]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

/// The caller's runs that were not destroyed, the oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    /// The runs.
    pub runs: Vec<Run>,
}

/// A request to change a run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Idle timeout in seconds, 0 or -1 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// New network rules.
    #[serde(
        default,
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub network: Option<NetworkRules>,
    /// New network rules, by the name of a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_profile: Option<String>,
}

/// Measured resource usage of a run that was destroyed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DestroyStats {
    /// `destroyed`.
    pub status: Status,
    /// CPU time of all its processes, in milliseconds.
    pub cpu_ms: u64,
    /// Peak memory usage.
    pub mem_peak_bytes: u64,
    /// Data written to its disk.
    pub disk_used_bytes: u64,
    /// Time from creation to destruction, in milliseconds.
    pub uptime_ms: u64,
    /// Always 0: the server does not bill.
    pub cost_cents: f64,
}

/// Current resource usage of a run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunStats {
    /// CPU time of all its processes, in milliseconds.
    pub cpu_ms: u64,
    /// Current memory usage.
    pub mem_bytes: u64,
    /// Peak memory usage.
    pub mem_peak_bytes: u64,
    /// Data written to its disk.
    pub disk_used_bytes: u64,
    /// Number of processes.
    pub pids: u64,
    /// Time since creation, in milliseconds.
    pub uptime_ms: u64,
}

/// The entries of a directory.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Entries {
    /// Names without the directory, sorted bytewise. Bytes that are not UTF-8 become U+FFFD.
    pub entries: Vec<String>,
    /// The same names in the same order, percent-encoded for use in a query. Present only if one
    /// of them is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_entries: Option<Vec<String>>,
}

/// The result of an upload.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The path of the file.
    pub path: String,
    /// The size of the file, in bytes.
    pub size: u64,
}

/// The health of the server.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The server's version.
    pub version: String,
}

/// The readiness of the server for new runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// `ready`, or the reason why the server is not ready, such as `stopping`.
    pub status: String,
    /// The name and version of the sandbox engine.
    pub engine: String,
    /// The isolation mechanism of the engine.
    pub isolation: String,
    /// What runs can be created from: `linux` for OCI images and `host`, and the images of
    /// interpreters, such as `isola:python`.
    #[serde(default)]
    pub offers: Vec<String>,
}
