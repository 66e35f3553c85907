//! The address of a peer.

use http::Uri;

use crate::{error::PeerError, node::NodeId};

/// A peer, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    node: NodeId,
    host: String,
    port: u16,
}

impl PeerAddress {
    /// Creates the address of a peer from its URL, `https://HOST:PORT`. The host is only used
    /// to connect: the peer's certificate has the name of the node.
    ///
    /// # Errors
    ///
    /// The URL has another form: [`PeerError::InvalidAddress`].
    pub fn new(node: NodeId, url: &str) -> Result<Self, PeerError> {
        let invalid = |why| PeerError::InvalidAddress { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| invalid("it is not a URL"))?;
        let parts = uri.into_parts();
        if parts.scheme.as_ref().map(http::uri::Scheme::as_str) != Some("https") {
            return Err(invalid("the scheme must be https"));
        }
        let authority = parts.authority.ok_or_else(|| invalid("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("it must not contain a user"));
        }
        let path = parts.path_and_query;
        if path.is_some_and(|path| path.as_str() != "/") || url.contains('#') {
            return Err(invalid("it must end after the port"));
        }
        let port = authority.port_u16().filter(|port| *port != 0);
        let port = port.ok_or_else(|| invalid("it has no port from 1 to 65535"))?;
        let host = authority.host();
        // An IPv6 address is in brackets.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(invalid("it has no host"));
        }
        Ok(Self { node, host: host.to_owned(), port })
    }

    /// Returns the peer.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Returns the host, a name or an IP address, and the port.
    pub(crate) fn host(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_and_a_port_and_no_more() {
        let node = NodeId::random().unwrap();
        for (url, host, port) in [
            ("https://10.0.0.7:7677", "10.0.0.7", 7677),
            ("https://10.0.0.7:7677/", "10.0.0.7", 7677),
            ("https://[2001:db8::7]:443", "2001:db8::7", 443),
            ("https://node-7.example.com:1", "node-7.example.com", 1),
        ] {
            let address = PeerAddress::new(node.clone(), url).unwrap();
            assert_eq!(address.host(), (host, port), "{url}");
        }
        for url in [
            "",
            "/",
            "10.0.0.7:7677",
            "http://10.0.0.7:7677",
            "https://10.0.0.7",
            "https://10.0.0.7:0",
            "https://10.0.0.7:70000",
            "https://:7677",
            "https://10.0.0.7:7677/path",
            "https://10.0.0.7:7677?query",
            "https://10.0.0.7:7677#fragment",
            "https://user@10.0.0.7:7677",
            "https://10.0.0.7:7677\r\nx: y",
        ] {
            let error = PeerAddress::new(node.clone(), url).unwrap_err();
            assert!(matches!(error, PeerError::InvalidAddress { .. }), "{url}: {error}");
        }
    }
}
