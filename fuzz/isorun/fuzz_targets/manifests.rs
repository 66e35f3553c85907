//! Manifests of checkpoints: only bytes that the server has signed are accepted, and
//! are parsed unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| isorun_server::fuzzing::manifests(input));
