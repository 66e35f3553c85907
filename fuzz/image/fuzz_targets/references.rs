//! Image references: they are unchanged after formatting and parsing, and requests are
//! sent only to their own registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_image::fuzzing::references(input));
