//! The options that select a cluster.

use std::path::PathBuf;

use isorun_server::{
    secret::Secret,
    store::{Postgres, PostgresUrl},
};

use crate::failure::Failure;

/// The options that select a cluster.
#[derive(clap::Args, Clone, Debug)]
pub struct ClusterArgs {
    /// The PostgreSQL database of a cluster, such as postgres://USER:PASSWORD@HOST/DATABASE
    ///
    /// Set it in the environment if it contains a password: other users of the machine can read
    /// the options of a process.
    #[arg(
        long,
        global = true,
        env = "ISORUN_CLUSTER",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Cluster"
    )]
    cluster: Option<String>,

    /// Additional certificate authorities of the server of the database
    #[arg(long, global = true, value_name = "FILE.pem", help_heading = "Cluster")]
    pub cluster_roots: Option<PathBuf>,
}

impl ClusterArgs {
    /// Returns the URL of the database; `None` if no cluster is selected. It is parsed here,
    /// since the parser of options would print an invalid one with its password.
    pub fn url(&self) -> Result<Option<PostgresUrl>, Failure> {
        let parsed = self.cluster.as_ref().map(|url| url.parse()).transpose();
        parsed.map_err(|why| Failure::usage(format!("--cluster or ISORUN_CLUSTER: {why}")))
    }

    /// Opens the database and the secret of the cluster; `None` if no cluster is selected.
    pub async fn open(&self) -> Result<Option<(Postgres, Secret)>, Failure> {
        let Some(url) = self.url()? else { return Ok(None) };
        Ok(Some(isorun_server::open_cluster(&url, self.cluster_roots.as_deref()).await?))
    }

    /// Opens the database of the cluster, which has to be selected.
    pub async fn database(&self) -> Result<Postgres, Failure> {
        Ok(self.open_selected().await?.0)
    }

    /// Opens the database and the secret of the cluster, which has to be selected.
    pub async fn open_selected(&self) -> Result<(Postgres, Secret), Failure> {
        match self.open().await? {
            Some(opened) => Ok(opened),
            None => Err(Failure::usage("no cluster is selected").hint(
                "specify --cluster, or set ISORUN_CLUSTER, to the PostgreSQL database that its \
                 servers were started with",
            )),
        }
    }
}
