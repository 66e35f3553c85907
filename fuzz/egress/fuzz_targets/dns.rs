//! DNS queries of a sandbox, and responses of an upstream resolver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_egress::fuzzing::dns(input));
