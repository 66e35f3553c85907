//! The command line: one file for each subcommand.

mod audit;
mod cluster;
mod cluster_args;
mod code;
mod cp;
mod create;
mod doctor;
mod embedded;
mod exec;
mod fork;
mod hibernate;
mod image;
mod keys;
mod logs;
mod ls;
mod mcp;
mod net;
mod node;
mod pages;
mod ps;
mod rm;
mod run;
mod serve;
mod server_limits;
mod shell;
mod snapshot;
mod stats;
pub mod table;
mod terminal;
mod url;

use std::{future::Future, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    client::{Client, config::Target},
    failure::Failure,
};
use isorun_api::RunId;

/// Run untrusted programs in Linux sandboxes
///
/// `isorun serve` is the server: each sandbox has a kernel interface, files,
/// processes, limits and a network of its own. All other commands send HTTP
/// requests to a server, by default to the one on this machine.
#[derive(Parser)]
#[command(name = "isorun", version, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    server: ServerArgs,

    #[command(subcommand)]
    command: Command,
}

/// The options that select the server.
#[derive(clap::Args)]
pub struct ServerArgs {
    /// The server's address [default: what `isorun serve` wrote, or http://127.0.0.1:7676]
    #[arg(
        long,
        global = true,
        env = "ISORUN_API_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Server"
    )]
    api_url: Option<String>,

    /// The API key [default: what `isorun serve` wrote]
    #[arg(
        long,
        global = true,
        env = "ISORUN_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Server"
    )]
    api_key: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server
    #[command(after_long_help = serve::NOTES)]
    Serve(Box<serve::ServeArgs>),

    /// Create, list and revoke API keys, on the server's machine
    Keys(keys::KeysArgs),

    /// Pull, import, list and remove images, on the server's machine
    Image(Box<image::ImageArgs>),

    /// Create a sandbox, run a command in it, and destroy it
    #[command(after_long_help = run::NOTES)]
    Run(run::RunArgs),

    /// Create a sandbox, and print its id
    Create(create::CreateArgs),

    /// Run a command in a sandbox
    #[command(after_long_help = exec::NOTES)]
    Exec(exec::ExecArgs),

    /// Run code in an interpreter that keeps its variables, and show its results
    #[command(after_long_help = code::NOTES)]
    Code(code::CodeArgs),

    /// Run lines in one bash that keeps its state from line to line
    #[command(after_long_help = shell::NOTES)]
    Shell(shell::ShellArgs),

    /// Copy a running sandbox, with its files, memory and processes
    Fork(fork::ForkArgs),

    /// Write sandboxes to the server's disk, with their memory and processes
    Hibernate(hibernate::HibernateArgs),

    /// Resume hibernated sandboxes
    Resume(hibernate::HibernateArgs),

    /// Take, list and delete snapshots, from which sandboxes are restored
    Snapshot(snapshot::SnapshotArgs),

    /// Create a sandbox from a snapshot, and print its id
    Restore(snapshot::RestoreArgs),

    /// Serve the Model Context Protocol, so that a model can work in sandboxes
    #[command(after_long_help = mcp::NOTES)]
    Mcp(Box<mcp::McpArgs>),

    /// List the sandboxes
    Ps(ps::PsArgs),

    /// Copy a file into or out of a sandbox
    #[command(after_long_help = cp::NOTES)]
    Cp(cp::CpArgs),

    /// List a directory of a sandbox
    Ls(ls::LsArgs),

    /// Show or change the network rules of a sandbox
    Net(net::NetArgs),

    /// Print the URL of a port of a sandbox
    #[command(after_long_help = url::NOTES)]
    Url(url::UrlArgs),

    /// Destroy sandboxes
    Rm(rm::RmArgs),

    /// Show the audit log of a sandbox
    Logs(logs::LogsArgs),

    /// Show the resource usage of sandboxes
    Stats(stats::StatsArgs),

    /// Verify that the audit logs were not changed, on the server's machine
    Audit(audit::AuditArgs),

    /// List, drain and remove the servers of a cluster
    Node(node::NodeArgs),

    /// Check a cluster
    Cluster(cluster::ClusterCommandArgs),

    /// Check whether this machine can run sandboxes, and with which isolation
    Doctor(doctor::DoctorArgs),

    /// Print a completion script for a shell
    ///
    /// For bash: isorun completions bash > ~/.local/share/bash-completion/completions/isorun
    #[command(verbatim_doc_comment)]
    Completions {
        /// The shell that reads the script
        shell: clap_complete::Shell,
    },

    /// Print a man page in the format that `man -l -` reads
    Man {
        /// Print the page of this command, such as `run`, instead of the main page
        command: Option<String>,
    },

    /// Print the OpenAPI description of the HTTP API
    #[command(hide = true)]
    Openapi,
}

