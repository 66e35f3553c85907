//! The API of the Python guest: the package `sandbox`.

mod asyncio;
mod clients;
mod compression;
mod dependencies;
mod depth;
mod document;
mod ending;
mod event_loop;
mod http;
mod importlib;
mod interpreter;
mod key_derivation;
mod known_packages;
mod logging;
mod packages;
mod serde;
mod stand_ins;
mod stubs;
mod uploads;
mod values;
mod waits;
