//! Requests to ports of a sandbox, of any host, path, query and headers: no key, token
//! or id of the server is forwarded to a sandbox, and no header of its response applies
//! outside of its port.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| isorun_server::fuzzing::urls(input));
