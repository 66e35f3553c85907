//! The options of `isorun serve` for the limits that all tenants share.

use std::{path::Path, time::Duration};

use super::create::duration;
use isorun_server::config::{Pace, ServerLimits};

#[derive(clap::Args)]
#[command(next_help_heading = "Limits of the server, shared by its tenants")]
pub struct ServerLimitArgs {
    /// The share of one tenant of each of these limits, and of the disk, memory and processes of
    /// this machine, in percent
    #[arg(long, value_name = "PERCENT", default_value = "50", value_parser = clap::value_parser!(u8).range(1..=100))]
    tenant_share: u8,

    /// Maximum number of sandboxes of all tenants, running or hibernated [default: 1000, or fewer
    /// if the limit of open files is low]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    max_sandboxes: Option<u64>,

    /// Maximum number of snapshots of all tenants
    #[arg(long, value_name = "NUMBER", default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    max_snapshots: u64,

    /// Maximum number of images that are pulled at the same time
    #[arg(long, value_name = "NUMBER", default_value = "8", value_parser = clap::value_parser!(u64).range(1..))]
    max_pulls: u64,

    /// Maximum memory for request bodies and for output in responses, in MiB [default: a sixteenth
    /// of this machine's, 64 to 1024]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..1 << 30))]
    max_held_memory_mib: Option<u64>,

    /// Disk space to keep free, in MiB: below it nothing is created, and the largest sandbox of the
    /// tenant with the highest usage is terminated [default: a twentieth of the file system, 512
    /// to 4096]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..1 << 30))]
    disk_reserve_mib: Option<u64>,

    /// Memory to keep free, in MiB, in the same way [default: a twentieth of this machine's, 128 to
    /// 2048]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..1 << 30))]
    mem_reserve_mib: Option<u64>,

    /// Number of processes and threads of this machine to keep free, in the same way [default: a
    /// tenth of those that the kernel allows, 512 to 8192]
    #[arg(long, value_name = "NUMBER")]
    pids_reserve: Option<u64>,

    /// Maximum number of connections of clients, of which a quarter is for those that have not sent
    /// a key [default: a quarter of the limit of open files, at most 16384]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(8..))]
    max_connections: Option<u64>,

    /// Maximum number of connections of one address that have not sent a key; one more closes the
    /// oldest
    #[arg(long, value_name = "NUMBER", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_address: u32,

    /// Maximum time from the opening of a connection to the end of the head of its first request
    #[arg(long, value_name = "DURATION", value_parser = time_limit, default_value = "10s")]
    head_timeout: Duration,

    /// Maximum time that a connection is kept without a request
    #[arg(long, value_name = "DURATION", value_parser = time_limit, default_value = "60s")]
    idle_timeout: Duration,

    /// Maximum time that a connection is kept without a request with a key
    #[arg(long, value_name = "DURATION", value_parser = time_limit, default_value = "2m")]
    key_timeout: Duration,

    /// Maximum time for which a client may read nothing of a response that is ready
    #[arg(long, value_name = "DURATION", value_parser = time_limit, default_value = "60s")]
    answer_timeout: Duration,

    /// Maximum time for which a client may send nothing of a body
    #[arg(long, value_name = "DURATION", value_parser = time_limit, default_value = "15s")]
    body_timeout: Duration,

    /// Minimum average rate of a body, in bytes per second
    #[arg(long, value_name = "BYTES", default_value = "1024")]
    min_body_rate: u64,

    /// The time for which destroyed sandboxes are kept in the history, with their audit logs
    #[arg(long, value_name = "DURATION", value_parser = time_limit, default_value = "365d")]
    keep_history: Duration,

    /// Maximum number of destroyed sandboxes of a tenant in the history
    #[arg(long, value_name = "NUMBER", default_value = "100000")]
    max_history: u64,
}

fn time_limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("the duration is 0: specify a longer one".to_owned()),
        limit => Ok(limit),
    }
}

impl ServerLimitArgs {
    /// Returns the limits on this machine, for a server with this data directory.
    pub fn limits(&self, data_dir: &Path) -> ServerLimits {
        let defaults = ServerLimits::of_machine(data_dir);
        let bytes = |mib: Option<u64>, default| mib.map_or(default, |mib| mib << 20);
        ServerLimits {
            tenant_share: self.tenant_share,
            sandboxes: self.max_sandboxes.unwrap_or(defaults.sandboxes),
            snapshots: self.max_snapshots,
            pulls: self.max_pulls,
            held_memory: bytes(self.max_held_memory_mib, defaults.held_memory),
            disk_reserve: bytes(self.disk_reserve_mib, defaults.disk_reserve),
            mem_reserve: bytes(self.mem_reserve_mib, defaults.mem_reserve),
            pids_reserve: self.pids_reserve.unwrap_or(defaults.pids_reserve),
            descriptors: defaults.descriptors,
            connections: self.max_connections.unwrap_or(defaults.connections),
            connections_per_address: self.max_connections_per_address.try_into().unwrap_or(1),
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            unauthenticated_lifetime: self.key_timeout,
            write_stall: self.answer_timeout,
            body_pace: Pace { stall: self.body_timeout, min_rate: self.min_body_rate },
            history_age: self.keep_history,
            history_runs: self.max_history,
        }
    }
}
