//! The head of a request or response, given as strings by a guest or a handler:
//! method, URL and header fields, within limits.
//!
//! `HeaderMap` panics when it is full, so fields are counted first and added with
//! the functions that return an error. This file does not depend on the rest of
//! the crate, because the fuzzer compiles it separately.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, request};

/// The maximum number of header fields in one request or response.
pub const MAX_HEADER_FIELDS: usize = 1_000;

/// The maximum size of the header fields of one request or response in bytes,
/// names and values together.
pub const MAX_HEADER_BYTES: usize = 256 << 10;

/// The maximum number of characters of a string that an error message quotes.
const MAX_QUOTED_CHARS: usize = 200;

/// Fields that a guest must not set: they belong to the connection, which the host
/// manages, or could name another target than the URL.
const HOST_CONTROLLED_FIELDS: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Checks the head of a request that a guest wants to send. `length` is the length
/// of a streamed body. The error is for the guest.
pub(crate) fn request(
    method: &str,
    url: &str,
    fields: &[(String, String)],
    length: Option<u64>,
) -> Result<request::Parts, String> {
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| format!("{} is not an HTTP method", quoted(method)))?;
    let uri: Uri = url.parse().map_err(|error| format!("{} is not a URL: {error}", quoted(url)))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(format!("{} is not an absolute http or https URL", quoted(url)));
    }
    check_limits("request", fields.iter().map(|(name, value)| name.len() + value.len()))?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = method;
    head.uri = uri;
    for (name, value) in fields {
        let field = field_name(name)?;
        if HOST_CONTROLLED_FIELDS.contains(&field) {
            return Err(format!("the header field {field} can be set only by the host"));
        }
        // The length is taken from the body; see below for a streamed one.
        if field != header::CONTENT_LENGTH {
            append(&mut head.headers, field, value)?;
        }
    }
    if let Some(length) = length {
        head.headers
            .try_insert(header::CONTENT_LENGTH, length.into())
            .map_err(|_| too_many("request"))?;
    }
    Ok(head)
}

/// Checks the header fields of a response, and returns them as pairs of strings.
/// The error is for the guest.
pub(crate) fn response(headers: &HeaderMap) -> Result<Vec<(String, String)>, String> {
    let sizes = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    check_limits("response", sizes)?;
    Ok(texts(headers))
}

/// Returns the header fields as pairs of strings. Repeated fields are not joined,
/// and values are decoded as Latin-1.
pub(crate) fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = value.as_bytes().iter().copied().map(char::from).collect();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// Creates headers from these fields, in this order. The error names the invalid
/// field, or the limit.
pub(crate) fn header_map(
    fields: impl IntoIterator<Item = (String, String)>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let mut sizes = Vec::new();
    for (name, value) in fields {
        sizes.push(name.len() + value.len());
        if sizes.len() > MAX_HEADER_FIELDS {
            return Err(too_many("message"));
        }
        append(&mut headers, field_name(&name)?, &value)?;
    }
    check_limits("message", sizes.into_iter())?;
    Ok(headers)
}

/// Quotes a string for an error message, and truncates a long one.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => {
            format!("{:?}... ({} bytes)", text.get(..end).unwrap_or_default(), text.len())
        }
    }
}

fn check_limits(message: &str, sizes: impl Iterator<Item = usize>) -> Result<(), String> {
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for size in sizes {
        count = count.saturating_add(1);
        bytes = bytes.saturating_add(size);
    }
    if count > MAX_HEADER_FIELDS {
        return Err(format!(
            "the {message} has {count} header fields: at most {MAX_HEADER_FIELDS} are allowed"
        ));
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(format!("the {message}'s headers exceed {MAX_HEADER_BYTES} bytes: {bytes}"));
    }
    Ok(())
}

fn field_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("{} is not the name of a header field", quoted(name)))
}

fn append(headers: &mut HeaderMap, field: HeaderName, value: &str) -> Result<(), String> {
    let value = from_latin1(value).ok_or_else(|| {
        let name: String = field.as_str().chars().take(MAX_QUOTED_CHARS).collect();
        format!("the value of the header field {name} cannot be sent")
    })?;
    headers.try_append(field, value).map_err(|_| too_many("message"))?;
    Ok(())
}

