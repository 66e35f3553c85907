//! `isorun serve`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::ValueEnum;
use isorun_engine::SandboxSpec;

use super::{DataArgs, create::duration, keys, server_limits::ServerLimitArgs};
use crate::{
    client::config::Local,
    data,
    failure::Failure,
    secret,
    server::{
        App, Config, Listening, Server,
        config::{
            DEFAULT_ADDRESS, DEFAULT_DISK_MIB, DEFAULT_MEM_MIB, Limits, NetworkConfig, PullPolicy,
            Urls,
        },
        engine,
    },
};

/// The most disk of a sandbox, in MiB, unless told otherwise.
const MAX_DISK_MIB: u64 = 102_400;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,

    /// The address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_ADDRESS)]
    listen: SocketAddr,

    /// Serve HTTPS with this chain of certificates
    #[arg(long, value_name = "FILE.pem", requires = "tls_key", help_heading = "TLS")]
    tls_cert: Option<PathBuf>,

    /// The private key of the first certificate
    #[arg(long, value_name = "FILE.pem", requires = "tls_cert", help_heading = "TLS")]
    tls_key: Option<PathBuf>,

    /// Serve HTTP beyond this machine: only behind a proxy that does TLS
    #[arg(long, help_heading = "TLS")]
    allow_plain_http: bool,

    /// What runs and keys say where they are
    #[arg(long, default_value = "local", value_parser = secret::region)]
    region: String,

    /// How many sandboxes to hold ready, so that creating one is fast
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u16).range(0..=1000))]
    warm: u16,

    /// How many places to hold ready for copies, so that forking, resuming and restoring are
    /// fast; none is made before the first fork, hibernation or snapshot
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u16).range(0..=1000))]
    warm_copies: u16,

    /// A registry from which images are pulled that are not here yet; repeat it for more, or
    /// `any` for all, also those of your own network
    #[arg(long, value_name = "HOST", default_value = "docker.io", help_heading = "Images")]
    pull_from: Vec<String>,

    /// Pull no images: only those run that `isorun image` has brought here
    #[arg(long, conflicts_with = "pull_from", help_heading = "Images")]
    no_pull: bool,

    /// A resolver for the names that sandboxes ask for; repeat it for more [default: those of this
    /// machine]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Networks of sandboxes")]
    resolver: Vec<SocketAddr>,

    /// A range of addresses that is not public, and that sandboxes may be allowed to reach all the
    /// same, by a rule that names it or a host in it; repeat it for more
    #[arg(long, value_name = "CIDR", help_heading = "Networks of sandboxes")]
    permit_private: Vec<ipnet::Ipv4Net>,

    /// More certificate authorities that vouch for the hosts of credentials
    #[arg(long, value_name = "FILE.pem", help_heading = "Networks of sandboxes")]
    credential_roots: Option<PathBuf>,

    /// How long the host of a credential may take until its answer begins
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m", help_heading = "Networks of sandboxes")]
    credential_timeout: Duration,

    /// A name below which each sandbox has its own, for URLs such as
    /// `https://ID.DOMAIN/sb/p/8000/`; every name below it has to lead here. With a scheme and a
    /// port, such as http://localhost:7676, if clients see other ones than https and its own
    #[arg(long, value_name = "DOMAIN", value_parser = domain, help_heading = "URLs of sandboxes")]
    domain: Option<(String, String)>,

    /// No URLs that need no API key
    #[arg(long, help_heading = "URLs of sandboxes")]
    no_anonymous_urls: bool,

    /// Let pages at /sb/ID/p/PORT/ share this server's origin in browsers: they get cookies and
    /// storage, and those of one sandbox can read those of another
    #[arg(long, help_heading = "URLs of sandboxes")]
    shared_origin: bool,

    /// Leave sandboxes running when the server stops; the next one finds them again
    #[arg(long)]
    keep_sandboxes: bool,

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

    /// How to log, on standard error
    #[arg(long, value_enum, default_value = "text", help_heading = "Log")]
    log_format: LogFormat,
}

#[derive(clap::Args)]
struct LimitArgs {
    /// The most virtual CPUs of a sandbox [default: those of this machine]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits", value_parser = clap::value_parser!(u32).range(1..))]
    max_vcpus: Option<u32>,

    /// The most memory of a sandbox, in MiB [default: what its tenant may use of this machine's,
    /// at least 1024]
    #[arg(long, value_name = "MIB", help_heading = "Limits", value_parser = clap::value_parser!(u64).range(SandboxSpec::MEM_MIB))]
    max_mem_mib: Option<u64>,

    /// The most disk of a sandbox, in MiB [default: what its tenant may use of the disk that is
    /// free when the server starts, at least 10240 and at most 102400]
    #[arg(long, value_name = "MIB", help_heading = "Limits", value_parser = clap::value_parser!(u64).range(1..))]
    max_disk_mib: Option<u64>,

    /// Processes and threads of a sandbox
    #[arg(long, value_name = "NUMBER", default_value = "512", help_heading = "Limits", value_parser = clap::value_parser!(u32).range(8..))]
    pids: u32,

    /// Sandboxes of one tenant at the same time
    #[arg(long, value_name = "NUMBER", default_value = "100", help_heading = "Limits")]
    max_runs: usize,

    /// Commands, terminals and transfers of one sandbox at the same time
    #[arg(long, value_name = "NUMBER", default_value = "256", help_heading = "Limits")]
    max_execs: usize,

    /// Requests of one key in a second, over time; twice as many at once
    #[arg(long, value_name = "NUMBER", default_value = "1000", help_heading = "Limits", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,

    /// Requests of all callers at the same time
    #[arg(long, value_name = "NUMBER", default_value = "4096", help_heading = "Limits")]
    max_requests: usize,

