//! `isorun serve`.

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::ValueEnum;
use isorun_api::DEFAULT_ADDRESS;
use isorun_engine::SandboxSpec;
use isorun_server::{
    Listening, Server,
    config::{
        BlobConfig, ClusterConfig, Config, DEFAULT_DISK_MIB, DEFAULT_MEM_MIB, Limits,
        NetworkConfig, PullPolicy, Urls,
    },
    data_dir, secret,
};

use super::{
    DataArgs, cluster_args::ClusterArgs, create::duration, keys, server_limits::ServerLimitArgs,
};
use crate::{client::config::ClientConfig, failure::Failure};

/// The upper bound of the default disk limit of a sandbox, in MiB.
const MAX_DEFAULT_DISK_MIB: u64 = 102_400;

#[derive(clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    data: DataArgs,

    /// The address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_ADDRESS)]
    listen: SocketAddr,

    /// Serve HTTPS with this certificate chain
    #[arg(long, value_name = "FILE.pem", requires = "tls_key", help_heading = "TLS")]
    tls_cert: Option<PathBuf>,

    /// The private key of the first certificate
    #[arg(long, value_name = "FILE.pem", requires = "tls_cert", help_heading = "TLS")]
    tls_key: Option<PathBuf>,

    /// Serve HTTP on addresses other than loopback: only behind a proxy that terminates TLS
    #[arg(long, help_heading = "TLS")]
    allow_plain_http: bool,

    /// The region in sandboxes and keys
    #[arg(long, default_value = "local", value_parser = secret::region)]
    region: String,

    /// The number of sandboxes to create in advance, so that creating one is fast
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u16).range(0..=1000))]
    warm: u16,

    /// The number of containers to create in advance for copies, so that forking, resuming and
    /// restoring are fast; none is created before the first fork, hibernation or snapshot
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u16).range(0..=1000))]
    warm_copies: u16,

    /// A registry from which missing images are pulled; repeat it for more, or specify `any` for
    /// all, including those of your own network
    #[arg(long, value_name = "HOST", default_value = "docker.io", help_heading = "Images")]
    pull_from: Vec<String>,

    /// Do not pull images: use only those that were added with `isorun image`
    #[arg(long, conflicts_with = "pull_from", help_heading = "Images")]
    no_pull: bool,

    /// A DNS resolver for sandboxes; repeat it for more [default: those of this machine]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Networks of sandboxes")]
    resolver: Vec<SocketAddr>,

    /// A range of private addresses that network rules may allow sandboxes to reach; repeat it for
    /// more
    #[arg(long, value_name = "CIDR", help_heading = "Networks of sandboxes")]
    permit_private: Vec<ipnet::Ipv4Net>,

    /// Additional certificate authorities for the hosts of credentials
    #[arg(long, value_name = "FILE.pem", help_heading = "Networks of sandboxes")]
    credential_roots: Option<PathBuf>,

    /// The maximum time until the host of a credential begins its response
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m", help_heading = "Networks of sandboxes")]
    credential_timeout: Duration,

    /// A domain in which each sandbox has a subdomain, for URLs such as
    /// `https://ID.DOMAIN/sb/p/8000/`; all subdomains must resolve to this server. Specify a scheme
    /// and a port, such as http://localhost:7676, if clients do not use https and its default port
    #[arg(long, value_name = "DOMAIN", value_parser = domain, help_heading = "URLs of sandboxes")]
    domain: Option<(String, String)>,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// The address to listen on for the other servers of the cluster, which authenticate each other
    /// by certificates
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:7677",
        help_heading = "Cluster"
    )]
    peer_listen: SocketAddr,

    /// The URL at which the other servers of the cluster reach --peer-listen, such as
    /// https://10.0.0.7:7677 [default: the address from which this machine reaches the database]
    #[arg(long, value_name = "URL", requires = "cluster", help_heading = "Cluster")]
    advertise: Option<String>,

    /// The object store in which hibernated sandboxes, snapshots and images are kept, so that every
    /// server of the cluster can use them: s3://BUCKET/PREFIX, with the variables AWS_... in the
    /// environment, or file:///DIRECTORY of a file system that all servers share
    #[arg(
        long,
        env = "ISORUN_BLOBS",
        value_name = "URL",
        requires = "cluster",
        help_heading = "Cluster"
    )]
    blobs: Option<String>,

    /// Maximum disk space for copies of other servers' snapshots and images, in MiB
    #[arg(long, value_name = "MIB", default_value = "32768", help_heading = "Cluster")]
    blob_cache_mib: u64,

    /// The time without contact to the database after which this server changes no sandboxes;
    /// half as long after that, the other servers declare its running sandboxes lost
    #[arg(long, value_name = "DURATION", value_parser = lease, default_value = "15s", help_heading = "Cluster")]
    lease: Duration,

    /// Disable URLs that need no API key
    #[arg(long, help_heading = "URLs of sandboxes")]
    no_anonymous_urls: bool,

    /// Let pages at /sb/ID/p/PORT/ share this server's origin in browsers: they can use cookies and
    /// storage, and pages of one sandbox can read those of another
    #[arg(long, help_heading = "URLs of sandboxes")]
    shared_origin: bool,

    /// Keep sandboxes running when the server stops; the next server takes them over
    #[arg(long)]
    keep_sandboxes: bool,

    /// Do not offer interpreters, such as isola:python, which run in the server's process
    #[arg(long)]
    no_interpreters: bool,

    /// Do not write a client configuration for this user
    #[arg(long)]
    no_client_config: bool,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    server_limits: ServerLimitArgs,

    /// What to log: error, warn, info, debug, or directives such as isorun=debug
    #[arg(
        long,
        env = "ISORUN_LOG",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Log"
    )]
    log: String,

    /// The format of the log on standard error
    #[arg(long, value_enum, default_value = "text", help_heading = "Log")]
    log_format: LogFormat,
}

