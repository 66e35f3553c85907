//! `sandbox.http`, against real servers.
