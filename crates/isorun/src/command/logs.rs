//! `isorun logs`: prints the audit log of a sandbox, as JSON lines or as text.

use std::{io::Write, process::ExitCode};

use futures_util::{StreamExt, TryStreamExt, pin_mut};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::io::StreamReader;

use crate::{client::Client, failure::Failure, visible::visible};
use isorun_api::AuditEntry;
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct LogsArgs {
    /// The sandbox, which may be destroyed already
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// Print the JSON lines that the server stores, with their HMACs
    #[arg(long)]
    json: bool,
}

pub async fn run(args: LogsArgs, client: Client) -> Result<ExitCode, Failure> {
    let body = client.audit(&args.id).await?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        pin_mut!(body);
        while let Some(piece) = body.next().await {
            stdout.write_all(&piece?).map_err(Failure::output)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let body = body.map_err(std::io::Error::other);
    pin_mut!(body);
    let mut lines = BufReader::new(StreamReader::new(body)).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| Failure::Other(error.into()))? {
        let entry: AuditEntry = serde_json::from_str(&line).map_err(|error| {
            Failure::Other(anyhow::anyhow!("the server sent an invalid log entry: {error}"))
        })?;
        let AuditEntry { seq, ts, event, data, .. } = entry;
        let data = visible(data.get());
        writeln!(stdout, "{seq:>4}  {ts}  {event:<18}  {data}").map_err(Failure::output)?;
    }
    Ok(ExitCode::SUCCESS)
}
