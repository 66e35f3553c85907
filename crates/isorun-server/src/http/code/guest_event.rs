//! The events that an interpreter sends. Their author may be the code of the cell: they are
//! checked here, and passed on as text, since parsed JSON can take many times its memory.

use std::{collections::BTreeMap, fmt};

use isorun_api::CodeError;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The largest number of MIME types of a result.
const MAX_ENTRIES: usize = 128;
/// The largest number of bytes in the name of a MIME type.
const MAX_MIME_BYTES: usize = 256;
/// The largest metadata of a result, in bytes.
const MAX_METADATA_BYTES: usize = 1 << 20;
/// The largest number of characters of each text of an error.
const MAX_ERROR_CHARS: usize = 256 << 10;

/// A checked event.
pub enum GuestEvent {
    Result(GuestResult),
    Error(CodeError),
}

/// A checked result, whose entries are JSON texts.
#[derive(Debug, Serialize)]
pub struct GuestResult {
    pub data: BTreeMap<String, Box<RawValue>>,
    pub metadata: Box<RawValue>,
    pub is_main_result: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Entries,
    metadata: Option<Box<RawValue>>,
    #[serde(default)]
    is_main_result: bool,
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    traceback: String,
}

/// Parses and checks an event.
pub fn parse(bytes: &[u8]) -> Result<GuestEvent, String> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match wire.kind.as_str() {
        "result" => {
            let metadata = match wire.metadata {
                Some(metadata) => checked_metadata(metadata)?,
                None => {
                    RawValue::from_string("{}".to_owned()).map_err(|error| error.to_string())?
                }
            };
            Ok(GuestEvent::Result(GuestResult {
                data: checked_entries(wire.data)?,
                metadata,
                is_main_result: wire.is_main_result,
            }))
        }
        "error" => Ok(GuestEvent::Error(CodeError {
            name: shortened(wire.name),
            value: shortened(wire.value),
            traceback: shortened(wire.traceback),
        })),
        _ => Err("the type of an event is neither `result` nor `error`".to_owned()),
    }
}

/// Returns a result that says which entries were left out, and why.
pub fn omitted(result: &GuestResult, why: &str) -> GuestResult {
    let omitted: BTreeMap<&str, String> = result
        .data
        .iter()
        .map(|(mime, entry)| (mime.as_str(), format!("{} bytes, {why}", entry.get().len())))
        .collect();
    nothing_but(&serde_json::json!({ "omitted": omitted }), result.is_main_result)
}

/// Returns the result in place of an event for which there was no memory.
pub fn without_memory(bytes: usize) -> GuestResult {
    let why = format!("{bytes} bytes, for which the server has no memory at the moment");
    nothing_but(&serde_json::json!({ "omitted": { "*/*": why } }), false)
}

fn nothing_but(metadata: &serde_json::Value, is_main_result: bool) -> GuestResult {
    // The text of a JSON value is valid JSON.
    let metadata = RawValue::from_string(metadata.to_string()).unwrap_or_else(|_| Box::default());
    GuestResult { data: BTreeMap::new(), metadata, is_main_result }
}

fn checked_entries(entries: Entries) -> Result<BTreeMap<String, Box<RawValue>>, String> {
    let mut data = BTreeMap::new();
    for (mime, entry) in entries.0 {
        if !is_mime_type(&mime) {
            return Err("a result has an invalid MIME type".to_owned());
        }
        check_json(&entry)?;
        if !is_json_type(&mime) && !entry.get().starts_with('"') {
            return Err(format!("a result has an entry of the type {mime} that is not text"));
        }
        data.insert(mime, without_line_breaks(entry)?);
    }
    Ok(data)
}

fn checked_metadata(metadata: Box<RawValue>) -> Result<Box<RawValue>, String> {
    if metadata.get().len() > MAX_METADATA_BYTES {
        return Err(format!("a result has metadata of {} bytes", metadata.get().len()));
    }
    check_json(&metadata)?;
    if !metadata.get().starts_with('{') {
        return Err("the metadata of a result is not an object".to_owned());
    }
    without_line_breaks(metadata)
}

/// Checks that clients can parse a value: its numbers are in range, and its texts are
/// Unicode. Nothing of it is kept.
fn check_json(value: &RawValue) -> Result<(), String> {
    serde_json::from_str::<Checked>(value.get()).map(drop).map_err(|error| error.to_string())
}

/// Returns a value without the line breaks between its tokens, which server-sent events
/// cannot contain. In texts they are escaped.
fn without_line_breaks(value: Box<RawValue>) -> Result<Box<RawValue>, String> {
    if !value.get().contains(['\n', '\r']) {
        return Ok(value);
    }
    RawValue::from_string(value.get().replace(['\n', '\r'], " ")).map_err(|error| error.to_string())
}

fn is_mime_type(mime: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-*;= ".contains(&byte))
    };
    mime.len() <= MAX_MIME_BYTES
        && mime.split_once('/').is_some_and(|(kind, name)| is_name(kind) && is_name(name))
}

fn is_json_type(mime: &str) -> bool {
    mime == "application/json" || mime.starts_with("application/") && mime.ends_with("+json")
}

