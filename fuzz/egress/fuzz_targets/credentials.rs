//! Hosts, methods and paths of credentials, and their header values.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_egress::fuzzing::credentials(input));