#[derive(clap::Args)]
struct LimitArgs {
    /// Maximum number of virtual CPUs of a sandbox [default: those of this machine]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits", value_parser = clap::value_parser!(u32).range(1..))]
    max_vcpus: Option<u32>,

    /// Maximum memory of a sandbox, in MiB [default: the share of a tenant of this machine's
    /// memory, at least 1024]
    #[arg(long, value_name = "MIB", help_heading = "Limits", value_parser = clap::value_parser!(u64).range(SandboxSpec::MEM_MIB))]
    max_mem_mib: Option<u64>,

    /// Maximum disk space of a sandbox, in MiB [default: the share of a tenant of the disk space
    /// that is free when the server starts, at least 10240 and at most 102400]
    #[arg(long, value_name = "MIB", help_heading = "Limits", value_parser = clap::value_parser!(u64).range(1..))]
    max_disk_mib: Option<u64>,

    /// Maximum number of processes and threads of a sandbox
    #[arg(long, value_name = "NUMBER", default_value = "512", help_heading = "Limits", value_parser = clap::value_parser!(u32).range(8..))]
    pids: u32,

    /// Maximum number of sandboxes of one tenant at the same time
    #[arg(long, value_name = "NUMBER", default_value = "100", help_heading = "Limits")]
    max_runs: usize,

    /// Maximum number of commands, terminals and transfers of one sandbox at the same time
    #[arg(long, value_name = "NUMBER", default_value = "256", help_heading = "Limits")]
    max_execs: usize,

    /// Maximum rate of requests of one key per second, with bursts of twice as many
    #[arg(long, value_name = "NUMBER", default_value = "1000", help_heading = "Limits", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,

    /// Maximum number of requests of all clients at the same time
    #[arg(long, value_name = "NUMBER", default_value = "4096", help_heading = "Limits")]
    max_requests: usize,

    /// Maximum size in a response of each of a command's two output streams, in bytes
    #[arg(long, value_name = "BYTES", default_value = "8388608", help_heading = "Limits")]
    max_output: usize,

    /// Maximum size of an uploaded file, in bytes
    #[arg(long, value_name = "BYTES", default_value = "4294967296", help_heading = "Limits")]
    max_upload: u64,

    /// The time that requests have to complete when the server is stopped
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s", help_heading = "Limits")]
    grace: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Text
    Text,
    /// One JSON object per line
    Json,
}

pub const NOTES: &str = "\
On its first start the server creates an API key for this user, and writes it
with its address to ~/.config/isorun/client.json, readable by this user only:
clients of this user need no configuration. `isorun keys create` creates keys
for others.

SIGTERM or Ctrl-C stops the server: new requests are refused, those in progress
have a grace period, then every sandbox is destroyed, or kept running with
--keep-sandboxes. A second signal stops the server immediately.

