//! `isorun mcp`: a server of the Model Context Protocol, on standard input and output or over
//! HTTP.

use std::{io::IsTerminal as _, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use isorun_api::{NewRun, OnIdle};
use rmcp::ServiceExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{ServerArgs, create, embedded::connect_or_start};
use crate::{
    client::{Client, config::Target},
    failure::Failure,
    mcp::{self, McpServer, Owner, SERVER_IDLE_MARGIN, Sessions, Tools},
};

#[derive(clap::Args)]
pub struct McpArgs {
    #[command(flatten)]
    sandbox: create::SandboxArgs,

    /// End a session after this time without a call
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, default_value = "30m")]
    idle: Duration,

    /// Maximum number of sessions of a client at the same time
    #[arg(long, value_name = "NUMBER", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Limits")]
    max_sessions: u16,

    /// The timeout of a command or of code that gives none; a call can give up to 1h
    #[arg(long, value_name = "DURATION", value_parser = call_timeout, default_value = "60s", help_heading = "Limits")]
    timeout: Duration,

    /// Maximum size of each text in a result, in bytes: the middle of longer output is left out
    #[arg(long, value_name = "BYTES", default_value = "65536", value_parser = clap::value_parser!(u32).range(1024..=16_777_216), help_heading = "Limits")]
    max_output: u32,

    /// Serve the protocol over HTTP at http://ADDRESS:PORT/mcp, instead of on standard input and
    /// output; each request needs an API key of the isorun server
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "HTTP")]
    listen: Option<SocketAddr>,

    /// Accept requests for this host name, such as that of a proxy in front; repeat it for more.
    /// Requests for localhost and the address of --listen are always accepted
    #[arg(long, value_name = "HOST", requires = "listen", help_heading = "HTTP")]
    allow_host: Vec<String>,

    /// Accept requests from pages of this website, such as https://example.com; repeat it for
    /// more [default: from no page]
    #[arg(long, value_name = "ORIGIN", requires = "listen", help_heading = "HTTP")]
    allow_origin: Vec<String>,

    /// Serve HTTP on addresses other than loopback: only behind a proxy that terminates TLS
    #[arg(long, requires = "listen", help_heading = "HTTP")]
    allow_plain_http: bool,
}

pub const NOTES: &str = "\
A session is a name that a call gives, and has a sandbox of its own, which is
created at its first use from the image and the options above. Its end destroys
the sandbox: end_session, --idle without a call, or the end of this program.

On standard input and output the key is that of this command, and a server is
started if none was specified and none runs on this machine. Over HTTP each
client sends its own key, and has its own sessions.

Examples:
  isorun mcp python:3.12
  isorun mcp isola:python --timeout 10s
  isorun mcp host --network locked-down --listen 127.0.0.1:7677";

pub fn run(args: McpArgs, server: ServerArgs) -> Result<ExitCode, Failure> {
    // Standard output belongs to the protocol.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // The library warns of each call that is wrong or cancelled: its client is told.
        .with_env_filter("warn,rmcp=error")
        .init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let outcome = runtime.block_on(async move {
        match args.listen {
            Some(address) => over_http(&args, address, server).await,
            None => on_standard_streams(&args, server).await,
        }
    });
    // A read of standard input cannot be cancelled, so do not wait for it.
    runtime.shutdown_background();
    outcome
}

impl McpArgs {
    fn tools(&self) -> Arc<Tools> {
        let sandbox = NewRun {
            on_idle: Some(OnIdle::Destroy),
            ..self.sandbox.request(self.idle + SERVER_IDLE_MARGIN)
        };
        Arc::new(Tools {
            sessions: Sessions::new(sandbox, self.max_sessions.into(), self.idle),
            timeout: self.timeout,
            max_output: self.max_output as usize,
        })
    }
}

async fn on_standard_streams(args: &McpArgs, server: ServerArgs) -> Result<ExitCode, Failure> {
    let (client, embedded) = tokio::select! {
        found = connect_or_start(server) => found?,
        () = super::interrupted() => return Err(Failure::Interrupted),
    };
    let tools = args.tools();
    let handler = McpServer::new(Arc::clone(&tools), Some(Owner { client, key: "".into() }));
    let talk = async {
        match handler.serve(rmcp::transport::stdio()).await {
            Ok(running) => {
                // The result does not matter: the client may disconnect without notice.
                let _ = running.waiting().await;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => Err(Failure::usage(format!("no MCP client on standard input: {error}"))
                .hint("an MCP client starts this command; see `isorun mcp --help`")),
        }
    };
    let outcome = tokio::select! {
        outcome = talk => outcome,
        () = tools.sessions.expire() => Ok(ExitCode::SUCCESS),
        () = super::interrupted() => Err(Failure::Interrupted),
    };
    tools.sessions.end_all().await;
    match embedded {
        Some(embedded) => embedded.stop().await.and(outcome),
        None => outcome,
    }
}

async fn over_http(
    args: &McpArgs,
    address: SocketAddr,
    server: ServerArgs,
) -> Result<ExitCode, Failure> {
    if !address.ip().is_loopback() && !args.allow_plain_http {
        return Err(Failure::usage(format!(
            "{address} is not a loopback address, and API keys would \
                                           cross the network unencrypted"
        ))
        .hint(
            "listen on loopback behind a proxy that terminates TLS, or give --allow-plain-http",
        ));
    }
    let client = without_key(server)?;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr().context("the listener has no address")?;
    eprintln!("isorun mcp listens on http://{address}{}", mcp::http::PATH);
    let tools = args.tools();
    let options = mcp::http::HttpOptions {
        hosts: args.allow_host.clone(),
        origins: args.allow_origin.clone(),
    };
    let stop = CancellationToken::new();
    let serving = mcp::http::serve(listener, Arc::clone(&tools), client, options, stop.clone());
    let interrupt = async {
        super::interrupted().await;
        stop.cancel();
    };
    let served = tokio::select! {
        (served, ()) = async { tokio::join!(serving, interrupt) } => served,
        () = tools.sessions.expire() => Ok(()),
    };
    tools.sessions.end_all().await;
    served.context("cannot serve")?;
    Ok(ExitCode::SUCCESS)
}

/// Returns a client that has no key: over HTTP each request brings its own.
fn without_key(server: ServerArgs) -> Result<Client, Failure> {
    let target = Target::find(server.api_url, server.api_key)?;
    Ok(Client::new(&Target { key: None, ..target })?)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    create::duration(text).and_then(|duration| {
        if duration.is_zero() { Err("it must be more than 0".to_owned()) } else { Ok(duration) }
    })
}

fn call_timeout(text: &str) -> Result<Duration, String> {
    let duration = positive_duration(text)?;
    if duration.as_secs_f64() > mcp::arguments::MAX_TIMEOUT_SECONDS {
        return Err("it must be at most 1h".to_owned());
    }
    Ok(duration)
}
