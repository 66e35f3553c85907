//! Tests of the gVisor engine with real sandboxes: the conformance suite, and tests that
//! are specific to this engine.

// A failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

mod crash;
mod host;
mod names;
mod network;
mod pool;
mod protocols;
mod support;

mod conformance {
    use crate::support::Scratch;

    isorun_engine::conformance!(Scratch::open(0));
}

mod shells {
    use crate::support::Scratch;

    isorun_engine::conformance_of_shells!(Scratch::open(0));
}