fn shortened(text: String) -> String {
    if text.chars().count() <= MAX_ERROR_CHARS {
        return text;
    }
    text.chars().take(MAX_ERROR_CHARS).chain("\n[...]".chars()).collect()
}

/// The entries of a result. Too many, or one name twice, are refused while they are read.
#[derive(Default)]
struct Entries(BTreeMap<String, Box<RawValue>>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of MIME types")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((mime, entry)) = map.next_entry::<String, Box<RawValue>>()? {
                    if entries.len() == MAX_ENTRIES {
                        return Err(de::Error::custom("a result has too many MIME types"));
                    }
                    if entries.insert(mime, entry).is_some() {
                        return Err(de::Error::custom("a result has a MIME type twice"));
                    }
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// A JSON value that is read to its end and not kept.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CheckedVisitor;

        impl<'de> Visitor<'de> for CheckedVisitor {
            type Value = Checked;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Checked, E> {
                Ok(Checked)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
                Ok(Checked)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
                Ok(Checked)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
                Ok(Checked)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
                Ok(Checked)
            }

            fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
                Ok(Checked)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Checked, A::Error> {
                while items.next_element::<Checked>()?.is_some() {}
                Ok(Checked)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Checked, A::Error> {
                while fields.next_key::<Checked>()?.is_some() {
                    fields.next_value::<Checked>()?;
                }
                Ok(Checked)
            }
        }

        deserializer.deserialize_any(CheckedVisitor)
    }
}

/// Checks the parser. What it accepts can be parsed by every client.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz(bytes: &[u8]) {
    match parse(bytes) {
        Ok(GuestEvent::Result(result)) => {
            let text = serde_json::to_string(&result).unwrap_or_default();
            assert!(!text.contains(['\n', '\r']), "{text}");
            let parsed: isorun_api::CodeResult =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(parsed.data.len(), result.data.len());
        }
        Ok(GuestEvent::Error(error)) => assert!(error.value.chars().count() <= MAX_ERROR_CHARS + 6),
        Err(why) => assert!(!why.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &str) -> Result<String, String> {
        fuzz(text.as_bytes());
        match parse(text.as_bytes())? {
            GuestEvent::Result(result) => Ok(serde_json::to_string(&result).unwrap()),
            GuestEvent::Error(error) => Ok(error.name),
        }
    }

    #[test]
    fn results_are_passed_on_as_they_are() {
        for (given, expected) in [
            (
                r#"{"type":"result","data":{"text/plain":"2"},"metadata":{},"is_main_result":true}"#,
                r#"{"data":{"text/plain":"2"},"metadata":{},"is_main_result":true}"#,
            ),
            (
                "{\"type\":\"result\",\"data\":{\"application/json\":[1,\r\n {\"a\":1e3}]}}",
                "{\"data\":{\"application/json\":[1,   {\"a\":1e3}]},\"metadata\":{},\"is_main_result\":false}",
            ),
            (r#"{"type":"error","name":"E","value":"v","traceback":""}"#, "E"),
        ] {
            assert_eq!(result(given).unwrap(), expected);
        }
    }

    #[test]
    fn invalid_events_are_refused() {
        let many: Vec<String> = (0..200).map(|n| format!("\"text/{n}\":\"\"")).collect();
        let deep = "[".repeat(500) + &"]".repeat(500);
        for event in [
            "",
            "{}",
            "[]",
            r#"{"type":"end"}"#,
            r#"{"type":"result","data":{"text/plain":5}}"#,
            r#"{"type":"result","data":{"image/png":{}}}"#,
            r#"{"type":"result","data":{"nonsense":"x"}}"#,
            r#"{"type":"result","data":{"text/plain":"\ud800"}}"#,
            r#"{"type":"result","data":{"application/json":1e999}}"#,
            r#"{"type":"result","data":{"text/plain":"1","text/plain":"2"}}"#,
            r#"{"type":"result","data":{},"metadata":[]}"#,
            r#"{"type":"result","data":[]}"#,
            r#"{"type":"result","data":{},"extra":1}"#,
            r#"{"type":"error","name":5}"#,
            r#"{"type":"result","data":{}} {}"#,
            &format!("{{\"type\":\"result\",\"data\":{{{}}}}}", many.join(",")),
            &format!("{{\"type\":\"result\",\"data\":{{\"application/json\":{deep}}}}}"),
        ] {
            assert!(result(event).is_err(), "{event}");
        }
        let long = "x".repeat(MAX_ERROR_CHARS + 100);
        let event = format!("{{\"type\":\"error\",\"name\":\"{long}\"}}");
        assert_eq!(result(&event).unwrap().len(), MAX_ERROR_CHARS + 6);
    }

    #[test]
    fn omitted_entries_are_named() {
        let text = r#"{"type":"result","data":{"image/png":"abcd"},"is_main_result":true}"#;
        let Ok(GuestEvent::Result(event)) = parse(text.as_bytes()) else { panic!() };
        let text = serde_json::to_string(&omitted(&event, "over the limit")).unwrap();
        assert_eq!(
            text,
            r#"{"data":{},"metadata":{"omitted":{"image/png":"6 bytes, over the limit"}},"is_main_result":true}"#
        );
    }
}
