//! Header fields as pairs of texts, as other languages have them.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::host::HostError;

/// Every field by itself: repeated ones stay apart. Values are read as Latin-1.
#[must_use]
pub fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = value.as_bytes().iter().copied().map(char::from).collect();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// The headers that consist of these fields, in this order.
///
/// # Errors
///
/// A name or value that HTTP cannot send, by name.
pub fn header_map<I>(fields: I) -> Result<HeaderMap, HostError>
where
    I: IntoIterator<Item = (String, String)>,
{
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| HostError::new(format!("{name:?} is not the name of a header field")))?;
        let value = from_latin1(&value).ok_or_else(|| {
            HostError::new(format!("the value of the header field {field} cannot be sent"))
        })?;
        headers.append(field, value);
    }
    Ok(headers)
}

pub(crate) fn from_latin1(text: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> =
        text.chars().map(|character| u8::try_from(character).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip_and_stay_apart() {
        let pairs = [("set-cookie", "a=1"), ("set-cookie", "b=\u{e9}")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers = header_map(pairs.clone()).unwrap();
        assert_eq!(fields(&headers), pairs);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        let refused = |name: &str, value: &str| {
            let error = header_map([(name.to_owned(), value.to_owned())]).unwrap_err();
            error.message().to_owned()
        };
        assert!(refused("a b", "c").contains("\"a b\""));
        assert!(refused("x-a", "b\r\nc: d").contains("x-a"));
        assert!(refused("x-a", "\u{20ac}").contains("x-a"));
    }
}
