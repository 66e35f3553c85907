//! `isorun url`: the URL of a port of a sandbox.

use std::process::ExitCode;

use super::table;
use crate::{client::Client, failure::Failure};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct UrlArgs {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// The port on which a server listens in the sandbox, on the loopback or any other address
    #[arg(value_parser = clap::value_parser!(u16).range(2..))]
    port: u16,

    /// Print the URL that requires an API key, instead of the anonymous one
    #[arg(long)]
    keyed: bool,
}

pub const NOTES: &str = "\
Anyone who knows the URL can use it, for HTTP, streams and WebSockets. It is
valid for the lifetime of the sandbox. With --keyed, requests need the header
`Authorization: Bearer KEY`.

Examples:
  isorun exec $id -- sh -c 'setsid python3 -m http.server 8000 >/dev/null 2>&1 &'
  curl $(isorun url $id 8000)";

pub async fn run(args: UrlArgs, client: Client) -> Result<ExitCode, Failure> {
    let UrlArgs { id, port, keyed } = args;
    if keyed {
        return table::line(&client.url_of(&format!("/v1/runs/{id}/proxy/{port}/")));
    }
    let run = client.run(&id).await?;
    match run.port_url {
        Some(url) => table::line(&client.url_of(&url.replace("{port}", &port.to_string()))),
        None => Err(Failure::usage(format!("anonymous URLs of {id} are disabled"))
            .hint("use --keyed, and send an API key")),
    }
}
