//! The URL of a PostgreSQL server, and connections to it.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    NoTls,
    config::{Config, Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{Postgres, StoreError, schema};

/// The largest number of connections of one node.
pub const CONNECTIONS_PER_NODE: usize = 16;
/// The largest number of those that are shared: one is for the lease, and one for news.
const SHARED_CONNECTIONS: usize = CONNECTIONS_PER_NODE - 2;
/// The longest time until a connection is established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time to wait for a free connection.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// The settings of each session: its schema, and limits on the server, in milliseconds.
const SESSION_OPTIONS: &str = "-c search_path=isorun -c statement_timeout=10000 \
                               -c lock_timeout=5000 -c idle_in_transaction_session_timeout=15000";

/// The URL of a database of a cluster, such as `postgres://isorun@db.example/isorun`. It may
/// contain a password, which is never displayed.
#[derive(Clone)]
pub struct PostgresUrl {
    config: Config,
    uses_tls: bool,
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PostgresUrl {
    /// Writes the hosts and the name of the database.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{separator}{name}")?,
                Host::Unix(_) => write!(f, "{separator}a socket")?,
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("not a URL of PostgreSQL: use postgres://USER@HOST/DATABASE".to_owned());
        }
        // The error of the parser may contain a part of the password.
        let mut config: Config = text.parse().map_err(|_| {
            "not a valid URL of PostgreSQL: use postgres://USER@HOST/DATABASE; of its parameters, \
             those of libpq for sslmode, application_name, keepalives and timeouts are known"
                .to_owned()
        })?;
        if config.get_hosts().is_empty() {
            return Err("the URL of PostgreSQL names no host".to_owned());
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err("the URL of PostgreSQL names no database: add /DATABASE".to_owned());
        }
        let is_local = config.get_hosts().iter().all(is_local);
        let uses_tls = match config.get_ssl_mode() {
            SslMode::Disable if is_local => false,
            SslMode::Disable => {
                return Err("the URL of PostgreSQL disables TLS (sslmode=disable), and its host \
                            is another machine: passwords and secrets of the cluster would be \
                            sent unencrypted"
                    .to_owned());
            }
            SslMode::Prefer => !is_local,
            _ => true,
        };
        config.ssl_mode(if uses_tls { SslMode::Require } else { SslMode::Disable });
        let options = match config.get_options() {
            Some(own) => format!("{own} {SESSION_OPTIONS}"),
            None => SESSION_OPTIONS.to_owned(),
        };
        config.options(options).connect_timeout(CONNECT_TIMEOUT);
        config.keepalives(true).keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(10));
        if config.get_application_name().is_none() {
            config.application_name("isorun");
        }
        Ok(Self { config, uses_tls })
    }
}

/// Reports whether a host is this machine, so that no other machine sees what is sent.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    }
}

impl PostgresUrl {
    /// Returns the addresses of the server, as the URL has them.
    pub fn hosts(&self) -> Vec<(String, u16)> {
        let ports = self.config.get_ports();
        let names = self.config.get_hosts().iter().enumerate();
        names
            .filter_map(|(at, host)| match host {
                Host::Tcp(name) => {
                    let port = ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
                    Some((name.clone(), port))
                }
                Host::Unix(_) => None,
            })
            .collect()
    }
}

impl Postgres {
    /// Connects to a database, and migrates its schema to the current format. The server's
    /// certificate has to be valid for its name, by the authorities of this machine and those
    /// in the file `extra_roots`.
    pub async fn connect(
        url: &PostgresUrl,
        extra_roots: Option<&Path>,
    ) -> Result<Self, StoreError> {
        Self::connect_with(url, extra_roots, SHARED_CONNECTIONS).await
    }

    /// Connects to a database as [`Self::connect`] does, with at most `max_connections` beside
    /// those for the lease and for news.
    pub(crate) async fn connect_with(
        url: &PostgresUrl,
        extra_roots: Option<&Path>,
        max_connections: usize,
    ) -> Result<Self, StoreError> {
        let connector =
            Connector { url: url.clone(), extra_roots: extra_roots.map(Path::to_owned) };
        let pool = connector.pool(max_connections)?;
        let database = Self::new(pool, connector.pool(1)?, connector);
        schema::migrate(&database.pool).await?;
        Ok(database)
    }
}

/// What is needed to connect to a database.
pub struct Connector {
    url: PostgresUrl,
    extra_roots: Option<PathBuf>,
}

impl Connector {
    pub fn config(&self) -> &Config {
        &self.url.config
    }

    /// Returns the settings of TLS; `None` if connections do not use it.
    pub fn tls(&self) -> Result<Option<MakeRustlsConnect>, StoreError> {
        self.url.uses_tls.then(|| tls(self.extra_roots.as_deref())).transpose()
    }

    fn pool(&self, max_connections: usize) -> Result<Pool, StoreError> {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match self.tls()? {
            Some(tls) => Manager::from_config(self.config().clone(), tls, config),
            None => Manager::from_config(self.config().clone(), NoTls, config),
        };
        Pool::builder(manager)
            .max_size(max_connections)
            .wait_timeout(Some(WAIT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Postgres(error.to_string()))
    }
}

fn tls(extra_roots: Option<&Path>) -> Result<MakeRustlsConnect, StoreError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = extra_roots {
        let unusable =
            |error: String| StoreError::Postgres(format!("cannot use {}: {error}", path.display()));
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Postgres(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_never_show_their_password() {
        let url: PostgresUrl = "postgres://me:secret@db.example:6432/isorun".parse().unwrap();
        assert_eq!(format!("{url} {url:?}").matches("secret").count(), 0);
        assert_eq!(url.to_string(), "postgres://db.example/isorun");
        assert_eq!(url.hosts(), [("db.example".to_owned(), 6432)]);
        assert!(url.uses_tls, "another machine is reached by TLS");
        let local: PostgresUrl = "postgres://me@127.0.0.1/isorun".parse().unwrap();
        assert!(!local.uses_tls);
        for (wrong, why) in [
            ("mysql://me:secret@db.example/isorun", "postgres://"),
            ("postgres://me:secret@db.example", "names no database"),
            ("postgres://me:secret@db.example/isorun?sslmode=disable", "sslmode=disable"),
            ("postgres://me:secret@db.example/isorun?sslmode=secret", "sslmode"),
            ("postgres://me:secret@db.example:secret/isorun", "not a valid URL"),
        ] {
            let error = wrong.parse::<PostgresUrl>().unwrap_err();
            assert!(error.contains(why) && !error.contains("secret@"), "{wrong}: {error}");
        }
    }
}
