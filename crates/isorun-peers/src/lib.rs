//! Connections between the servers of a cluster, which are its nodes: mutual TLS with a
//! certificate authority of the cluster, a listener for requests of peers, and a client that
//! forwards requests to them. It knows nothing of sandboxes.
//!
//! ```text
//!  a client of the API ──▶ node A: PeerClient::send ──mutual TLS──▶ node B: PeerListener
//!                              │                                        │
//!                              ├─ HTTP/2, shared by requests ──────────▶├─▶ service, with the
//!                              └─ HTTP/1.1, one for each WebSocket ────▶┘   extension Peer(A)
//! ```
//!
//! Every node issues its own certificate at its start, with the [`Authority`] that all nodes
//! have: an [`Identity`]. The only name in it is that of the node,
//! `<node id>.isorun.internal`, so a peer is authenticated wherever its URL leads.
//!
//! | to change | start in |
//! |---|---|
//! | certificates, and how long they are valid | `authority.rs` |
//! | TLS: versions, what is verified, files of the operator | `identity.rs` |
//! | which connections and requests are accepted, shutdown | `listener.rs`, `listener/connection.rs` |
//! | which request goes to which connection, errors | `client.rs`, `client/pool.rs` |
//! | when a peer is considered dead | `client/connection.rs`; for WebSockets `client/pool.rs`, `socket.rs` |
//! | how bodies are streamed and cancelled | `client/exchange.rs` |
//! | WebSockets | `client/upgrade.rs` |
//! | which headers are forwarded | `headers.rs` |
//! | a limit | `listener/options.rs`, `client/options.rs`, `http2.rs` |
//!
//! What must stay true:
//!
//! - Only a node with a valid certificate of the authority reaches the service, with TLS 1.3
//!   only, and [`Peer`] is the node in the certificate. (tests `tls`)
//! - A request is sent only to a server with the certificate of the node that was asked for.
//!   (tests `tls`)
//! - [`PeerError::is_retryable`] is true only if the peer has processed nothing of the
//!   request. (tests `failures`, `shutdown`)
//! - Bodies are streamed: what is received and not read is bounded, and streams that are not
//!   read do not delay others. (tests `bodies`)
//! - A request that is dropped is cancelled at the peer, also while its body waits. (tests
//!   `bodies`)
//! - A peer that no longer answers is noticed after about 10 s; one that does not read is
//!   not taken for dead. (tests `failures`, `websockets`; unit test of `socket.rs`)
//! - Headers of one connection are not forwarded. (tests `headers`; unit tests of
//!   `headers.rs`)
//! - A request of a peer is not forwarded again. (tests `failures`)
//! - Connections, requests, headers and handshakes are bounded. (tests `limits`)
//! - It depends on no other crate of this repository. (`cargo xtask check edges`)

mod authority;
mod body;
mod client;
mod error;
mod headers;
mod http2;
mod identity;
mod in_flight;
mod limit;
mod listener;
mod node;
mod socket;

pub use self::authority::{Authority, AuthorityError, AuthorityPem};
pub use self::body::{BoxError, PeerBody};
pub use self::client::{ClientOptions, PeerAddress, PeerClient};
pub use self::error::PeerError;
pub use self::headers::AddedHeaders;
pub use self::http2::{MAX_REQUEST_HEADER_BYTES, MAX_RESPONSE_HEADER_BYTES};
pub use self::identity::{Identity, IdentityError};
pub use self::listener::{Peer, PeerListener, ServeOptions};
pub use self::node::{InvalidNodeId, NodeId};
