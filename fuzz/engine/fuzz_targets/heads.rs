//! Heads of HTTP/1 requests: what the proxy takes for clean, hyper reads the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::network::fuzzing::heads(input));
