//! Any bytes in the place of a checkpoint's manifest: only what the server signed is
//! accepted, and that unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| isorun::fuzzing::manifests(input));
