//! The errors of requests to peers.

use crate::node::NodeId;

/// An error in sending a request to a peer, or in reading its response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The URL of a peer is not valid.
    #[error(
        "not a valid URL of a peer: {url:?}: {why}: it has the form https://HOST:PORT, such as \
         https://10.0.0.7:7677"
    )]
    InvalidAddress {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The request cannot be forwarded to any peer.
    #[error("the request cannot be forwarded to another node: {0}")]
    InvalidRequest(&'static str),
    /// The request came from a peer.
    #[error(
        "{from} has forwarded this request, so it is not forwarded again: the nodes disagree \
         about which of them it belongs to: try again"
    )]
    Loop {
        /// The peer that sent the request.
        from: NodeId,
    },
    /// This node has too many requests or connections to the peer. The peer has received
    /// nothing of the request.
    #[error("{node} cannot take another request from this node: {why}: try again later")]
    Busy {
        /// The peer.
        node: NodeId,
        /// The limit that is reached.
        why: String,
    },
    /// The peer has processed nothing of the request: it cannot be reached, it refused the
    /// connection or its certificate, or it is shutting down.
    #[error("cannot reach {node}: {why}")]
    Unreachable {
        /// The peer.
        node: NodeId,
        /// The reason.
        why: String,
    },
    /// The certificate of the server at the peer's URL is that of another node. It has
    /// received nothing of the request.
    #[error(
        "the certificate of the server at the URL of {node} is for {}: correct the URL",
        if names.is_empty() { "no node".to_owned() } else { names.join(", ") }
    )]
    WrongNode {
        /// The peer.
        node: NodeId,
        /// The names in the certificate.
        names: Vec<String>,
    },
    /// The exchange ended before its response was complete. The peer may have processed the
    /// request, or parts of it.
    #[error("the request to {node} was interrupted: {why}")]
    Interrupted {
        /// The peer.
        node: NodeId,
        /// The reason.
        why: String,
    },
}

impl PeerError {
    /// Reports whether the peer has processed nothing of the request and a later attempt, or
    /// one at another node, can succeed. This is so if no connection could be opened
    /// (refused, timed out, or a handshake that failed), if the peer announced that it did
    /// not process the request (GOAWAY, or a stream refused with `REFUSED_STREAM`), and if a
    /// limit is reached. The request's body may have been read in part.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Unreachable { .. } | Self::WrongNode { .. } => true,
            Self::InvalidAddress { .. }
            | Self::InvalidRequest(_)
            | Self::Loop { .. }
            | Self::Interrupted { .. } => false,
        }
    }
}
