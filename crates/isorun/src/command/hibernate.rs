//! `isorun hibernate` and `isorun resume`.

use std::process::ExitCode;

use crate::{client::Client, failure::Failure};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct HibernateArgs {
    /// The sandboxes
    #[arg(required = true, value_parser = super::run_id)]
    ids: Vec<RunId>,
}

/// The operation on each sandbox.
#[derive(Clone, Copy)]
pub enum Operation {
    Hibernate,
    Resume,
}

pub async fn run(
    args: HibernateArgs,
    operation: Operation,
    client: Client,
) -> Result<ExitCode, Failure> {
    let mut exit_code = None;
    for id in args.ids {
        let outcome = match operation {
            Operation::Hibernate => client.hibernate(&id).await,
            Operation::Resume => client.resume(&id).await,
        };
        // Continue with the other sandboxes.
        if let Err(error) = outcome {
            let failure = Failure::from(error);
            failure.report();
            exit_code = Some(failure.exit_code());
        }
    }
    Ok(exit_code.map_or(ExitCode::SUCCESS, ExitCode::from))
}
