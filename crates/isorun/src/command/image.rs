//! `isorun image`: the images of a server. Works on its machine, whether the server is
//! running or not.

mod bars;

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;
use isorun_image::{
    Error, Image, ImportOptions, Platform, PullOptions, Reference, Registries, RegistryCredentials,
    Source, Store,
};
use isorun_server::{clock, data_dir};

use super::{DataArgs, table};
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct ImageArgs {
    #[command(flatten)]
    data: DataArgs,

    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Pull an image from a registry; layers that are present are not pulled again
    #[command(after_long_help = PULL_NOTES)]
    Pull(Pull),

    /// Import an image from disk
    #[command(after_long_help = IMPORT_NOTES)]
    Import(Import),

    /// List the images
    Ls {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },

    /// Remove images; sandboxes that use them keep running
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME", value_parser = reference)]
        names: Vec<Reference>,
    },

    /// Remove data that no image uses
    Gc,
}

#[derive(clap::Args)]
struct Pull {
    /// The image, such as python:3.12 or ghcr.io/owner/name:tag
    #[arg(value_parser = reference)]
    name: Reference,

    #[command(flatten)]
    common: CommonArgs,

    /// Pull images without a registry in their name from this host instead of docker.io
    #[arg(
        long,
        value_name = "HOST",
        env = "ISORUN_REGISTRY",
        hide_env_values = true,
        help_heading = "Registries"
    )]
    registry: Option<String>,

    /// Pull images of a registry from another host; repeat it for more
    #[arg(long, value_name = "REGISTRY=HOST", value_parser = mirror, help_heading = "Registries")]
    mirror: Vec<(String, String)>,

    /// Use HTTP without TLS for a host other than this machine; repeat it for more
    #[arg(long, value_name = "HOST", help_heading = "Registries")]
    plain_http: Vec<String>,

    /// Log in as this user; the password is read from ISORUN_REGISTRY_PASSWORD or standard input
    #[arg(long, value_name = "NAME", help_heading = "Registries")]
    user: Option<String>,

    /// Read the password, or without --user a token, from standard input
    #[arg(long, help_heading = "Registries")]
    password_stdin: bool,

    /// The file with the credentials of docker or podman [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE", help_heading = "Registries")]
    docker_config: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Import {
    /// An OCI layout, a `docker save` archive or a root filesystem: a directory or a tar archive
    path: PathBuf,

    /// The name of the image [default: the name in the archive]
    #[arg(value_parser = reference)]
    name: Option<Reference>,

    /// The name in the archive of the image to import, if there are several
    #[arg(long, value_name = "NAME")]
    select: Option<String>,

    /// Import it as a root filesystem, without detecting the format
    #[arg(long)]
    rootfs: bool,

    #[command(flatten)]
    common: CommonArgs,
}

/// The options for pulling and importing.
#[derive(clap::Args)]
struct CommonArgs {
    /// The platform, such as linux/arm64 [default: this machine's]
    #[arg(long, value_parser = platform)]
    platform: Option<Platform>,

    /// Do not show progress
    #[arg(long, short)]
    quiet: bool,
}

const PULL_NOTES: &str = "\
Registries are accessed over HTTPS, those on this machine over HTTP. Layers are
verified by their digests. An interrupted pull is resumed.

Examples:
  isorun image pull python:3.12
  isorun image pull --registry localhost:5000 python:3.12
  printenv TOKEN | isorun image pull --user me --password-stdin ghcr.io/me/private";

const IMPORT_NOTES: &str = "\
Examples:
  docker save python:3.12 | gzip > python.tgz && isorun image import python.tgz
  isorun image import ./layout my/image:1
  isorun image import ./rootfs my/rootfs";

pub fn run(args: ImageArgs) -> Result<ExitCode, Failure> {
    let dir = args.data.dir()?;
    super::block_on(async move {
        data_dir::restrict_umask();
        data_dir::prepare(&dir)?;
        let store = Store::open(data_dir::images_dir(&dir)).map_err(failure)?;
        match args.command {
            ImageCommand::Pull(args) => pull(&store, args).await,
            ImageCommand::Import(args) => import(&store, args).await,
            ImageCommand::Ls { json } => list(&store, json),
            ImageCommand::Rm { names } => remove(&store, &names).await,
            ImageCommand::Gc => gc(&store).await,
        }
    })
}

async fn pull(store: &Store, args: Pull) -> Result<ExitCode, Failure> {
    let mut options = PullOptions::default();
    options.registries = registries(&args)?;
    options.platform = args.common.platform.unwrap_or_default();
    let bars = bars::Bars::new(args.common.quiet);
    let pulled = store.pull(&args.name, &options, &bars.progress()).await;
    bars.clear();
    print_image(&pulled.map_err(failure)?)
}

async fn import(store: &Store, args: Import) -> Result<ExitCode, Failure> {
    let source = if args.rootfs {
        Source::Root(args.path)
    } else {
        let path = args.path;
        let found = tokio::task::spawn_blocking(move || Source::find(&path)).await;
        found.context("cannot detect the format of the image")?.map_err(failure)?
    };
    let mut options = ImportOptions::default();
    options.name = args.name;
    options.select = args.select;
    options.platform = args.common.platform.unwrap_or_default();
    let bars = bars::Bars::new(args.common.quiet);
    let imported = store.import(&source, &options, &bars.progress()).await;
    bars.clear();
    print_image(&imported.map_err(failure)?)
}

