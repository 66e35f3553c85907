//! Strict parsing of JSON objects: refuses unknown fields and variants, duplicate keys,
//! values of the wrong type, and trailing text. Errors name the field, its location, and
//! the known name that is probably meant.

use std::{collections::HashSet, fmt};

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};

/// The largest number of characters of a client's text in an error.
const MAX_ECHOED_CHARS: usize = 100;
/// The largest size of the explanation of a JSON error, in bytes.
const MAX_EXPLANATION_BYTES: usize = 600;

/// Parses the JSON object of a request or of a WebSocket frame. The error does not
/// mention the request.
pub fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.trim_ascii_start().first() {
        None => return Err("it is empty: send a JSON object".to_owned()),
        // serde would accept a list of the fields of an object in their order.
        Some(first) if *first != b'{' => return Err("it is not a JSON object".to_owned()),
        Some(_) => {}
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let unique = NoDuplicateKeys(JsonPath::Root).deserialize(&mut json).and_then(|()| json.end());
    unique.map_err(|error| shorten(error.to_string()))?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| explain(&error))
}

/// The location of a value in a document.
#[derive(Clone, Copy)]
enum JsonPath<'a> {
    Root,
    Field(&'a JsonPath<'a>, &'a str),
    Item(&'a JsonPath<'a>, usize),
}

impl fmt::Display for JsonPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(&echo(name)),
            Self::Field(parent, name) => write!(f, "{parent}.{}", echo(name)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads and discards a value. Fails if an object in it has a duplicate key, since it is
/// not known which of the values the sender meant.
struct NoDuplicateKeys<'a>(JsonPath<'a>);

impl<'de> DeserializeSeed<'de> for NoDuplicateKeys<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoDuplicateKeys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while items.next_element_seed(NoDuplicateKeys(JsonPath::Item(&self.0, index)))?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if seen.contains(&name) {
                let location = JsonPath::Field(&self.0, &name);
                return Err(A::Error::custom(format!("duplicate field `{location}`")));
            }
            fields.next_value_seed(NoDuplicateKeys(JsonPath::Field(&self.0, &name)))?;
            seen.insert(name);
        }
        Ok(())
    }
}

/// Returns the message for an error in a document, with its location.
fn explain(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let inner = error.inner().to_string();
    let text = inner.rsplit_once(" at line ").map_or(inner.as_str(), |(text, _)| text);
    let path = error.path().to_string();
    if let Some((kind, name, known)) = parse_unknown(text) {
        let location = match kind {
            "field" => path.strip_suffix(name).unwrap_or(&path).trim_end_matches('.'),
            _ => path.trim_matches('.'),
        };
        let location = if location.is_empty() || location == "?" {
            "at the top level".to_owned()
        } else {
            format!("in `{}`", echo(location))
        };
        return unknown(kind, name, &location, &known);
    }
    let path = path.trim_matches('.');
    if path.is_empty() { shorten(inner) } else { shorten(format!("{}: {inner}", echo(path))) }
}

/// Parses serde's error about an unknown field or variant. Returns the kind, the name,
/// and the known names.
fn parse_unknown(text: &str) -> Option<(&'static str, &str, Vec<&str>)> {
    ["field", "variant"].into_iter().find_map(|kind| {
        let rest = text.strip_prefix("unknown ")?.strip_prefix(kind)?.strip_prefix(" `")?;
        // The sender chose the name, which may contain the separator.
        let (name, list) = rest
            .rsplit_once("`, expected ")
            .or_else(|| rest.rsplit_once("`, there are no ").map(|(name, _)| (name, "")))?;
        Some((kind, name, list.split('`').skip(1).step_by(2).collect()))
    })
}

/// Returns the message for an unknown field, variant or parameter.
pub fn unknown(kind: &str, name: &str, location: &str, known: &[&str]) -> String {
    let hint = nearest(name, known).map(|name| format!(": did you mean `{name}`?"));
    let hint = hint.unwrap_or_else(|| ".".to_owned());
    let list = match known {
        [] => format!("No {kind} is allowed here"),
        known => format!("Allowed here: {}", known.join(", ")),
    };
    shorten(format!("unknown {kind} `{}` {location}{hint} {list}", echo(name)))
}

/// Synonyms of fields of this API in other services and programs.
const SYNONYMS: [(&str, &[&str]); 11] = [
    ("mem_mib", &["memory", "ram", "memorymb", "memorymib", "memorylimit", "memmb"]),
    ("vcpus", &["cpu", "cpus", "cores", "cpucount"]),
    ("disk_mib", &["disk", "storage", "disksize", "diskmb"]),
    ("timeout", &["ttl", "idle", "idletimeout", "sandboxtimeout", "deadline", "timelimit"]),
    ("env", &["environment", "variables", "vars"]),
    ("network_profile", &["profile", "netprofile"]),
    ("count", &["n", "num", "number", "copies", "forks"]),
    ("command", &["cmd", "script", "code", "args", "argv", "line"]),
    ("cwd", &["dir", "directory", "workdir", "workingdir", "workingdirectory"]),
    ("allow", &["allowed", "allowlist", "whitelist", "hosts", "allowedhosts", "domains"]),
    ("credentials", &["secrets", "keys", "tokens"]),
];

