//! The Python guest's own API: the package `sandbox`.

mod asyncio;
mod dependencies;
mod document;
mod http;
mod importlib;
mod packages;
mod serde;
