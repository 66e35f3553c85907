//! What a sandbox may reach over the network, and the proxy that sees to it.
//!
//! No packet of a sandbox leaves its namespace. Every connection that it opens
//! ends in a socket of ours there ([`gate`]); its name, if rules ask for one, is
//! read from its first bytes ([`sniff`]) and from what our resolver told this
//! sandbox ([`names`]); the [`policy`] decides; and what is allowed is connected
//! from outside ([`egress`]), or answered with a secret added ([`credentials`]).
//!
//! Whoever gives sockets uses this: nothing here knows of an engine.

pub mod address;
pub mod authority;
pub mod budget;
pub(crate) mod conceal;
pub mod credentials;
pub mod dns;
pub mod egress;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod hop;
mod inside;
pub mod intercept;
pub mod names;
pub mod policy;
mod relay;
pub mod resolver;
pub mod sniff;
pub mod wire;

use std::net::Ipv4Addr;
use std::sync::Arc;

pub use authority::Authority;
pub use credentials::{Credential, Credentials};
pub use policy::{Policy, Reason, Verdict};

use crate::engine::SandboxId;

/// All that decides what one sandbox reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Where it may connect to; nowhere by default.
    pub policy: Policy,
    /// Secrets that are put on its requests outside.
    pub credentials: Arc<Credentials>,
}

/// A connection that was not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The name that it was for, if one is known.
    pub name: Option<String>,
    /// Where it went.
    pub address: Ipv4Addr,
    /// And to which port.
    pub port: u16,
    /// Why it was not let through.
    pub reason: Reason,
}

/// Who wants to know what was not let through. Called from tasks that serve
/// sandboxes: it must not block.
pub trait Observer: Send + Sync {
    /// A connection was reset.
    fn blocked(&self, sandbox: &SandboxId, blocked: Blocked);
}
