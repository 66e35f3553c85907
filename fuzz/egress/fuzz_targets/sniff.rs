//! Protocol detection by the first bytes of a connection: the result does not depend on
//! the sizes of the chunks.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| isorun_egress::fuzzing::sniff(input));
