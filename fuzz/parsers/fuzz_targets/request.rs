//! Requests of a guest with `fetch`: a method, a URL and header fields of any content
//! and number result in a request or an error, and never in a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/isola/src/http/head.rs"]
#[allow(dead_code, reason = "the crate uses the rest")]
mod head;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.split('\n');
    // Most code after the URL is reached only with a valid one.
    let (Some(first), Some(second)) = (parts.next(), parts.next()) else { return };
    let method = if first.len() % 2 == 0 { first } else { "GET" };
    let url = if second.len() % 3 == 0 { second.to_owned() } else { format!("http://{second}") };
    let mut fields: Vec<(String, String)> = parts
        .map(|line| line.split_once(':').unwrap_or((line, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // More fields than an input has lines, with distinct names or the same name.
    if let [.., kind, low, high] = input {
        let count = usize::from(u16::from_le_bytes([*low, *high])) % 4096;
        match kind % 64 {
            0 => fields.extend((0..count).map(|number| (format!("x{number}"), "v".to_owned()))),
            1 => fields.extend((0..count).map(|_| ("x".to_owned(), "v".to_owned()))),
            _ => {}
        }
    }
    let length = (input.len() % 2 == 0).then_some(u64::MAX);
    match head::request(method, &url, &fields, length) {
        Ok(request) => {
            assert!(request.headers.len() <= head::MAX_HEADER_FIELDS + 1);
            assert!(matches!(request.uri.scheme_str(), Some("http" | "https")));
            assert!(!request.headers.contains_key("host"));
            assert!(!request.headers.contains_key("transfer-encoding"));
            // The headers can be parsed again.
            let texts = head::texts(&request.headers);
            assert_eq!(head::header_map(texts).ok().as_ref(), Some(&request.headers));
        }
        Err(reason) => assert!(reason.len() < 10_000, "an error of {} bytes", reason.len()),
    }
    match head::header_map(fields) {
        Ok(headers) => assert!(head::response(&headers).is_ok()),
        Err(reason) => assert!(reason.len() < 10_000, "an error of {} bytes", reason.len()),
    }
});
