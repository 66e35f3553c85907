//! Manifests, indexes and configurations of images: parsing, platform selection,
//! validation.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_image::fuzzing::documents(input));
