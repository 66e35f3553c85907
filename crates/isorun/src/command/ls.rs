//! `isorun ls`: lists a directory of a sandbox.

use std::{io::Write, process::ExitCode};

use super::table;
use crate::{client::Client, failure::Failure, visible::visible};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct LsArgs {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// An absolute path in the sandbox
    #[arg(default_value = "/")]
    path: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: LsArgs, client: Client) -> Result<ExitCode, Failure> {
    let entries = client.entries(&args.id, &args.path).await?;
    if args.json {
        return table::json(&entries);
    }
    let text: String = entries
        .entries
        .iter()
        // A name may contain any character but a slash, and each line is one name.
        .map(|name| visible(name) + "\n")
        .collect();
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}
