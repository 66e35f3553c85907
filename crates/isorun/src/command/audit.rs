//! `isorun audit verify`: verifies that the audit logs were not changed. It needs the
//! server's secret, so it works on the server's machine only.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;
use isorun_api::{AuditEntry, RunId};
use isorun_server::{
    secret::Secret,
    store::{AuditRow, ChainError, Store, Verifier},
};

use super::{DataArgs, cluster_args::ClusterArgs, table};
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct AuditArgs {
    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Verify every log of the server, or a file
    ///
    /// The exit code is 1 if a log was changed.
    Verify {
        /// The output of `isorun logs --json` or of the HTTP API, or - for standard input
        #[arg(long, value_name = "FILE|-")]
        file: Option<PathBuf>,
    },
}

/// The number of entries that are read from the database at a time.
const ENTRIES_PER_PAGE: u32 = 1000;

pub fn run(args: AuditArgs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let (store, secret) = match args.cluster.open().await? {
            Some((database, secret)) => (Store::from(database), secret),
            None => {
                let dir = args.data.existing()?;
                let store = Store::open(&dir).context("cannot open the data directory")?;
                (store, Secret::open(&dir)?)
            }
        };
        let mut verifier = Verifier::new(secret);
        let AuditCommand::Verify { file } = args.command;
        let problems = match file {
            Some(file) => verify_file(&mut verifier, &file)?,
            None => verify_database(&mut verifier, &store).await?,
        };
        for problem in &problems {
            eprintln!("error: {problem}");
        }
        table::line(&format!(
            "{} entries in {} logs hold, {} logs do not",
            verifier.entries(),
            verifier.logs() - problems.len().min(verifier.logs()),
            problems.len(),
        ))?;
        Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Verifies a file with the entries of any number of sandboxes. It cannot be detected whether
/// their last entries are missing.
fn verify_file(verifier: &mut Verifier, file: &Path) -> Result<Vec<String>, Failure> {
    let lines: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
        Box::new(BufReader::new(opened))
    };
    let (mut problems, mut invalid) = (Vec::new(), BTreeSet::new());
    for (number, line) in lines.lines().enumerate() {
        let line = line.context("cannot read the log")?;
        let entry: AuditEntry = serde_json::from_str(&line).map_err(|error| {
            Failure::usage(format!("line {} is not a valid log entry: {error}", number + 1))
        })?;
        let row = AuditRow::from(entry);
        // Report one problem per log: the entries that follow are invalid as well.
        if !invalid.contains(&row.run_id)
            && let Err(problem) = verifier.check(&row)
        {
            invalid.insert(row.run_id);
            problems.push(problem.to_string());
        }
    }
    Ok(problems)
}

/// Verifies every log in the database.
async fn verify_database(verifier: &mut Verifier, store: &Store) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (run, ended) in store.audited_runs().await? {
        let Ok(id) = run.parse::<RunId>() else {
            problems.push(format!("not a valid sandbox id: {run}"));
            continue;
        };
        if let Err(problem) = verify_log(verifier, store, &id, ended).await? {
            problems.push(problem.to_string());
        }
    }
    Ok(problems)
}

/// Verifies one log, which must be complete if the sandbox has ended.
async fn verify_log(
    verifier: &mut Verifier,
    store: &Store,
    id: &RunId,
    ended: bool,
) -> anyhow::Result<Result<(), ChainError>> {
    let mut after = 0;
    loop {
        let rows = store.audit(id, after, ENTRIES_PER_PAGE).await?;
        let Some(last) = rows.last().map(|row| row.seq) else { break };
        if let Err(problem) = rows.iter().try_for_each(|row| verifier.check(row)) {
            return Ok(Err(problem));
        }
        after = last;
    }
    Ok(if ended { verifier.check_complete(id.as_str()) } else { Ok(()) })
}
