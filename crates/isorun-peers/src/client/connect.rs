//! Opens TLS connections to peers.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, CertificateError, ClientConfig, pki_types::ServerName},
};

use super::PeerAddress;
use crate::{
    error::PeerError,
    identity::{IdentityError, node_of},
    socket,
};

/// Opens a connection whose server has the certificate of the peer.
pub(super) async fn connect(
    address: &PeerAddress,
    config: Arc<ClientConfig>,
    connect_timeout: Duration,
) -> Result<TlsStream<TcpStream>, PeerError> {
    let tcp = connect_tcp(address, connect_timeout)
        .await
        .map_err(|error| unreachable(address, format!("cannot connect: {error}")))?;
    let name = ServerName::try_from(address.node().dns_name())
        .map_err(|error| unreachable(address, error.to_string()))?;
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|error| handshake_error(address, &error))?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let found = certificates.first().map(node_of);
    match found {
        Some(Ok(node)) if node == *address.node() => Ok(stream),
        // TLS accepts names with wildcards and among others. Such a certificate is not that
        // of one node.
        Some(Ok(node)) => Err(wrong_node(address, vec![node.dns_name()])),
        Some(Err(IdentityError::InvalidNames { names })) => Err(wrong_node(address, names)),
        Some(Err(error)) => Err(unreachable(address, error.to_string())),
        None => Err(unreachable(address, "the server has no certificate".to_owned())),
    }
}

/// Connects to the first address that accepts. Each gets an equal share of the time that is
/// left.
async fn connect_tcp(address: &PeerAddress, connect_timeout: Duration) -> io::Result<TcpStream> {
    let start = tokio::time::Instant::now();
    let addresses: Vec<_> = tokio::net::lookup_host(address.host()).await?.collect();
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    for (index, socket_address) in addresses.iter().enumerate() {
        let left = connect_timeout.saturating_sub(start.elapsed());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        result = match timeout(share, TcpStream::connect(socket_address)).await {
            Ok(connected) => connected.and_then(|stream| {
                socket::configure(&stream)?;
                Ok(stream)
            }),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if result.is_ok() {
            break;
        }
    }
    result
}

fn handshake_error(address: &PeerAddress, error: &io::Error) -> PeerError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => wrong_node(address, presented.iter().map(|name| without_type(name)).collect()),
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)) => {
            wrong_node(address, Vec::new())
        }
        _ => unreachable(address, format!("the TLS handshake failed: {error}")),
    }
}

/// Returns a name of a certificate without its type: TLS has it as `DnsName("a.test")`.
fn without_type(name: &str) -> String {
    let quoted = name.split_once('"').and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or(name, |(quoted, _)| quoted).to_owned()
}

/// Reports whether an I/O error is a refusal of the handshake by the peer, such as of this
/// node's certificate. With TLS 1.3 it arrives after the end of the handshake.
pub(super) fn is_refused_handshake(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error does not return the error in it as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .or_else(|| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(_)) = tls {
            return true;
        }
        next = error.source();
    }
    false
}

fn wrong_node(address: &PeerAddress, names: Vec<String>) -> PeerError {
    PeerError::WrongNode { node: address.node().clone(), names }
}

/// Returns the error that a peer cannot be reached.
pub(super) fn unreachable(address: &PeerAddress, why: String) -> PeerError {
    PeerError::Unreachable { node: address.node().clone(), why }
}
