//! Redaction of secrets in a body, in chunks of any size: no secret remains, and the
//! length does not change.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_egress::fuzzing::redact(input));