fn print_image(image: &Image) -> Result<ExitCode, Failure> {
    table::line(&format!("{} {}", image.reference.short(), image.digest))
}

fn list(store: &Store, json: bool) -> Result<ExitCode, Failure> {
    let entries = store.list().map_err(failure)?;
    let created = |seconds: u64| {
        clock::rfc3339(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
    };
    if json {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| {
                serde_json::json!({
                    "name": entry.reference, "digest": entry.digest, "manifest": entry.manifest,
                    "layers": entry.layers, "compressed_bytes": entry.compressed,
                    "size_bytes": entry.size, "created_at": created(entry.created),
                })
            })
            .collect();
        return table::json(&entries);
    }
    let rows: Vec<_> = entries
        .into_iter()
        .map(|entry| {
            let name = entry
                .reference
                .parse::<Reference>()
                .map_or_else(|_| entry.reference.clone(), |name| name.short());
            let digest: String = entry.manifest.digest().chars().take(12).collect();
            [name, digest, table::bytes(entry.size), created(entry.created)]
        })
        .collect();
    table::print(["NAME", "DIGEST", "SIZE", "CREATED"], &rows)
}

async fn remove(store: &Store, names: &[Reference]) -> Result<ExitCode, Failure> {
    let mut missing = Vec::new();
    for name in names {
        if !store.remove(name).await.map_err(failure)? {
            missing.push(name.short());
        }
    }
    let code = gc(store).await?;
    if missing.is_empty() {
        return Ok(code);
    }
    Err(Failure::usage(format!("there is no image {}", missing.join(", ")))
        .hint("`isorun image ls` lists them"))
}

async fn gc(store: &Store) -> Result<ExitCode, Failure> {
    let removed = store.gc().await.map_err(failure)?;
    let mut line = format!(
        "freed {}: {} unpacked images, {} blobs, {} leftovers",
        table::bytes(removed.bytes),
        removed.roots,
        removed.blobs,
        removed.leftovers
    );
    if removed.in_use > 0 {
        line += &format!("; {} are in use and will be removed later", removed.in_use);
    }
    table::line(&line)
}

fn registries(args: &Pull) -> Result<Registries, Failure> {
    let mut registries = Registries::default();
    if let Some(host) = &args.registry {
        registries = registries.mirror("docker.io", host);
    }
    for (registry, host) in &args.mirror {
        registries = registries.mirror(registry, host);
    }
    for host in &args.plain_http {
        registries = registries.insecure(host);
    }
    if let Some(credentials) = credentials(args)? {
        // The credentials are for the host that is accessed, which may be a mirror.
        let registry = args.name.registry();
        let host = args
            .mirror
            .iter()
            .rev()
            .find(|(known, _)| known == registry)
            .map(|(_, host)| host.as_str())
            .or(args.registry.as_deref().filter(|_| registry == "docker.io"))
            .unwrap_or(registry);
        registries = registries.credentials(host, credentials);
    }
    match args.docker_config.clone().or_else(docker_config) {
        Some(path) => registries.docker_config(&path).map_err(failure),
        None => Ok(registries),
    }
}

fn credentials(args: &Pull) -> Result<Option<RegistryCredentials>, Failure> {
    let secret = if args.password_stdin {
        if std::io::stdin().is_terminal() {
            return Err(Failure::usage(
                "standard input is a terminal, from which --password-stdin does not read",
            )
            .hint("pipe the password to standard input, so that it is not displayed"));
        }
        let mut text = String::new();
        std::io::stdin()
            .take(64 << 10)
            .read_to_string(&mut text)
            .context("cannot read the password from standard input")?;
        Some(text.trim_end_matches(['\r', '\n']).to_owned())
    } else {
        std::env::var("ISORUN_REGISTRY_PASSWORD").ok()
    };
    match (args.user.clone(), secret.filter(|secret| !secret.is_empty())) {
        (Some(name), Some(password)) => Ok(Some(RegistryCredentials::User { name, password })),
        (None, Some(token)) if args.password_stdin => Ok(Some(RegistryCredentials::Token(token))),
        (Some(_), None) => Err(Failure::usage("--user needs a password")
            .hint("set ISORUN_REGISTRY_PASSWORD, or use --password-stdin")),
        (None, _) => Ok(None),
    }
}

/// Returns the default path of docker's credentials.
fn docker_config() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("DOCKER_CONFIG") {
        return Some(PathBuf::from(directory).join("config.json"));
    }
    etcetera::home_dir().ok().map(|home| home.join(".docker/config.json"))
}

fn reference(text: &str) -> Result<Reference, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((registry, host)) if !registry.is_empty() && !host.is_empty() => {
            Ok((registry.to_owned(), host.to_owned()))
        }
        _ => Err("specify REGISTRY=HOST, such as docker.io=localhost:5000".to_owned()),
    }
}

fn failure(error: Error) -> Failure {
    let hint = match &error {
        Error::Auth { .. } => "log in with --user or `docker login`",
        Error::NotFound { .. } => "check the name and the tag",
        Error::Platform { .. } => "select another platform with --platform",
        Error::Reference { .. } => "specify a name such as python:3.12 or ghcr.io/owner/name:tag",
        _ => return Failure::Other(error.into()),
    };
    Failure::usage(error.to_string()).hint(hint)
}
