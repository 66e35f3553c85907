//! `isorun hibernate` and `isorun resume`: sandboxes to disk, and back.

use std::process::ExitCode;

use crate::{client::Client, failure::Failure, id::RunId};

#[derive(clap::Args)]
pub struct Args {
    /// The sandboxes
    #[arg(required = true, value_parser = super::run_id)]
    ids: Vec<RunId>,
}

/// Which way.
#[derive(Clone, Copy)]
pub enum Way {
    ToDisk,
    Back,
}

pub async fn run(args: Args, way: Way, client: Client) -> Result<ExitCode, Failure> {
    let mut trouble = None;
    for id in args.ids {
        let done = match way {
            Way::ToDisk => client.hibernate(&id).await,
            Way::Back => client.resume(&id).await,
        };
        // The others are changed all the same.
        if let Err(error) = done {
            let failure = Failure::from(error);
            failure.report();
            trouble = Some(failure.exit_code());
        }
    }
    Ok(trouble.map_or(ExitCode::SUCCESS, ExitCode::from))
}
