//! The gVisor engine, on the real thing: what every engine has to do, and what
//! is this one's own.

// Helpers of tests fail tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod crash;
mod host;
mod names;
mod network;
mod pool;
mod protocols;
mod support;
mod world;

mod conformance {
    use crate::support::Scratch;

    isorun_engine::conformance!(Scratch::open(0));
}

mod shells {
    use crate::support::Scratch;

    isorun_engine::conformance_of_shells!(Scratch::open(0));
}
