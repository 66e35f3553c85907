//! `isorun audit verify`: proves that nobody changed the logs. It needs the
//! server's secret, and so works on the server's machine.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;

use super::{DataArgs, table};
use crate::{
    api::AuditEntry,
    audit::Verifier,
    failure::Failure,
    id::RunId,
    secret::Secret,
    store::{AuditRow, Store},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check every log of the server, or one that was saved
    ///
    /// Exit code 1 means that a log does not hold.
    Verify {
        /// What `isorun logs --json` or the HTTP surface gave, or - for standard input
        #[arg(long, value_name = "FILE|-")]
        file: Option<PathBuf>,
    },
}

/// Entries that are read at once.
const PAGE: u32 = 1000;

pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let dir = args.data.existing()?;
    let mut verifier = Verifier::new(Secret::open(&dir)?);
    let Command::Verify { file } = args.command;
    let broken = match file {
        Some(file) => saved(&mut verifier, &file)?,
        None => {
            let mut broken = Vec::new();
            super::block_on(async {
                broken = kept(&mut verifier, &dir).await?;
                Ok(ExitCode::SUCCESS)
            })?;
            broken
        }
    };
    for problem in &broken {
        eprintln!("error: {problem}");
    }
    table::line(&format!(
        "{} entries in {} logs hold, {} logs do not",
        verifier.entries(),
        verifier.logs() - broken.len().min(verifier.logs()),
        broken.len(),
    ))?;
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lines of any number of runs. Nobody can tell whether their last ones are
/// missing.
fn saved(verifier: &mut Verifier, file: &Path) -> Result<Vec<String>, Failure> {
    let lines: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
        Box::new(BufReader::new(opened))
    };
    let (mut broken, mut bad) = (Vec::new(), BTreeSet::new());
    for (number, line) in lines.lines().enumerate() {
        let line = line.context("cannot read the log")?;
        let entry: AuditEntry = serde_json::from_str(&line).map_err(|error| {
            Failure::usage(format!("line {} is no entry of a log: {error}", number + 1))
        })?;
        let row = AuditRow::from(entry);
        // One problem of a log is enough: what follows it cannot hold either.
        if !bad.contains(&row.run_id)
            && let Err(problem) = verifier.check(&row)
        {
            bad.insert(row.run_id);
            broken.push(problem.to_string());
        }
    }
    Ok(broken)
}

/// Every log in the database.
async fn kept(verifier: &mut Verifier, dir: &Path) -> anyhow::Result<Vec<String>> {
    let store = Store::open(dir)?;
    let mut broken = Vec::new();
    for (run, over) in store.audited_runs().await? {
        let Ok(id) = run.parse::<RunId>() else {
            broken.push(format!("{run}: this is no name of a run"));
            continue;
        };
        if let Err(problem) = one(verifier, &store, &id, over).await? {
            broken.push(problem.to_string());
        }
    }
    Ok(broken)
}

async fn one(
    verifier: &mut Verifier,
    store: &Store,
    id: &RunId,
    over: bool,
) -> anyhow::Result<Result<(), crate::audit::ChainError>> {
    let mut beyond = 0;
    loop {
        let rows = store.audit(id, beyond, PAGE).await?;
        let Some(last) = rows.last().map(|row| row.seq) else { break };
        if let Err(problem) = rows.iter().try_for_each(|row| verifier.check(row)) {
            return Ok(Err(problem));
        }
        beyond = last;
    }
    Ok(if over { verifier.check_complete(id.as_str()) } else { Ok(()) })
}
