//! Secrets taken out of a body in any pieces: none comes through, no length changes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::network::fuzzing::redact(input));
