//! Entry points for fuzzers: parsers of input from clients and guests. Each function
//! panics when an invariant is violated.

use hyper::{
    HeaderMap, Uri,
    header::{self, HeaderName, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{core, http, strict_json};
use isorun_api::{
    AttachInput, CodeRequest, ContextRequest, ExecRequest, ForkRequest, NetworkChange, NewRun,
    Patch, RestoreRequest, ShellInput, TerminalInput,
};

/// Checks the parsers of the URL of a port, and of the heads of a request to it and
/// of the response.
///
/// The input has one line each for the host, the path, the query, and every header.
/// The first byte selects the kind of URL of the port, and whether there is a domain.
pub fn urls(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let mut lines = rest.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (host, path, query) = (line(), line(), line());
    let (Ok(host), Ok(path), Ok(query)) =
        (str::from_utf8(host), str::from_utf8(path), str::from_utf8(query))
    else {
        return;
    };
    // The HTTP library rejects invalid URIs before the server's own parsers.
    let Ok(uri) = format!("{path}?{query}").parse::<Uri>() else { return };
    let mut headers = HeaderMap::new();
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            && headers.len() < 100
        {
            headers.append(name, value);
        }
    }
    http::fuzz_urls(*kind, &uri, headers);
}

/// Checks the parsers of request bodies and of WebSocket text frames. The first byte
/// selects the type.
pub fn requests(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    match kind % 11 {
        0 => {
            if let Some(new) = parse::<NewRun>(text) {
                core::create_params::fuzz_new_run(new);
            }
        }
        1 => {
            if let Some(change) = parse::<NetworkChange>(text) {
                core::network::fuzz_network(&change);
            }
        }
        2 => drop(parse::<Patch>(text)),
        3 => drop(parse::<ExecRequest>(text)),
        4 => drop(parse::<ForkRequest>(text)),
        5 => drop(parse::<RestoreRequest>(text)),
        6 => drop(parse::<ShellInput>(text)),
        7 => drop(parse::<AttachInput>(text)),
        8 => drop(parse::<TerminalInput>(text)),
        9 => drop(parse::<CodeRequest>(text)),
        _ => drop(parse::<ContextRequest>(text)),
    }
}

/// Checks the parser of the events that an interpreter sends.
pub fn events(input: &[u8]) {
    http::fuzz_guest_event(input);
}

/// Checks the parser of the manifest of a hibernated run or a snapshot.
pub fn manifests(input: &[u8]) {
    core::fuzz_manifests(input);
}

/// Parses strictly. No accepted input may have been ignored: every value that is not
/// null must appear when the result is serialized, and that must parse to the same.
fn parse<T: DeserializeOwned + Serialize>(text: &[u8]) -> Option<T> {
    let parsed: T = match strict_json::object(text) {
        Ok(parsed) => parsed,
        Err(why) => {
            assert!(!why.is_empty() && why.len() < 2048, "{why}");
            return None;
        }
    };
    let given: Value = serde_json::from_slice(text).unwrap_or_else(|_| panic!("not JSON"));
    let written = serde_json::to_value(&parsed).unwrap_or_else(|error| panic!("{error}"));
    contains(&written, &given);
    let again: T = strict_json::object(written.to_string().as_bytes())
        .unwrap_or_else(|why| panic!("{written}: {why}"));
    assert_eq!(serde_json::to_value(&again).ok(), Some(written));
    Some(parsed)
}

fn contains(written: &Value, given: &Value) {
    match given {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let found = written.get(name);
                contains(found.unwrap_or_else(|| panic!("{name} was ignored")), value);
            }
        }
        Value::Array(items) => {
            assert_eq!(written.as_array().map(Vec::len), Some(items.len()));
            for (index, item) in items.iter().enumerate() {
                contains(&written[index], item);
            }
        }
        // An integer may have become a float.
        Value::Number(number) => assert_eq!(written.as_f64(), number.as_f64()),
        given => assert_eq!(written, given),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        path::Path,
        time::{Duration, Instant},
    };

    use super::*;

    /// A generator of random numbers: xorshift64.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
        }
    }

    /// Tokens that are significant to these parsers.
    const WORDS: [&[u8]; 32] = [
        b"isorun_live_",
        b"isorun_token=",
        b"run0123456789abcdef",
        b"%69",
        b"%25",
        b"%5F",
        b"/sb/",
        b"/p/",
        b"..",
        b"//",
        b"?",
        b"&",
        b";",
        b"=",
        b"\n",
        b": ",
        b"\xff",
        b"\0",
        b"\"",
        b"{",
        b"}",
        b"[",
        b"null",
        b"network",
        b"allow",
        b"__Host-",
        b"Domain=",
        b"Path=",
        b"cookie: ",
        b"authorization: ",
        b"aXNvcnVuX2xpdmVf",
        b"65535",
    ];

    /// The number of inputs, unless a duration is set.
    const INPUTS: u64 = 5_000;
    /// The seed of the random numbers, unless a duration is set.
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Checks random mutations of the seed inputs, without a fuzzer. They are the same in
    /// each test run, unless `ISORUN_FUZZ_SECONDS` sets a duration for random ones.
    /// `ISORUN_FUZZ_SEED` reproduces those of an earlier test run.
    fn run(target: &str, check: fn(&[u8])) {
        let dir =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/isorun/seeds").join(target);
        let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        seeds.sort();
        assert!(seeds.len() > 3);
        let number = |name| Some(env::var(name).ok()?.parse::<u64>().unwrap());
        let time = number("ISORUN_FUZZ_SECONDS").map(Duration::from_secs);
        let fresh = || time.map_or(SEED, |_| getrandom::u64().unwrap());
        // xorshift produces only zeros from a zero state.
        let seed = number("ISORUN_FUZZ_SEED").unwrap_or_else(fresh).max(1);
        eprintln!("{target}: ISORUN_FUZZ_SEED={seed}");
        seeds.iter().for_each(|seed| check(seed));
        let (mut numbers, mut count) = (Numbers(seed), 0);
        let start = Instant::now();
        while time.map_or(count < INPUTS, |time| start.elapsed() < time) {
            let input = mutated(&seeds, &mut numbers);
            let shown = std::panic::AssertUnwindSafe(|| check(&input));
            if let Err(panic) = std::panic::catch_unwind(shown) {
                eprintln!("{target}: {}", input.escape_ascii());
                std::panic::resume_unwind(panic);
            }
            count += 1;
        }
        eprintln!("{target}: {count} inputs");
    }

    /// Returns one of the seed inputs with one to six random mutations.
    fn mutated(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
        let mut input = seeds[numbers.below(seeds.len())].clone();
        for _ in 0..=numbers.below(6) {
            let at = numbers.below(input.len() + 1);
            match numbers.below(6) {
                0 => input.truncate(at.max(1)),
                1 => {
                    let word = WORDS[numbers.below(WORDS.len())];
                    input.splice(at..at, word.iter().copied());
                }
                2 if at < input.len() => input[at] = u8::try_from(numbers.below(256)).unwrap(),
                3 if at < input.len() => drop(input.remove(at)),
                4 => {
                    let other = &seeds[numbers.below(seeds.len())];
                    let from = numbers.below(other.len());
                    input.splice(at.., other[from..].iter().copied());
                }
                _ => {
                    let length = numbers.below(40).min(input.len() - at);
                    let piece = input[at..at + length].to_vec();
                    let to = numbers.below(input.len() + 1);
                    input.splice(to..to, piece);
                }
            }
        }
        input
    }

    #[test]
    fn url_invariants_hold_for_mutated_seeds() {
        run("urls", urls);
    }

    #[test]
    fn request_invariants_hold_for_mutated_seeds() {
        run("requests", requests);
    }

    #[test]
    fn event_invariants_hold_for_mutated_seeds() {
        run("events", events);
    }

    #[test]
    fn manifest_invariants_hold_for_mutated_seeds() {
        run("manifests", manifests);
    }
}
