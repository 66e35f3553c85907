//! `sandbox.asyncio`, and the event loop under it.
