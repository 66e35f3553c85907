//! Authentication challenges and responses of a registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_image::fuzzing::challenges(input));
