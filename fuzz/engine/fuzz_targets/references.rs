//! Names of images: shown, and read again as the same; asked at their own registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::image::fuzzing::references(input));
