//! What a server is told when it starts, checked.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Where clients look for a server that they were not told about.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7676";

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    /// Certificate chain and private key, both as PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub data_dir: PathBuf,
    pub region: String,
    pub limits: Limits,
    pub pulls: Pulls,
    pub urls: Urls,
    pub network: Network,
    /// Whether sandboxes live on when the server stops.
    pub keep_sandboxes: bool,
    /// How many sandboxes are made before anybody asks for them.
    pub warm: usize,
    /// How many containers wait for a checkpoint to be restored in them.
    pub warm_copies: usize,
    /// Whether to write the local client configuration when there is none.
    pub write_client_config: bool,
}

/// What all runs' networks share.
#[derive(Clone, Debug)]
pub struct Network {
    /// Resolvers to ask; those of the machine if there are none.
    pub resolvers: Vec<SocketAddr>,
    /// Ranges that are not public and that rules may name all the same.
    pub permitted: Vec<ipnet::Ipv4Net>,
    /// Certificates of authorities that vouch for hosts of credentials.
    pub extra_roots: Option<PathBuf>,
    /// How long such a host may take until its answer begins.
    pub patience: Duration,
    pub blocks: super::network::Blocks,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            permitted: Vec::new(),
            extra_roots: None,
            patience: Duration::from_secs(600),
            blocks: super::network::Blocks::default(),
        }
    }
}

/// How ports of runs are reached from outside.
#[derive(Clone, Debug, Default)]
pub struct Urls {
    /// Whether there are URLs that need no API key.
    pub anonymous: bool,
    /// The name below which each run has its own.
    pub domain: Option<String>,
    /// The same with its scheme and port, such as `https://sandboxes.example`:
    /// those that clients see.
    pub base: Option<(String, String)>,
}

/// Which images that are not here yet are fetched.
#[derive(Clone, Debug)]
pub enum Pulls {
    Never,
    /// From these registries.
    From(Vec<String>),
    Anywhere,
}

/// What callers may use.
#[derive(Clone, Debug)]
pub struct Limits {
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    /// Processes and threads of one sandbox.
    pub pids: u32,
    /// Runs of one tenant at the same time.
    pub runs: usize,
    /// Commands, terminals and transfers of one run at the same time.
    pub execs: usize,
    /// Requests of one key in a second, over time.
    pub requests: u32,
    /// Requests of all callers at the same time.
    pub in_flight: usize,
    /// Each of standard output and standard error, in one answer.
    pub output: usize,
    /// One uploaded file.
    pub upload: u64,
    /// How long requests may still go on when the server stops.
    pub grace: Duration,
}

impl Config {
    /// For a command that brings its own server: one user, a few requests.
    pub fn embedded(data_dir: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            data_dir,
            region: "local".to_owned(),
            limits: Limits {
                vcpus: u32::MAX,
                mem_mib: u64::MAX >> 20,
                disk_mib: u64::MAX >> 20,
                pids: 512,
                runs: 1,
                execs: 256,
                requests: 1000,
                in_flight: 4096,
                output: 8 << 20,
                upload: 4 << 30,
                grace: Duration::from_secs(1),
            },
            pulls: Pulls::Anywhere,
            network: Network::default(),
            urls: Urls { anonymous: false, ..Urls::default() },
            keep_sandboxes: false,
            warm: 0,
            warm_copies: 2,
            write_client_config: false,
        }
    }
}

/// The largest body of a request that is JSON.
pub const MAX_JSON: usize = 1 << 20;
/// Of a run that asks for nothing else.
pub const DEFAULT_VCPUS: u32 = 1;
pub const DEFAULT_MEM_MIB: u64 = 1024;
pub const DEFAULT_DISK_MIB: u64 = 10240;
pub const DEFAULT_IDLE: Duration = Duration::from_secs(300);
/// Of a command that asks for nothing else.
pub const DEFAULT_EXEC_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer timeouts than a year are mistakes.
pub const MAX_SECONDS: f64 = 366.0 * 86400.0;
