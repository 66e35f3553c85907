//! The socket: plain or with TLS, and how serving ends.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result};
use axum_server::{Handle, accept::NoDelayAcceptor, tls_rustls::RustlsConfig};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{App, routes};

/// How long a client may take to send the head of a request.
const SLOW_HEAD: Duration = Duration::from_secs(15);

/// How long answers may take to leave, once the grace is over.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A socket that is bound, and not served yet.
pub struct Listening {
    socket: TcpListener,
    tls: Option<RustlsConfig>,
    pub address: SocketAddr,
}

impl Listening {
    pub async fn bind(config: &super::Config) -> Result<Self> {
        let socket = TcpListener::bind(config.listen)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        socket.set_nonblocking(true)?;
        let tls = match &config.tls {
            None => None,
            Some((chain, key)) => {
                Some(RustlsConfig::from_pem_file(chain, key).await.with_context(|| {
                    format!("cannot use the certificate {} with {}", chain.display(), key.display())
                })?)
            }
        };
        Ok(Self { address: socket.local_addr()?, socket, tls })
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until the server stops, then lets requests end for a while.
    pub async fn serve(self, app: &App) -> Result<()> {
        let handle = Handle::new();
        let stopping = tokio::spawn({
            let (app, handle) = (app.clone(), handle.clone());
            async move {
                app.stopping.cancelled().await;
                let grace = app.config.limits.grace;
                handle.graceful_shutdown(Some(grace + LAST_WORDS));
                tokio::time::sleep(grace).await;
                // Who still waits for a sandbox is told that it is gone.
                app.end_sandboxes().await;
            }
        });
        let forget = tokio::spawn({
            let app = app.clone();
            async move { app.rates.forget_idle().await }
        });
        let service = routes::service(app).into_make_service();
        let served = match self.tls {
            None => {
                let server = axum_server::from_tcp(self.socket)?.handle(handle);
                // Small pieces of output leave at once.
                let mut server = server.acceptor(NoDelayAcceptor::new());
                configure(server.http_builder());
                server.serve(service).await
            }
            Some(tls) => {
                let server = axum_server::from_tcp_rustls(self.socket, tls)?.handle(handle);
                let mut server = server.map(|tls| tls.acceptor(NoDelayAcceptor::new()));
                configure(server.http_builder());
                server.serve(service).await
            }
        };
        forget.abort();
        stopping.abort();
        served.context("the server cannot go on")
    }
}

fn configure(builder: &mut hyper_util::server::conn::auto::Builder<TokioExecutor>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SLOW_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(1000)
        .enable_connect_protocol();
}