Examples:
  isorun serve
  isorun serve --listen 0.0.0.0:7676 --tls-cert chain.pem --tls-key key.pem";

pub fn run(args: ServeArgs) -> Result<ExitCode, Failure> {
    start_log(&args.log, args.log_format)?;
    let config = config(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the server")?;
    runtime.block_on(serve(config))?;
    Ok(ExitCode::SUCCESS)
}

fn config(args: ServeArgs) -> Result<Config, Failure> {
    let tls = args.tls_cert.zip(args.tls_key);
    if tls.is_none() && !args.listen.ip().is_loopback() && !args.allow_plain_http {
        return Err(Failure::usage(format!(
            "{} can be reached from other machines, which would send their keys unencrypted \
             without TLS",
            args.listen
        ))
        .hint(
            "specify --tls-cert and --tls-key, or --allow-plain-http behind a proxy that \
             terminates TLS",
        ));
    }
    let data_dir = args.data.dir()?;
    let server = args.server_limits.limits(&data_dir);
    let tenant_disk_mib = server.tenant_disk(&data_dir) >> 20;
    let tenant_mem_mib = server.tenant_memory() >> 20;
    Ok(Config {
        listen: args.listen,
        tls,
        data_dir,
        region: args.region,
        limits: Limits {
            vcpus: args.limits.max_vcpus.unwrap_or_else(cpus),
            mem_mib: args.limits.max_mem_mib.unwrap_or(tenant_mem_mib.max(DEFAULT_MEM_MIB)),
            disk_mib: args
                .limits
                .max_disk_mib
                .unwrap_or_else(|| tenant_disk_mib.clamp(DEFAULT_DISK_MIB, MAX_DEFAULT_DISK_MIB)),
            pids: args.limits.pids,
            runs: args.limits.max_runs,
            execs: args.limits.max_execs,
            requests: args.limits.rate,
            in_flight: args.limits.max_requests,
            output: args.limits.max_output,
            upload: args.limits.max_upload,
            grace: args.limits.grace,
            server,
        },
        pulls: if args.no_pull {
            PullPolicy::Never
        } else if args.pull_from.iter().any(|host| host == "any") {
            PullPolicy::Anywhere
        } else {
            PullPolicy::From(args.pull_from)
        },
        network: NetworkConfig {
            resolvers: args.resolver,
            permitted: args.permit_private,
            extra_roots: args.credential_roots,
            credential_timeout: args.credential_timeout,
        },
        urls: Urls {
            anonymous: !args.no_anonymous_urls,
            shared_origin: args.shared_origin,
            domain: args.domain.as_ref().map(|(_, name)| {
                name.split_once(':').map_or(name.as_str(), |(name, _)| name).to_owned()
            }),
            base: args.domain,
        },
        keep_sandboxes: args.keep_sandboxes,
        interpreters: !args.no_interpreters,
        warm: args.warm.into(),
        warm_copies: args.warm_copies.into(),
        write_client_config: !args.no_client_config,
        cluster: args.cluster.url()?.map(|database| ClusterConfig {
            database,
            database_roots: args.cluster.cluster_roots,
            peer_listen: args.peer_listen,
            advertise: args.advertise,
            blobs: args.blobs.map(|url| BlobConfig {
                url,
                max_cache_bytes: args.blob_cache_mib.saturating_mul(1 << 20),
            }),
            lease: args.lease,
        }),
    })
}

/// Parses the lease time, from a second to ten minutes.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&lease) {
        return Ok(lease);
    }
    Err("specify a time from 1s to 10m".to_owned())
}

/// Parses a domain with an optional scheme and port. Returns the scheme, and the rest.
fn domain(text: &str) -> Result<(String, String), String> {
    let (scheme, name) = text.split_once("://").unwrap_or(("https", text));
    let invalid =
        || "specify a domain such as sandboxes.example, or a URL without a path".to_owned();
    let (host, port) = name.split_once(':').unwrap_or((name, "443"));
    let is_valid =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let valid = !host.is_empty()
        && host.bytes().all(is_valid)
        && !host.starts_with(['.', '-'])
        && !host.ends_with('.')
        && host.len() <= 200
        && port.parse::<u16>().is_ok();
    match scheme {
        "http" | "https" if valid => Ok((scheme.to_owned(), name.to_owned())),
        _ => Err(invalid()),
    }
}

