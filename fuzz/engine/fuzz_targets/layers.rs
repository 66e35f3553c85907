//! Layers of images: nothing leaves its folder, nothing is over a limit.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::image::fuzzing::layers(input));
