//! Bodies and WebSocket frames: an error, or a request without ignored fields.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| isorun_server::fuzzing::requests(input));
