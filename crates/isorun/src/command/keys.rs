//! `isorun keys`: the API keys of a server. Works on the server's data directory, on its
//! machine, whether the server is running or not; or on the database of a cluster.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use isorun_api::random_hex;
use isorun_server::{
    clock, data_dir,
    secret::{self, Secret},
    store::{KeyRow, Store},
};

use super::{DataArgs, cluster_args::ClusterArgs, table};
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct KeysArgs {
    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Create a key, and print it: it cannot be shown again
    ///
    /// A key has access to the sandboxes of its tenant only.
    Create {
        /// A description, such as the name of a program
        name: String,
        /// The tenant whose sandboxes it has access to [default: a tenant of its own]
        #[arg(long)]
        tenant: Option<String>,
        /// The region in the text of the key
        #[arg(long, default_value = "local", value_parser = secret::region)]
        region: String,
        /// Also allow requests that concern the complete server, such as /metrics
        #[arg(long)]
        admin: bool,
    },
    /// List the keys, without their secrets
    Ls {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key, immediately and permanently
    Revoke {
        /// Its id, as `keys ls` shows it
        id: String,
    },
}

pub fn run(args: KeysArgs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let (store, secret) = match args.cluster.open().await? {
            Some((database, secret)) => (Store::from(database), secret),
            None => {
                let dir = args.data.dir()?;
                data_dir::restrict_umask();
                data_dir::prepare(&dir)?;
                let store = Store::open(&dir).context("cannot open the data directory")?;
                (store, Secret::open(&dir)?)
            }
        };
        match args.command {
            KeysCommand::Create { name, tenant, region, admin } => {
                let key = create(&store, &secret, &region, &name, tenant, admin).await?;
                table::line(&key)
            }
            KeysCommand::Ls { json } => list(&store, json).await,
            KeysCommand::Revoke { id } => {
                if store.revoke_key(&id).await.map_err(anyhow::Error::from)? {
                    return Ok(ExitCode::SUCCESS);
                }
                Err(Failure::usage(format!("the key {id:?} does not exist or is revoked already"))
                    .hint("`isorun keys ls` lists the ids"))
            }
        }
    })
}

/// Creates a key and returns its text.
pub async fn create(
    store: &Store,
    secret: &Secret,
    region: &str,
    name: &str,
    tenant: Option<String>,
    admin: bool,
) -> anyhow::Result<String> {
    let id = random_hex::<6>().context("cannot get random bytes from the system")?;
    let tenant = tenant.unwrap_or_else(|| id.clone());
    store.add_key(KeyRow::new(&id, &tenant, name, admin)).await?;
    Ok(secret.key(region, &id))
}

async fn list(store: &Store, json: bool) -> Result<ExitCode, Failure> {
    let keys = store.keys().await.map_err(anyhow::Error::from)?;
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| {
                serde_json::json!({
                    "id": key.id, "name": key.name, "tenant": key.tenant, "admin": key.admin,
                    "created_at": clock::rfc3339(key.created_at),
                    "revoked_at": key.revoked_at.map(clock::rfc3339),
                })
            })
            .collect();
        return table::json(&keys);
    }
    let rows: Vec<_> = keys
        .into_iter()
        .map(|key| {
            [
                key.id,
                key.name,
                key.tenant,
                if key.admin { "yes" } else { "" }.to_owned(),
                clock::rfc3339(key.created_at),
                key.revoked_at.map_or_else(String::new, clock::rfc3339),
            ]
        })
        .collect();
    table::print(["ID", "NAME", "TENANT", "ADMIN", "CREATED", "REVOKED"], &rows)
}
