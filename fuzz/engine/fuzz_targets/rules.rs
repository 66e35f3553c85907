//! Rules of a network policy: read, shown, and read again; and what they decide.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::network::fuzzing::rules(input));
