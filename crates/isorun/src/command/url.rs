//! `isorun url`: where a port of a sandbox is reached.

use std::process::ExitCode;

use super::table;
use crate::{client::Client, failure::Failure, id::RunId};

#[derive(clap::Args)]
pub struct Args {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// The port that a server listens on inside, on the loopback address or any other
    #[arg(value_parser = clap::value_parser!(u16).range(2..))]
    port: u16,

    /// The URL that takes an API key, instead of the anonymous one
    #[arg(long)]
    keyed: bool,
}

pub const NOTES: &str = "\
The URL is for everybody who knows it: HTTP, streams and WebSockets. It ends
with the sandbox. With --keyed it takes the header `Authorization: Bearer KEY`.

Examples:
  isorun exec $id -- sh -c 'setsid python3 -m http.server 8000 >/dev/null 2>&1 &'
  curl $(isorun url $id 8000)";

pub async fn run(args: Args, client: Client) -> Result<ExitCode, Failure> {
    let Args { id, port, keyed } = args;
    if keyed {
        return table::line(&client.url_of(&format!("/v1/runs/{id}/proxy/{port}/")));
    }
    let run = client.run(&id).await?;
    match run.port_url {
        Some(url) => table::line(&client.url_of(&url.replace("{port}", &port.to_string()))),
        None => Err(Failure::usage(format!("{id} has no anonymous URLs: they are switched off"))
            .hint("use --keyed, and send an API key")),
    }
}
