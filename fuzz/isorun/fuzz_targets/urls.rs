//! Any host, path, query and headers: no key, token or id of ours reaches a
//! sandbox, and nothing of a sandbox's answer acts beyond its port.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| isorun::fuzzing::urls(input));