/// Returns the known name that is probably meant: a synonym, a name that contains the
/// other, or one that differs in few letters.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| -> Vec<u8> {
        let letters = text.bytes().filter(u8::is_ascii_alphanumeric).take(64);
        letters.map(|byte| byte.to_ascii_lowercase()).collect()
    };
    let wanted = plain(name);
    let synonym = SYNONYMS.iter().find(|(_, words)| words.iter().any(|w| w.as_bytes() == wanted));
    if let Some(found) = synonym.and_then(|(field, _)| known.iter().find(|name| *name == field)) {
        return Some(found);
    }
    let distance = |candidate: &str| {
        let candidate = plain(candidate);
        let (short, long) = if candidate.len() < wanted.len() {
            (&candidate, &wanted)
        } else {
            (&wanted, &candidate)
        };
        // Costs more than one edit and less than two: `network_profil` is closer to
        // `network_profile` than to `network`.
        let contained =
            short.len() >= 3 && long.windows(short.len()).any(|part| part == &short[..]);
        let edits = 2 * edits(&wanted, &candidate);
        if contained { edits.min(3) } else { edits }
    };
    let best = known.iter().map(|name| (distance(name), *name)).min_by_key(|(edits, _)| *edits)?;
    let allowed = 2 * (wanted.len() / 2).clamp(1, 3);
    (best.0 <= allowed || known.len() == 1).then_some(best.1)
}

/// Returns the edit distance of two texts, with insertions, deletions, replacements and
/// transpositions of adjacent letters.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