fn too_many(message: &str) -> String {
    format!("the {message} has more than {MAX_HEADER_FIELDS} header fields")
}

fn from_latin1(text: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> =
        text.chars().map(|character| u8::try_from(character).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(count: usize) -> Vec<(String, String)> {
        (0..count).map(|number| (format!("x{number}"), "v".to_owned())).collect()
    }

    fn sent(fields: &[(String, String)]) -> Result<request::Parts, String> {
        request("GET", "http://example.test/", fields, Some(1))
    }

    #[test]
    fn invalid_requests_are_refused_with_the_reason() {
        for (url, (name, value), why) in [
            ("example.test", ("a", "b"), "absolute"),
            ("/path", ("a", "b"), "absolute"),
            ("ftp://example.test/", ("a", "b"), "absolute"),
            ("http://", ("a", "b"), "not a URL"),
            ("http://example.test/ x", ("a", "b"), "not a URL"),
            ("http://example.test/", ("a b", "c"), "not the name"),
            ("http://example.test/", ("a", "b\r\nc: d"), "cannot be sent"),
            ("http://example.test/", ("a", "€"), "cannot be sent"),
            ("http://example.test/", ("Host", "other.test"), "only by the host"),
            ("http://example.test/", ("transfer-encoding", "chunked"), "only by the host"),
        ] {
            let field = (name.to_owned(), value.to_owned());
            let error = request("GET", url, std::slice::from_ref(&field), None).unwrap_err();
            assert!(error.contains(why), "{url} {field:?}: {error}");
        }
    }

    #[test]
    fn latin1_values_are_kept_and_content_length_is_not() {
        let field = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
        let head = request("GET", "http://example.test/", &field("a", "é"), None).unwrap();
        assert_eq!(head.headers["a"].as_bytes(), b"\xe9");
        assert_eq!(texts(&head.headers), field("a", "é"));
        let fields = field("content-length", "9");
        let head = request("GET", "http://example.test/", &fields, None).unwrap();
        assert!(head.headers.is_empty());
    }

    #[test]
    fn the_number_of_fields_is_limited() {
        assert!(sent(&many(MAX_HEADER_FIELDS)).is_ok());
        // Also beyond the capacity of the map, and with the same name for all.
        for count in [MAX_HEADER_FIELDS + 1, 24_577, 30_000, 32_769, 100_000] {
            let error = sent(&many(count)).unwrap_err();
            assert!(error.contains(&format!("{count} header fields")), "{error}");
            let same = vec![("x".to_owned(), String::new()); count];
            assert!(sent(&same).unwrap_err().contains("at most 1000"), "{count}");
            assert!(header_map(many(count)).unwrap_err().contains("more than 1000"), "{count}");
        }
    }

    #[test]
    fn the_size_of_fields_is_limited() {
        let fields = [("x".to_owned(), "v".repeat(MAX_HEADER_BYTES))];
        assert!(sent(&fields).unwrap_err().contains("exceed 262144 bytes: 262145"));
        assert!(header_map(fields.clone()).unwrap_err().contains("exceed 262144 bytes"));
        let mut headers = HeaderMap::new();
        for _ in 0..=MAX_HEADER_FIELDS {
            headers.append("x", HeaderValue::from_static("v"));
        }
        assert!(response(&headers).unwrap_err().contains("1001 header fields"));
    }

    #[test]
    fn long_texts_are_truncated_in_errors() {
        for (method, url) in [
            ("\u{1}".repeat(1 << 20), "http://a.test/".to_owned()),
            ("GET".to_owned(), "\u{1}".repeat(1 << 20)),
            ("GET".to_owned(), format!("http://a.test/{}", "é".repeat(1 << 20))),
        ] {
            assert!(request(&method, &url, &[], None).unwrap_err().len() < 2_000);
        }
        let long = "é ".repeat(1 << 16);
        let error = sent(&[(long, String::new())]).unwrap_err();
        assert!(error.len() < 2_000 && error.contains("not the name"), "{error}");
    }
}
