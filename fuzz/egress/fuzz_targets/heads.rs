//! Heads of HTTP/1 requests: if the proxy accepts a head, hyper parses it the same way.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_egress::fuzzing::heads(input));
