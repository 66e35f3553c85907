//! Questions of a sandbox to its resolver, and answers of a resolver outside.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::network::fuzzing::dns(input));
