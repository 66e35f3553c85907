//! The events of code that runs in a guest, parsed from the texts that the guest sends.
//!
//! The guest is not trusted: an event is accepted only if its types, names and base64 are
//! valid. JSON values in it are kept as texts, so that a value takes no more memory than
//! its text.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The largest number of representations of a result.
pub(crate) const MAX_ENTRIES: usize = 128;

/// The largest number of entries of a result's metadata.
const MAX_METADATA_ENTRIES: usize = 128;

/// The largest length of a MIME type and of a metadata key, in bytes.
const MAX_NAME_BYTES: usize = 2048;

/// The memory that an event takes in addition to its text, in bytes.
pub(crate) const EVENT_OVERHEAD_BYTES: usize = 256;

/// An event of running code.
#[derive(Debug)]
pub(crate) enum ParsedEvent {
    /// A value that was shown.
    Result {
        /// The representations of the value, by MIME type.
        data: BTreeMap<String, Box<RawValue>>,
        /// What the guest reports about them.
        metadata: BTreeMap<String, Box<RawValue>>,
        /// `true` if it is the value of the last expression.
        is_main_result: bool,
    },
    /// The exception that ended the code.
    Error { name: String, value: String, traceback: String },
}

#[derive(Deserialize)]
struct EventKind<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

#[derive(Deserialize)]
struct ResultFields {
    data: BTreeMap<String, Box<RawValue>>,
    metadata: BTreeMap<String, Box<RawValue>>,
    is_main_result: bool,
}

#[derive(Deserialize)]
struct ErrorFields {
    name: String,
    value: String,
    traceback: String,
}

/// The largest length of a context's id, in bytes.
pub(crate) const MAX_CONTEXT_ID_BYTES: usize = 64;

/// The largest length of a context's working directory, in bytes.
const MAX_CWD_BYTES: usize = 4096;

/// The largest number of contexts that a guest may report.
const MAX_CONTEXTS: usize = 1024;

/// Reports whether a text can be the id of a context.
pub(crate) fn is_context_id(id: &str) -> bool {
    (1..=MAX_CONTEXT_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Checks the ids and working directories of the contexts that a guest reports.
pub(crate) fn check_contexts<'a>(
    contexts: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    if contexts.len() > MAX_CONTEXTS {
        return Err(format!("the guest reports more than {MAX_CONTEXTS} contexts"));
    }
    for (id, cwd) in contexts {
        if !is_context_id(id) || cwd.len() > MAX_CWD_BYTES {
            return Err("the guest reports an invalid context".to_owned());
        }
    }
    Ok(())
}

/// Parses an event. The error is the reason why it is invalid.
pub(crate) fn parse(text: &str) -> Result<ParsedEvent, String> {
    let invalid = |error: serde_json::Error| format!("invalid event: {error}");
    match serde_json::from_str::<EventKind<'_>>(text).map_err(invalid)?.kind {
        "result" => {
            let fields: ResultFields = serde_json::from_str(text).map_err(invalid)?;
            check_result(&fields)?;
            let ResultFields { data, metadata, is_main_result } = fields;
            Ok(ParsedEvent::Result { data, metadata, is_main_result })
        }
        "error" => {
            let ErrorFields { name, value, traceback } =
                serde_json::from_str(text).map_err(invalid)?;
            Ok(ParsedEvent::Error { name, value, traceback })
        }
        other => Err(format!("invalid event: the type `{}` is unknown", other.escape_debug())),
    }
}

fn check_result(fields: &ResultFields) -> Result<(), String> {
    if fields.data.len() > MAX_ENTRIES || fields.metadata.len() > MAX_METADATA_ENTRIES {
        return Err(format!("invalid event: a result has more than {MAX_ENTRIES} entries"));
    }
    for (mime, entry) in &fields.data {
        if !is_mime_type(mime) {
            return Err("invalid event: a key of the data is not a MIME type".to_owned());
        }
        let text = entry.get();
        if is_json(mime) {
            continue;
        }
        let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
            return Err(format!("invalid event: the entry of {mime} is not a string"));
        };
        if is_binary(mime) && !is_base64(text.as_bytes()) {
            return Err(format!("invalid event: the entry of {mime} is not base64"));
        }
    }
    if fields.metadata.keys().any(|key| key.len() > MAX_NAME_BYTES) {
        return Err("invalid event: a key of the metadata is too long".to_owned());
    }
    Ok(())
}

fn is_mime_type(text: &str) -> bool {
    let is_name = |part: &str| {
        (1..=100).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

/// Reports whether the data of a MIME type is a JSON value.
fn is_json(mime: &str) -> bool {
    mime.strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// Reports whether the data of a MIME type is base64.
fn is_binary(mime: &str) -> bool {
    (mime.starts_with("image/") && !mime.starts_with("image/svg+xml"))
        || mime.starts_with("audio/")
        || mime.starts_with("video/")
        || mime == "application/pdf"
        || mime == "application/octet-stream"
}

/// Reports whether a text is base64 with padding. The `/` may not be escaped.
fn is_base64(text: &[u8]) -> bool {
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let (digits, _) = text.split_at(text.len() - padding);
    text.len().is_multiple_of(4)
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(data: &str) -> Result<ParsedEvent, String> {
        let text =
            format!(r#"{{"type":"result","data":{data},"metadata":{{}},"is_main_result":true}}"#);
        parse(&text)
    }

    #[test]
    fn valid_events_are_accepted() {
        for data in [
            r"{}",
            r#"{"text/plain":"a \" b"}"#,
            r#"{"image/png":"AAAA","image/jpeg":"AA==","application/pdf":"AAA="}"#,
            r#"{"application/json":[1,{"a":null}],"application/vnd.isorun.chart+json":5}"#,
            r#"{"image/svg+xml":"<svg/>"}"#,
        ] {
            assert!(matches!(result(data), Ok(ParsedEvent::Result { .. })), "{data}");
        }
        let error = parse(r#"{"type":"error","name":"E","value":"","traceback":"t"}"#).unwrap();
        assert!(matches!(error, ParsedEvent::Error { name, .. } if name == "E"));
    }

    #[test]
    fn invalid_events_are_refused() {
        let many: Vec<String> = (0..200).map(|i| format!(r#""a/{i}":"""#)).collect();
        for data in [
            "5",
            r#"{"text":"x"}"#,
            r#"{"text/plain":5}"#,
            r#"{"a b/c":"x"}"#,
            r#"{"/":"x"}"#,
            r#"{"image/png":"AAA"}"#,
            r#"{"image/png":"A=AA"}"#,
            r#"{"image/png":"====AA=="}"#,
            r#"{"image/png":"\u0041AAA"}"#,
            r#"{"image/png":[]}"#,
            &format!("{{{}}}", many.join(",")),
        ] {
            assert!(result(data).is_err(), "{data}");
        }
        for text in ["", "null", "{}", r#"{"type":"end"}"#, r#"{"type":5}"#, r#"{"type":"error"}"#]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
