//! What a registry wants to be shown, and what it answers with.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_engine::image::fuzzing::challenges(input));