/// The data directory, for commands that run on the server's machine.
#[derive(clap::Args)]
pub struct DataArgs {
    /// The server's data directory [default: ISORUN_DATA_DIR, /var/lib/isorun for root, or
    /// ~/.local/share/isorun]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl DataArgs {
    pub fn dir(&self) -> anyhow::Result<PathBuf> {
        self.data_dir.clone().map_or_else(isorun_server::data_dir::default_dir, Ok)
    }

    /// Returns the data directory. Fails if no server was ever started with it.
    pub fn existing(&self) -> Result<PathBuf, Failure> {
        let dir = self.dir()?;
        if dir.join("secret").is_file() {
            return Ok(dir);
        }
        Err(Failure::usage(format!("not the data directory of a server: {}", dir.display())).hint(
            "specify the data directory with --data-dir, or start the server once with `isorun \
             serve`",
        ))
    }
}

pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let server = cli.server;
    match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Keys(args) => keys::run(args),
        Command::Image(args) => image::run(*args),
        Command::Run(args) => run::run(args, server),
        Command::Create(args) => block_on(create::run(args, connect(server)?)),
        Command::Exec(args) => exec::run(args, server),
        Command::Code(args) => block_on(code::run(args, connect(server)?)),
        Command::Shell(args) => shell::run(args, server),
        Command::Fork(args) => block_on(fork::run(args, connect(server)?)),
        Command::Hibernate(args) => {
            block_on(hibernate::run(args, hibernate::Operation::Hibernate, connect(server)?))
        }
        Command::Resume(args) => {
            block_on(hibernate::run(args, hibernate::Operation::Resume, connect(server)?))
        }
        Command::Snapshot(args) => block_on(snapshot::run(args, connect(server)?)),
        Command::Restore(args) => block_on(snapshot::restore(args, connect(server)?)),
        Command::Mcp(args) => mcp::run(*args, server),
        Command::Ps(args) => block_on(ps::run(args, connect(server)?)),
        Command::Cp(args) => block_on(cp::run(args, connect(server)?)),
        Command::Ls(args) => block_on(ls::run(args, connect(server)?)),
        Command::Net(args) => block_on(net::run(args, connect(server)?)),
        Command::Url(args) => block_on(url::run(args, connect(server)?)),
        Command::Rm(args) => block_on(rm::run(args, connect(server)?)),
        Command::Logs(args) => block_on(logs::run(args, connect(server)?)),
        Command::Stats(args) => block_on(stats::run(args, connect(server)?)),
        Command::Audit(args) => audit::run(args),
        Command::Node(args) => node::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { command } => pages::man(command.as_deref()),
        Command::Openapi => pages::openapi(),
    }
}

fn connect(server: ServerArgs) -> Result<Client, Failure> {
    Ok(Client::new(&Target::find(server.api_url, server.api_key)?)?)
}

/// Runs a command until it completes or is interrupted.
fn block_on(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(anyhow::Error::new(error).context("cannot start")))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            () = interrupted() => Err(Failure::Interrupted),
        }
    });
    // A read of standard input cannot be cancelled, so do not wait for it.
    runtime.shutdown_background();
    outcome
}

/// Waits for SIGINT (Ctrl-C) or SIGTERM (service managers).
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        Some(()) = term.recv() => {}
        // Without handlers the signals terminate the process.
        else => std::future::pending().await,
    }
}

fn run_id(text: &str) -> Result<RunId, String> {
    text.parse().map_err(|error| format!("{error}"))
}

const EXAMPLES: &str = "\
Examples:
  isorun serve
  isorun run host -- python3 -c 'print(2 + 2)'
  id=$(isorun create host)
  isorun exec $id -- uname -a
  isorun cp data.csv $id:/job/data.csv
  isorun rm $id";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
