//! `isorun net`: the network rules of a sandbox.

use std::process::ExitCode;

use clap::Subcommand;

use super::table;
use crate::{client::Client, failure::Failure};
use isorun_api::RunId;
use isorun_api::{Network, NetworkChange, NetworkRules};

#[derive(clap::Args)]
pub struct NetArgs {
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Subcommand)]
enum NetCommand {
    /// Show the network rules of a sandbox
    Show {
        /// The sandbox
        #[arg(value_parser = super::run_id)]
        id: RunId,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Change the network rules of a sandbox; open connections are reset
    #[command(after_long_help = SET_NOTES)]
    Set {
        /// The sandbox
        #[arg(value_parser = super::run_id)]
        id: RunId,

        #[command(flatten)]
        rules: RuleArgs,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The options for network rules.
#[derive(Clone, clap::Args)]
pub struct RuleArgs {
    /// A predefined set of rules: default (the web), internet (everything public) or locked-down
    /// (nothing)
    #[arg(long = "network", value_name = "PROFILE", conflicts_with_all = ["allow", "deny"], help_heading = "Network")]
    profile: Option<String>,

    /// Allow connections to this destination and deny all others: an IP, a CIDR, a hostname or
    /// *.suffix; repeat it for more
    #[arg(long, value_name = "RULE", help_heading = "Network")]
    allow: Vec<String>,

    /// Deny connections to this destination, even if it is allowed; repeat it for more
    #[arg(long, value_name = "RULE", help_heading = "Network")]
    deny: Vec<String>,
}

const SET_NOTES: &str = "\
Examples:
  isorun net set $id --allow pypi.org --allow '*.pythonhosted.org'
  isorun net set $id --deny 203.0.113.0/24
  isorun net set $id --network locked-down";

impl RuleArgs {
    pub fn change(self) -> NetworkChange {
        let lists = !self.allow.is_empty() || !self.deny.is_empty();
        NetworkChange {
            network: lists
                .then_some(NetworkRules { allow: Some(self.allow), deny: Some(self.deny) }),
            network_profile: self.profile,
            ..NetworkChange::default()
        }
    }
}

pub async fn run(args: NetArgs, client: Client) -> Result<ExitCode, Failure> {
    let (network, json) = match args.command {
        NetCommand::Show { id, json } => (client.network(&id).await?, json),
        NetCommand::Set { id, rules, json } => {
            let change = rules.change();
            if change.network.is_none() && change.network_profile.is_none() {
                return Err(Failure::usage("no rules were specified").hint(
                    "specify --network, --allow or --deny; `isorun net show` prints the current \
                     rules",
                ));
            }
            (client.set_network(&id, &change).await?, json)
        }
    };
    if json { table::json(&network) } else { table::line(&text(&network)) }
}

fn text(network: &Network) -> String {
    let list = |texts: &[String]| if texts.is_empty() { "-".to_owned() } else { texts.join(" ") };
    format!(
        "profile      {}\nallow        {}\ndeny         {}\nall the rest {}\ncredentials  {}",
        network.profile.as_deref().unwrap_or("-"),
        list(&network.allow),
        list(&network.deny),
        network.rest,
        list(&network.credentials),
    )
}
