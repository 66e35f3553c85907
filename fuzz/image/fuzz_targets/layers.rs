//! Layers of images: no entry outside of the directory, no limit exceeded.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_image::fuzzing::layers(input));
