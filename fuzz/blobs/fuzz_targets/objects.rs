//! Objects of a store: chunks, trees and garbage lists, before and after decryption.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_blobs::fuzzing::objects(input));
