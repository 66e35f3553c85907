//! Header fields as pairs of strings, for bindings to other languages.

use http::HeaderMap;

use super::head;
use crate::error::HostError;

/// Returns the header fields as pairs. Repeated fields are not joined, and values
/// are decoded as Latin-1.
#[must_use]
pub fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    head::texts(headers)
}

/// Creates headers from these fields, in this order.
///
/// # Errors
///
/// A name or value that is invalid in HTTP; or more than
/// [`MAX_HEADER_FIELDS`](super::MAX_HEADER_FIELDS) fields or
/// [`MAX_HEADER_BYTES`](super::MAX_HEADER_BYTES) bytes.
pub fn header_map<I>(fields: I) -> Result<HeaderMap, HostError>
where
    I: IntoIterator<Item = (String, String)>,
{
    head::header_map(fields).map_err(HostError::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_fields_round_trip() {
        let pairs = [("set-cookie", "a=1"), ("set-cookie", "b=\u{e9}")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers = header_map(pairs.clone()).unwrap();
        assert_eq!(fields(&headers), pairs);
    }

    #[test]
    fn invalid_fields_are_refused_by_name() {
        let refused = |name: &str, value: &str| {
            let error = header_map([(name.to_owned(), value.to_owned())]).unwrap_err();
            error.message().to_owned()
        };
        assert!(refused("a b", "c").contains("\"a b\""));
        assert!(refused("x-a", "b\r\nc: d").contains("x-a"));
        assert!(refused("x-a", "\u{20ac}").contains("x-a"));
    }
}
