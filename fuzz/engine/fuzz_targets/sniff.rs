//! The first bytes of a connection, in any pieces: one answer, whatever the cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::network::fuzzing::sniff(input));
