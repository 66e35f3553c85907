//! Images, from real registries and from hostile ones.

mod bundle;
mod garbage;
mod hostile;
mod import;
mod properties;
mod pull;
mod registry;
mod server;
mod shared;
mod unpack;
