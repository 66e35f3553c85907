//! Rules of a network policy: parsing, formatting, and their decisions.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_egress::fuzzing::rules(input));
