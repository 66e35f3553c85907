//! Events of an interpreter: what is accepted can be parsed by every client.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| isorun_server::fuzzing::events(input));