    /// What an answer holds of each of a command's two streams, in bytes
    #[arg(long, value_name = "BYTES", default_value = "8388608", help_heading = "Limits")]
    max_output: usize,

    /// The largest file that can be uploaded, in bytes
    #[arg(long, value_name = "BYTES", default_value = "4294967296", help_heading = "Limits")]
    max_upload: u64,

    /// How long requests may still go on when the server is stopped
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s", help_heading = "Limits")]
    grace: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

pub const NOTES: &str = "\
On its first start it makes an API key for this user, and writes it with its
address to ~/.config/isorun/client.json, readable by this user only: clients
of this user need no configuration. `isorun keys create` makes keys for others.

SIGTERM or Ctrl-C stops it: no new requests, a grace for those under way, then
every sandbox is destroyed, or with --keep-sandboxes left alone. A second one
stops it at once.

Examples:
  isorun serve
  isorun serve --listen 0.0.0.0:7676 --tls-cert chain.pem --tls-key key.pem";

pub fn run(args: Args) -> Result<ExitCode, Failure> {
    start_log(&args.log, args.log_format)?;
    let config = config(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the server")?;
    runtime.block_on(serve(config))?;
    Ok(ExitCode::SUCCESS)
}

fn config(args: Args) -> Result<Config, Failure> {
    let tls = args.tls_cert.zip(args.tls_key);
    if tls.is_none() && !args.listen.ip().is_loopback() && !args.allow_plain_http {
        return Err(Failure::usage(format!(
            "{} can be reached from other machines, and without TLS they would send their keys \
             for everybody to read",
            args.listen
        ))
        .hint(
            "give --tls-cert and --tls-key, or --allow-plain-http behind a proxy that does TLS",
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
                .unwrap_or_else(|| tenant_disk_mib.clamp(DEFAULT_DISK_MIB, MAX_DISK_MIB)),
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
            ..NetworkConfig::default()
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
        warm: args.warm.into(),
        warm_copies: args.warm_copies.into(),
        write_client_config: !args.no_client_config,
    })
}

/// A domain with the scheme before it.
fn domain(text: &str) -> Result<(String, String), String> {
    let (scheme, name) = text.split_once("://").unwrap_or(("https", text));
    let wrong = || "give a domain such as sandboxes.example, or a URL without a path".to_owned();
    let (host, port) = name.split_once(':').unwrap_or((name, "443"));
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let good = !host.is_empty()
        && host.bytes().all(plain)
        && !host.starts_with(['.', '-'])
        && !host.ends_with('.')
        && host.len() <= 200
        && port.parse::<u16>().is_ok();
    match scheme {
        "http" | "https" if good => Ok((scheme.to_owned(), name.to_owned())),
        _ => Err(wrong()),
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
        // A log that nobody reads any more stops nothing.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    data::restrict_umask();
    data::prepare(&config.data_dir)?;
    let lock = data::lock(&config.data_dir)?;
    // Before anything is started: a port that is taken is found out now.
    let listening = Listening::bind(&config).await?;
    let engine = engine::start(&config).await?;
    let app = Server::open(config, engine, lock).await?;
    let written = client_config(&app, &listening.url()).await?;
    welcome(&app, &listening, written);
    let stopper = tokio::spawn({
        let app = app.clone();
        async move {
            super::interrupted().await;
            tracing::info!("stopping");
            app.stopping.cancel();
            super::interrupted().await;
            tracing::warn!("stopping at once");
            std::process::exit(130);
        }
    });
    let served = listening.serve(&app).await;
    app.close().await;
    stopper.abort();
    served
}

/// Sees to it that this user's clients find this server, unless they have been
/// told of another one. Gives the place of what they read.
async fn client_config(app: &App, url: &str) -> anyhow::Result<Option<PathBuf>> {
    if !app.config.write_client_config {
        return Ok(None);
    }
    // A damaged one is replaced.
    let local = Local::load().unwrap_or_default();
    let mut key = None;
    if let Some(local) = &local
        && let Some(id) = app.secret.verify_key(&local.api_key)
        && app.store.key(&id).await?.is_some_and(|key| key.revoked_at.is_none())
    {
        key = Some(local.api_key.clone());
    }
    match (key, local) {
        // It is about this server; the address may be another one now.
        (Some(api_key), _) => Ok(Some(Local { api_url: url.to_owned(), api_key }.store()?)),
        // It is about another server, elsewhere.
        (None, Some(local)) if local.api_url != url => Ok(None),
        _ => {
            let (store, secret) = (&app.store, &app.secret);
            let tenant = Some("local".to_owned());
            let api_key =
                keys::create(store, secret, &app.config.region, "local", tenant, true).await?;
            Ok(Some(Local { api_url: url.to_owned(), api_key }.store()?))
        }
    }
}

fn welcome(app: &App, listening: &Listening, written: Option<PathBuf>) {
    let can = app.engine.capabilities();
    let url = listening.url();
    println!("isorun {} listens on {url}", env!("CARGO_PKG_VERSION"));
    println!("engine: {} {}: {}", can.name, can.version, can.isolation);
    println!("data:   {}", app.config.data_dir.display());
    println!();
    match written {
        Some(path) => {
            println!("Your own clients find it by {}. Try:", path.display());
            println!("  isorun run host -- python3 -c 'print(2 + 2)'");
            println!();
            println!("For others, make a key with `isorun keys create NAME`, and set:");
        }
        None => println!("Make a key with `isorun keys create NAME`, and set:"),
    }
    println!("  ISORUN_API_URL={url}");
    println!("  ISORUN_API_KEY=isorun_live_...");
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}
