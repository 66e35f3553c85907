//! The network policy of a sandbox, and the egress proxy that enforces it.
//!
//! No packet of a sandbox leaves its network namespace. Every connection that the
//! sandbox opens terminates at a socket of the proxy in that namespace ([`egress`]).
//! If a rule needs the connection's name, it is read from its first bytes ([`sniff`])
//! and from the answers that this sandbox received from our resolver ([`names`]). The
//! [`policy`] decides. An allowed connection is opened from outside the namespace
//! ([`egress`]), or its requests are forwarded with a secret added ([`credentials`]).
//!
//! | to change | start in |
//! |---|---|
//! | rules and what they decide | `policy.rs`, with the table of precedence |
//! | how the name of a connection is found | `sniff.rs`, `names.rs` |
//! | answers to DNS queries | `dns.rs`, `resolver.rs` |
//! | secrets: in requests, and in responses | `credentials.rs`, `intercept.rs`, `redact.rs` |
//! | requests of interpreters, which have no sockets | `fetch.rs` |
//! | how bytes are relayed | `relay.rs`, `upstream.rs`, `guest_socket.rs` |
//! | what sandboxes share: resolver, descriptors | `context.rs`, `budget.rs` |
//!
//! What must stay true (the tests are those of `isorun-engine` and `isorun`):
//!
//! - Nothing is allowed by default, and addresses that are not public only if the
//!   operator permits their range and a rule names them. (unit tests of `policy.rs`;
//!   tests `network`)
//! - A secret never enters the sandbox, and is sent only to its own host, which has
//!   authenticated with a certificate. (tests `credentials`, `network`; fuzz targets
//!   `credentials`, `redact`)
//! - Data of guests is parsed strictly, and bounded in size. (unit tests; fuzz targets
//!   `sniff`, `heads`, `dns`, `rules`)
//! - One sandbox leaves connections and queries to the others. (tests `protocols`, unit
//!   tests of `budget.rs`)
//! - A closed connection leaves no state in the sandbox, which would make a checkpoint
//!   fail: see `guest_socket.rs`.
//! - The caller passes in the sockets: nothing here depends on an engine. (`check edges`)

pub mod address;
pub mod authority;
pub mod budget;
pub mod context;
pub mod credentials;
pub mod dns;
pub mod egress;
pub mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guest_socket;
pub mod hop_by_hop;
pub mod intercept;
pub mod names;
pub mod policy;
pub mod proxy;
mod rate;
pub(crate) mod redact;
mod relay;
pub mod resolver;
pub mod sniff;
pub mod upstream;

use std::net::Ipv4Addr;
use std::sync::Arc;

pub use authority::Authority;
pub use credentials::{Credential, Credentials};
pub use policy::{Policy, Reason, Verdict};

use isorun_agent::SandboxId;

/// The network configuration of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The rules for outgoing connections; by default none is allowed.
    pub policy: Policy,
    /// Secrets that the proxy adds to its requests.
    pub credentials: Arc<Credentials>,
}

/// A connection that was blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The name that the connection was for, if one is known.
    pub name: Option<String>,
    /// The destination address.
    pub address: Ipv4Addr,
    /// The destination port.
    pub port: u16,
    /// The reason.
    pub reason: Reason,
}

/// A receiver of reports about blocked connections. Called from tasks that serve
/// sandboxes: it must not block.
pub trait Observer: Send + Sync {
    /// Called when a connection of a sandbox was blocked.
    fn blocked(&self, sandbox: &SandboxId, blocked: Blocked);
}
