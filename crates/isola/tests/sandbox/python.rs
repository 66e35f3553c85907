//! The Python guest's own API: the package `sandbox`.

mod asyncio;
mod http;