fn start_log(directives: &str, format: LogFormat) -> Result<(), Failure> {
    use std::io::IsTerminal;
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Failure::usage(format!("--log {directives:?}: {error}")))?;
    let log = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // If the reader of the log has closed it, the server continues.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    data_dir::restrict_umask();
    data_dir::prepare(&config.data_dir)?;
    let lock = data_dir::lock(&config.data_dir)?;
    // Bind first, so that a port in use is reported before anything is started.
    let listening = Listening::bind(&config).await?;
    let server = Server::open(config, lock).await?;
    let written = ensure_client_config(&server, &listening.url()).await?;
    print_welcome(&server, &listening, written);
    let signal_handler = tokio::spawn({
        let stopping = server.stopping().clone();
        async move {
            super::interrupted().await;
            tracing::info!("stopping");
            stopping.cancel();
            super::interrupted().await;
            tracing::warn!("stopping immediately");
            std::process::exit(130);
        }
    });
    let served = listening.serve(&server).await;
    server.close().await;
    signal_handler.abort();
    if server.is_fenced() {
        anyhow::bail!(
            "the cluster declared this server dead, since it could not renew its lease: its \
             sandboxes are lost. Start it again"
        );
    }
    served
}

/// Writes the configuration with which this user's clients find this server, unless it is for
/// another server. Returns its path if it was written.
async fn ensure_client_config(server: &Server, url: &str) -> anyhow::Result<Option<PathBuf>> {
    if !server.config().write_client_config {
        return Ok(None);
    }
    // An invalid file is replaced.
    let config = ClientConfig::load().unwrap_or_default();
    let mut key = None;
    if let Some(config) = &config
        && let Some(id) = server.secret().verify_key(&config.api_key)
        && server.store().key(&id).await?.is_some_and(|key| key.revoked_at.is_none())
    {
        key = Some(config.api_key.clone());
    }
    match (key, config) {
        // It is for this server, whose address may have changed.
        (Some(api_key), _) => Ok(Some(ClientConfig { api_url: url.to_owned(), api_key }.store()?)),
        // It is for another server.
        (None, Some(config)) if config.api_url != url => Ok(None),
        _ => {
            let (store, secret) = (server.store(), server.secret());
            let tenant = Some("local".to_owned());
            let api_key =
                keys::create(store, secret, &server.config().region, "local", tenant, true).await?;
            Ok(Some(ClientConfig { api_url: url.to_owned(), api_key }.store()?))
        }
    }
}

/// Prints the address of the server, and how to use it.
fn print_welcome(server: &Server, listening: &Listening, written: Option<PathBuf>) {
    let text = welcome(server, listening, written);
    // If the reader has closed the output, the server continues.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn welcome(server: &Server, listening: &Listening, written: Option<PathBuf>) -> String {
    let mut lines = Vec::new();
    let capabilities = server.capabilities();
    let url = listening.url();
    lines.push(format!("isorun {} listens on {url}", env!("CARGO_PKG_VERSION")));
    lines.push(format!(
        "engine: {} {}: {}",
        capabilities.name, capabilities.version, capabilities.isolation
    ));
    if let Some(why) = server.linux_unavailable() {
        lines.push(format!("linux:  not available: {why}"));
    }
    match server.interpreters().as_slice() {
        [] => lines.push("interpreters: not available".to_owned()),
        images => lines.push(format!("interpreters: {}", images.join(", "))),
    }
    lines.push(format!("data:   {}", server.config().data_dir.display()));
    if let (Some((node, url)), Some(cluster)) = (server.node(), &server.config().cluster) {
        lines.push(format!("node:   {node} of {}, for other nodes at {url}", cluster.database));
    }
    lines.push(String::new());
    match written {
        Some(path) => {
            lines.push(format!("Clients of this user are configured by {}. Try:", path.display()));
            if server.linux_unavailable().is_none() {
                lines.push("  isorun run host -- python3 -c 'print(2 + 2)'".to_owned());
            } else {
                lines.push("  isorun create isola:python".to_owned());
            }
            lines.push(String::new());
            lines.push(
                "For other users, create a key with `isorun keys create NAME`, and set:".to_owned(),
            );
        }
        None => lines.push("Create a key with `isorun keys create NAME`, and set:".to_owned()),
    }
    lines.push(format!("  ISORUN_API_URL={url}"));
    lines.push("  ISORUN_API_KEY=isorun_live_...".to_owned());
    lines.push(String::new());
    lines.join("\n")
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}
