//! The gVisor engine, on the real thing.

mod smoke;
mod support;