/// Returns the start of a client's text, escaped for an error message.
pub fn echo(text: &str) -> String {
    let mut shown: String =
        text.chars().take(MAX_ECHOED_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_ECHOED_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

fn shorten(mut text: String) -> String {
    if text.len() > MAX_EXPLANATION_BYTES {
        let begin = text.floor_char_boundary(MAX_EXPLANATION_BYTES);
        // The location is at the end of serde's messages.
        let location = text.rfind(" at line ").filter(|at| *at > begin && text.len() - at < 60);
        let location = location.map(|at| text[at..].to_owned()).unwrap_or_default();
        text.truncate(begin);
        text.push_str("...");
        text.push_str(&location);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use isorun_api::{
        AttachInput, ExecRequest, ForkRequest, NetworkChange, NewRun, Patch, RestoreRequest,
        ShellInput, TerminalInput,
    };

    #[test]
    fn numbers_are_parsed_to_the_nearest_float() {
        #[derive(Deserialize)]
        struct Body {
            number: f64,
        }
        for text in [
            "309199999999999999999999999999999",
            "3.0919999999999996e+32",
            "0.1234567890123456789",
            "1.7976931348623157e308",
            "5e-324",
        ] {
            let body: Body = object(format!("{{\"number\":{text}}}").as_bytes()).unwrap();
            assert_eq!(body.number.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn similar_names_are_suggested() {
        let new = [
            "image",
            "vcpus",
            "mem_mib",
            "disk_mib",
            "timeout",
            "env",
            "network",
            "network_profile",
        ];
        for (name, expected) in [
            ("netwrok", "network"),
            ("Network", "network"),
            ("timout", "timeout"),
            ("timeouts", "timeout"),
            ("memory", "mem_mib"),
            ("memMib", "mem_mib"),
            ("mem-mib", "mem_mib"),
            ("envs", "env"),
            ("networkProfile", "network_profile"),
            ("network_profil", "network_profile"),
            ("cpus", "vcpus"),
            ("vcpu", "vcpus"),
            ("imgae", "image"),
        ] {
            assert_eq!(nearest(name, &new), Some(expected), "{name}");
        }
        assert_eq!(nearest("n", &["count"]), Some("count"));
        assert_eq!(nearest("alow", &["allow", "deny"]), Some("allow"));
        assert_eq!(nearest("something", &new), None);
        assert_eq!(nearest("", &new), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), &new), None);
    }

    /// Asserts that parsing fails with a message that contains all the given parts.
    #[track_caller]
    fn refuses<T: DeserializeOwned>(text: &str, expected: &[&str]) {
        let why = object::<T>(text.as_bytes()).err();
        let why = why.unwrap_or_else(|| panic!("{text} was accepted"));
        for part in expected {
            assert!(why.contains(part), "{text}: {why:?} does not contain {part:?}");
        }
        assert!(why.len() < 2 * MAX_EXPLANATION_BYTES, "{}", why.len());
    }

    #[test]
    fn errors_name_unknown_fields_and_suggest_known_ones() {
        let hint = |known| format!("did you mean `{known}`?");
        refuses::<NewRun>(
            r#"{"image":"host","netwrok":{}}"#,
            &["`netwrok`", "top level", &hint("network")],
        );
        refuses::<NewRun>(
            r#"{"image":"host","network":{"alow":[]}}"#,
            &["`alow`", "in `network`", &hint("allow")],
        );
        refuses::<NewRun>(
            r#"{"image":"host","on_idle":"hibernat"}"#,
            &["`hibernat`", "in `on_idle`", &hint("hibernate")],
        );
        refuses::<NewRun>(r#"{"image":"host","user":"root"}"#, &["`user`", "mem_mib"]);
        refuses::<Patch>(r#"{"timeout":1,"timout":2}"#, &["`timout`", &hint("timeout")]);
        refuses::<ExecRequest>(r#"{"command":"a","envs":{}}"#, &["`envs`", &hint("env")]);
        refuses::<ForkRequest>(r#"{"n":3}"#, &["`n`", &hint("count")]);
        refuses::<RestoreRequest>(
            r#"{"snapshot_id":"a","id":"b"}"#,
            &["`id`", &hint("snapshot_id")],
        );
        refuses::<NetworkChange>(r#"{"networks":{}}"#, &["`networks`", &hint("network")]);
        refuses::<AttachInput>(r#"{"type":"eof","x":1}"#, &["`x`"]);
        refuses::<AttachInput>(r#"{"type":"signal","signal":9,"pid":1}"#, &["`pid`"]);
        refuses::<AttachInput>(r#"{"type":"singal","signal":9}"#, &["`singal`", &hint("signal")]);
        refuses::<TerminalInput>(
            r#"{"type":"resize","cols":9,"rows":1,"row":1}"#,
            &["`row`", &hint("rows")],
        );
        refuses::<ShellInput>(
            r#"{"type":"run","command":"a","timout":1}"#,
            &["`timout`", &hint("timeout")],
        );
        refuses::<ShellInput>(r#"{"type":"interrupt","now":true}"#, &["`now`"]);
        refuses::<ShellInput>(r#"{"type":"close","code":1}"#, &["`code`"]);
        // A name that looks like the error about it.
        refuses::<ForkRequest>(r#"{"a`, expected `b":3}"#, &["`a`, expected `b`", &hint("count")]);
        let long = format!(r#"{{"{}":1}}"#, "x".repeat(900_000));
        refuses::<ForkRequest>(&long, &["unknown field `xxx"]);
    }

    #[test]
    fn errors_name_duplicate_fields_and_wrong_types() {
        refuses::<NewRun>(r#"{"image":"a","image":"b"}"#, &["duplicate field `image`"]);
        refuses::<NewRun>(r#"{"image":"a","im\u0061ge":"b"}"#, &["duplicate field `image`"]);
        refuses::<NewRun>(r#"{"image":"a","env":{"A":"1","A":"2"}}"#, &["duplicate field `env.A`"]);
        refuses::<NewRun>(
            r#"{"image":"a","credentials":{"M":{"value":"x","host":"a.com","host":"b.com"}}}"#,
            &["duplicate field `credentials.M.host`"],
        );
        refuses::<NewRun>(
            r#"{"image":"a","network":{"allow":[],"allow":["b.com"]}}"#,
            &["`network.allow`"],
        );
        refuses::<ShellInput>(
            r#"{"type":"run","type":"close","command":"a"}"#,
            &["duplicate field `type`"],
        );
        refuses::<NewRun>(r#"{"image":"a","vcpus":"2"}"#, &["vcpus", "string"]);
        refuses::<NewRun>(r#"{"image":"a","network":[]}"#, &["network", "sequence"]);
        refuses::<NewRun>(r#"{"image":"a","network":{"allow":"b.com"}}"#, &["network.allow"]);
        refuses::<NewRun>(r#"{"image":"a","network":{"allow":[1]}}"#, &["network.allow[0]"]);
        refuses::<NewRun>(r#"{"image":"a","auto_resume":"yes"}"#, &["auto_resume"]);
        refuses::<Value>("", &["empty", "JSON object"]);
        refuses::<Value>(" \n", &["empty"]);
        refuses::<Value>("[]", &["not a JSON object"]);
        refuses::<Value>("{} x", &["trailing characters"]);
        refuses::<Value>("{}{}", &["trailing characters"]);
        refuses::<Value>("{\"a\":", &["EOF"]);
        refuses::<Value>(&format!("{{\"a\":{}", "[".repeat(500_000)), &["recursion"]);
        refuses::<BTreeMap<String, i64>>(
            &format!(r#"{{"a":"{}"}}"#, "x".repeat(900_000)),
            &["a: invalid type", "at line 1"],
        );
        assert!(object::<Value>(br#"{"a":{"b":1},"b":[{"a":1},{"a":2}]}"#).is_ok());
    }
}
