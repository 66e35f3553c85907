//! /etc/passwd and /etc/group of an image.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_image::fuzzing::accounts(input));
