//! Any body or WebSocket frame: an error, or a request of which nothing was
//! ignored.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| isorun::fuzzing::requests(input));
