//! The Python guest's own API: the package `sandbox`.

mod asyncio;
mod dependencies;
mod document;
mod event_loop;
mod http;
mod importlib;
mod logging;
mod packages;
mod serde;
mod stubs;
mod uploads;
