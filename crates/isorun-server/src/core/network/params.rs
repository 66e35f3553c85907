//! Checks of network parameters: a profile or lists, and credentials.

use std::collections::{BTreeMap, BTreeSet};

use isorun_egress::{
    Policy,
    credentials::{Credential, SecretValue},
    policy::{self, DefaultAction},
};
use serde::Deserialize;

use crate::{core::error::Error, strict_json};
use isorun_api::{Network, NetworkChange, NetworkRules, Profile};

/// The maximum number of credentials of one run.
const MAX_CREDENTIALS: usize = 64;
/// The maximum size of a secret, in bytes.
const MAX_SECRET_BYTES: usize = 16 << 10;

/// The checked network rules of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkParams {
    /// The name of the profile; `None` for lists.
    pub profile: Option<String>,
    pub policy: Policy,
}

/// A secret for a service without a known name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialParams {
    value: String,
    host: Option<String>,
    port: Option<u16>,
    header: Option<String>,
    prefix: Option<String>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
}

/// The names of the fields of [`CredentialParams`].
const CREDENTIAL_FIELDS: [&str; 7] =
    ["value", "host", "port", "header", "prefix", "methods", "paths"];

/// Returns the profiles, the default first.
pub fn profiles() -> [(&'static str, DefaultAction, &'static str); 3] {
    [
        (
            "default",
            DefaultAction::AllowWeb,
            "The web: ports 80 and 443 of public addresses. Nothing private, no other ports.",
        ),
        ("locked-down", DefaultAction::Deny, "Nothing at all."),
        (
            "internet",
            DefaultAction::Allow,
            "All ports of public addresses, but for 25 (mail between servers). Nothing private.",
        ),
    ]
}

/// Returns the profiles in the form of the API.
pub fn described_profiles() -> Vec<Profile> {
    profiles()
        .into_iter()
        .map(|(name, rest, description)| Profile {
            name: name.to_owned(),
            description: description.to_owned(),
            allow: if rest == DefaultAction::Deny {
                Vec::new()
            } else {
                vec!["0.0.0.0/0".to_owned()]
            },
            deny: if rest == DefaultAction::Deny {
                vec!["0.0.0.0/0".to_owned()]
            } else {
                Vec::new()
            },
        })
        .collect()
}

/// Checks the profile or the lists of a new run. Without either, the default profile
/// applies.
pub fn network_params(
    profile: Option<&str>,
    rules: Option<&NetworkRules>,
) -> Result<NetworkParams, Error> {
    match rules {
        None => params_of_profile("network_profile", profile.unwrap_or(profiles()[0].0)),
        Some(NetworkRules { allow: None, deny: None }) => match profile {
            Some(profile) => params_of_profile("network_profile", profile),
            // The default profile would allow connections that the caller may have meant to deny.
            None => Err(Error::invalid(
                "network has no rules in it: give `allow` or `deny`, each a list; or \
                 `network_profile` instead",
            )),
        },
        Some(_) if profile.is_some_and(|profile| profile != profiles()[0].0) => {
            Err(conflict_error("network", "network_profile"))
        }
        Some(NetworkRules { allow, deny }) => {
            params_of_lists("network.", None, allow.as_deref(), deny.as_deref())
        }
    }
}

/// Checks a change of a run's network. `now` is the response to `GET`, which is accepted
/// as a change. A change that is empty or ambiguous is refused.
pub fn check_change(change: &NetworkChange, now: &Network) -> Result<NetworkParams, Error> {
    let NetworkChange { network, network_profile, profile, rest, allow, deny, credentials } =
        change;
    if let Some(names) = credentials {
        let (requested, held): (BTreeSet<_>, BTreeSet<_>) =
            (names.iter().collect(), now.credentials.iter().collect());
        if requested != held {
            return Err(Error::invalid(format!(
                "credentials cannot be changed: leave the field out, or give the names that this \
                 run has: {:?}",
                now.credentials
            )));
        }
    }
    let rest = rest.as_deref().map(parse_rest).transpose()?;
    let lists = allow.is_some() || deny.is_some();
    if network.is_some() || network_profile.is_some() {
        for (name, given) in [
            ("profile", profile.is_some()),
            ("rest", rest.is_some()),
            ("allow", allow.is_some()),
            ("deny", deny.is_some()),
        ] {
            if given {
                let other = if network.is_some() { "network" } else { "network_profile" };
                return Err(conflict_error(other, name));
            }
        }
        return network_params(network_profile.as_deref(), network.as_ref());
    }
    if let Some(profile) = profile {
        let params = params_of_profile("profile", profile)?;
        let has_rules = allow.iter().chain(deny).any(|list| !list.is_empty());
        if has_rules {
            return Err(conflict_error("profile", "`allow` and `deny` with rules in them"));
        }
        if let Some(rest) = rest
            && rest != params.policy.default_action()
        {
            return Err(Error::invalid(format!(
                "rest is `{}`, and the profile `{profile}` has `{}`: leave `rest` out, or set \
                 `profile` to null and give lists",
                rest_name(rest),
                rest_name(params.policy.default_action())
            )));
        }
        return Ok(params);
    }
    if lists {
        return params_of_lists("", rest, allow.as_deref(), deny.as_deref());
    }
    Err(Error::invalid(
        "nothing to change: give `network` with `allow` or `deny`, or `network_profile`, or all \
         that GET answers",
    ))
}

fn conflict_error(one: &str, other: &str) -> Error {
    Error::invalid(format!(
        "{one} and {other} exclude each other: give lists, or the name of a profile"
    ))
}

fn params_of_profile(field: &str, name: &str) -> Result<NetworkParams, Error> {
    let Some((name, rest, _)) = profiles().into_iter().find(|known| known.0 == name) else {
        let names = profiles().map(|(name, ..)| name);
        let hint =
            strict_json::nearest(name, &names).map(|name| format!(": did you mean `{name}`?"));
        return Err(Error::invalid(format!(
            "{field} must be one of default, locked-down and internet{}",
            hint.unwrap_or_default()
        )));
    };
    params_of_lists("", Some(rest), None, None)
        .map(|params| NetworkParams { profile: Some(name.to_owned()), ..params })
}

/// Checks lists. `prefix` precedes the names of the lists in error messages.
fn params_of_lists(
    prefix: &str,
    rest: Option<DefaultAction>,
    allow: Option<&[String]>,
    deny: Option<&[String]>,
) -> Result<NetworkParams, Error> {
    let (allow, deny) = (allow.unwrap_or_default(), deny.unwrap_or_default());
    // With a list of allowed names, everything else is denied; with only a list of denied
    // names, everything else is allowed.
    let usual = if allow.is_empty() && !deny.is_empty() {
        DefaultAction::Allow
    } else {
        DefaultAction::Deny
    };
    let policy = Policy::new(rest.unwrap_or(usual), allow, deny)
        .map_err(|error| Error::invalid(format!("{prefix}{error}")))?;
    Ok(NetworkParams { profile: None, policy })
}

const RESTS: [(DefaultAction, &str); 3] = [
    (DefaultAction::Deny, "denied"),
    (DefaultAction::AllowWeb, "web"),
    (DefaultAction::Allow, "allowed"),
];

/// Returns the API's name of the action for connections that no rule matches.
pub fn rest_name(rest: DefaultAction) -> &'static str {
    RESTS.iter().find(|(known, _)| *known == rest).map_or("denied", |(_, name)| name)
}

fn parse_rest(name: &str) -> Result<DefaultAction, Error> {
    let found = RESTS.iter().find(|(_, known)| *known == name);
    let found = found.ok_or_else(|| Error::invalid("rest must be one of denied, web and allowed"));
    found.map(|(rest, _)| *rest)
}

/// Checks the credentials of a new run.
pub fn credentials(given: BTreeMap<String, serde_json::Value>) -> Result<Vec<Credential>, Error> {
    if given.len() > MAX_CREDENTIALS {
        return Err(Error::invalid(format!(
            "credentials has {} entries: at most {MAX_CREDENTIALS} are allowed",
            given.len()
        )));
    }
    given.into_iter().map(|(name, value)| credential(name, value)).collect()
}

/// Checks one credential. No error message contains the value.
fn credential(name: String, value: serde_json::Value) -> Result<Credential, Error> {
    let invalid = |what: &str| Err(Error::invalid(format!("credentials.{name}: {what}")));
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty()
        || name.len() > 100
        || !name.bytes().all(is_name_byte)
        || name.as_bytes()[0].is_ascii_digit()
    {
        return Err(Error::invalid(
            "credentials: each name must be that of an environment variable: 1 to 100 letters, \
             digits and `_`, not starting with a digit",
        ));
    }
    let params = match value {
        serde_json::Value::String(value) => CredentialParams {
            value,
            host: None,
            port: None,
            header: None,
            prefix: None,
            methods: Vec::new(),
            paths: Vec::new(),
        },
        value => {
            let unknown = value.as_object().and_then(|fields| {
                fields.keys().find(|name| !CREDENTIAL_FIELDS.contains(&name.as_str()))
            });
            if let Some(field) = unknown {
                return invalid(&strict_json::unknown("field", field, "in it", &CREDENTIAL_FIELDS));
            }
            let is_object = value.is_object();
            match serde_json::from_value::<CredentialParams>(value) {
                // Serde would accept a list as the fields in their order.
                Ok(params) if is_object => params,
                _ => {
                    return invalid(
                        "give a secret, or an object with `value` and `host`, and perhaps `port`, \
                         `header`, `prefix`, `methods` and `paths`",
                    );
                }
            }
        }
    };
    let is_printable = |byte: u8| (0x20..0x7f).contains(&byte);
    if params.value.is_empty()
        || params.value.len() > MAX_SECRET_BYTES
        || !params.value.bytes().all(is_printable)
    {
        return invalid(&format!(
            "the value must have 1 to {MAX_SECRET_BYTES} characters, all of them printable ASCII"
        ));
    }
    let secret = SecretValue::from(params.value);
    let mut credential = match (Credential::known(&name, secret.clone()), params.host) {
        (Some(known), None) => known,
        (_, Some(host)) => {
            let host = match policy::name(&host) {
                Ok(host) => host,
                Err(why) => return invalid(&format!("host {why}")),
            };
            Credential {
                name: name.clone(),
                host,
                port: 443,
                header: "authorization".to_owned(),
                prefix: if params.header.is_none() { "Bearer " } else { "" }.to_owned(),
                secret,
                methods: Vec::new(),
                paths: Vec::new(),
                base: None,
            }
        }
        (None, None) => {
            let known: Vec<_> = Credential::names().collect();
            return invalid(&format!(
                "the name is not that of a known service ({}): give an object with `value` and \
                 `host`",
                known.join(", ")
            ));
        }
    };
    if let Some(header) = params.header {
        if header.parse::<hyper::header::HeaderName>().is_err()
            || header.eq_ignore_ascii_case("host")
        {
            return invalid("header must be a valid header name other than `host`");
        }
        credential.header = header.to_ascii_lowercase();
    }
    if let Some(prefix) = params.prefix {
        if prefix.len() > 100 || !prefix.bytes().all(is_printable) {
            return invalid("prefix must have at most 100 characters, all of them printable ASCII");
        }
        credential.prefix = prefix;
    }
    if params.port == Some(0) {
        return invalid("port is 0: it must be 1 to 65535");
    }
    credential.port = params.port.unwrap_or(credential.port);
    for method in &params.methods {
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return invalid("methods: each must be the name of a method, such as GET");
        }
    }
    for path in &params.paths {
        if !path.starts_with('/') || path.trim_end_matches('*').contains(['*', '?', '%']) {
            return invalid(
                "paths: each must start with `/`, may end with `*`, and must not have `*`, `?` or \
                 `%` elsewhere",
            );
        }
    }
    credential.methods = params.methods;
    credential.paths = params.paths;
    Ok(credential)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::network::{Settings, describe};

    #[test]
    fn invalid_credentials_are_rejected_without_showing_the_secret() {
        for good in [
            json!({ "OPENAI_API_KEY": "sk-1" }),
            json!({ "MINE": { "value": "sk-1", "host": "api.example.com" } }),
            json!({ "MINE": { "value": "sk-1", "host": "api.example.com", "port": 8443,
                "header": "X-Key", "methods": ["GET"], "paths": ["/v1/*"] } }),
        ] {
            credentials(serde_json::from_value(good.clone()).unwrap())
                .unwrap_or_else(|error| panic!("{good}: {}", error.message));
        }
        for bad in [
            json!({ "MINE": "sk-secret" }),
            json!({ "": "sk-secret" }),
            json!({ "A B": "sk-secret" }),
            json!({ "OPENAI_API_KEY": "sk-secret\n" }),
            json!({ "OPENAI_API_KEY": 7 }),
            json!({ "MINE": { "value": "sk-secret" } }),
            json!({ "MINE": { "value": "sk-secret", "host": "1.2.3.4.5" } }),
            json!({ "MINE": { "value": "sk-secret", "host": "a.com", "hots": 1 } }),
            json!({ "MINE": { "value": "sk-secret", "host": "a.com", "header": "a b" } }),
            json!({ "MINE": { "value": "sk-secret", "host": "a.com", "header": "Host" } }),
            json!({ "MINE": { "value": "sk-secret", "host": "a.com", "paths": ["x"] } }),
            json!({ "MINE": { "value": "sk-secret", "host": "a.com", "methods": ["G T"] } }),
        ] {
            let error = credentials(serde_json::from_value(bad.clone()).unwrap()).unwrap_err();
            assert!(!bad.to_string().contains("hots") || error.message.contains("mean `host`"));
            assert!(!error.message.contains("sk-secret"), "{bad}: {}", error.message);
        }
    }

    #[test]
    fn default_action_follows_from_lists_or_profile() {
        let lists = |allow: &[&str], deny: &[&str]| NetworkRules {
            allow: Some(allow.iter().map(|rule| (*rule).to_owned()).collect()),
            deny: Some(deny.iter().map(|rule| (*rule).to_owned()).collect()),
        };
        for (profile, rules, rest) in [
            (None, None, DefaultAction::AllowWeb),
            (Some("default"), None, DefaultAction::AllowWeb),
            (Some("internet"), None, DefaultAction::Allow),
            (Some("locked-down"), None, DefaultAction::Deny),
            (None, Some(lists(&[], &[])), DefaultAction::Deny),
            (None, Some(lists(&["a.com"], &[])), DefaultAction::Deny),
            (None, Some(lists(&["a.com"], &["b.com"])), DefaultAction::Deny),
            (None, Some(lists(&[], &["b.com"])), DefaultAction::Allow),
        ] {
            let params = network_params(profile, rules.as_ref()).unwrap();
            assert_eq!(params.policy.default_action(), rest, "{profile:?} {rules:?}");
        }
        assert!(network_params(Some("open"), None).is_err());
        // Neither list, and no profile: not the default profile.
        let nothing = NetworkRules::default();
        assert!(network_params(None, Some(&nothing)).is_err());
        assert_eq!(
            network_params(Some("locked-down"), Some(&nothing)).unwrap().policy.default_action(),
            DefaultAction::Deny
        );
        assert!(network_params(Some("internet"), Some(&lists(&["a.com"], &[]))).is_err());
        let error = network_params(None, Some(&lists(&["a.com", "1.2.3.4/40"], &[]))).unwrap_err();
        assert!(error.message.contains("network.allow[1]"), "{}", error.message);
    }

    fn parse(body: serde_json::Value) -> NetworkChange {
        strict_json::object(body.to_string().as_bytes()).unwrap()
    }

    fn described(params: NetworkParams) -> (Settings, Network) {
        let key = "sk-1".to_owned().into();
        let credential = Credential::known("OPENAI_API_KEY", key).unwrap();
        let settings = Settings::new(params, vec![credential]).unwrap();
        let network = describe(&settings);
        (settings, network)
    }

    /// For every profile, default and pair of lists: `PUT` accepts the response to `GET`,
    /// and the settings stay equal.
    #[test]
    fn described_rules_parse_to_equal_settings() {
        let rules = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "203.0.113.5",
            "203.0.113.5/32",
            "203.0.113.0/31",
            "a.com",
            "*.a.com",
            "A.Example.COM",
            "xn--bcher-kva.example",
            "*.x",
            "localhost",
            "255.255.255.255",
            "::ffff:1.2.3.4",
        ];
        let subsets = || {
            (0..1_u32 << rules.len()).step_by(37).map(|bits| {
                let chosen = rules.iter().enumerate().filter(move |(at, _)| bits >> at & 1 == 1);
                chosen.map(|(_, rule)| (*rule).to_owned()).collect::<Vec<_>>()
            })
        };
        let mut all_params: Vec<NetworkParams> =
            profiles().iter().map(|(name, ..)| network_params(Some(name), None).unwrap()).collect();
        for allow in subsets() {
            let deny = subsets().nth(allow.len() * 7 % 11).unwrap();
            for lists in [(Some(&allow), None), (None, Some(&allow)), (Some(&allow), Some(&deny))] {
                let lists = NetworkRules { allow: lists.0.cloned(), deny: lists.1.cloned() };
                all_params.push(network_params(None, Some(&lists)).unwrap());
            }
            for (rest, _) in RESTS {
                all_params
                    .push(params_of_lists("", Some(rest), Some(&allow), Some(&deny)).unwrap());
            }
        }
        assert!(all_params.len() > 1000);
        for params in all_params {
            let (settings, network) = described(params);
            let body = serde_json::to_value(&network).unwrap();
            let again = check_change(&parse(body.clone()), &network);
            let again = again.unwrap_or_else(|error| panic!("{body}: {}", error.message));
            assert_eq!(settings.with(again), settings, "{body}");
            // Also without the fields that are null or follow from others.
            let mut less = body.clone();
            less.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            assert_eq!(
                settings.with(check_change(&parse(less), &network).unwrap()),
                settings,
                "{body}"
            );
        }
    }

    #[test]
    fn empty_and_contradictory_changes_are_rejected() {
        let (_, now) = described(network_params(Some("locked-down"), None).unwrap());
        for (body, expected) in [
            (json!({}), "nothing to change"),
            (json!({ "network": null, "profile": null }), "nothing to change"),
            (json!({ "network": {} }), "no rules"),
            (json!({ "network": { "allow": null } }), "no rules"),
            (json!({ "profile": null, "rest": "allowed" }), "nothing to change"),
            (json!({ "rest": "allowed" }), "nothing to change"),
            (json!({ "credentials": ["OPENAI_API_KEY"] }), "nothing to change"),
            (json!({ "profile": "locked-down", "rest": "allowed" }), "rest is `allowed`"),
            (json!({ "profile": "locked-down", "allow": ["a.com"] }), "exclude"),
            (json!({ "profile": "internet", "network": { "allow": [] } }), "exclude"),
            (json!({ "network": { "allow": [] }, "deny": ["a.com"] }), "exclude"),
            (json!({ "network_profile": "locked-down", "profile": "internet" }), "exclude"),
            (json!({ "network_profile": "internet", "network": { "deny": [] } }), "exclude"),
            (json!({ "profile": "lockeddown" }), "mean `locked-down`"),
            (json!({ "network_profile": "" }), "network_profile must be one of"),
            (json!({ "allow": ["a.com"], "rest": "open" }), "rest must be one of"),
            (json!({ "allow": ["a b"] }), "allow[0]"),
            (json!({ "profile": "locked-down", "credentials": [] }), "credentials cannot"),
            (json!({ "profile": "locked-down", "credentials": ["MINE"] }), "credentials cannot"),
        ] {
            let error = check_change(&parse(body.clone()), &now).err();
            let error = error.unwrap_or_else(|| panic!("{body} was accepted"));
            assert!(error.message.contains(expected), "{body}: {}", error.message);
        }
        for (body, rest) in [
            (json!({ "allow": [] }), DefaultAction::Deny),
            (json!({ "deny": ["a.com"] }), DefaultAction::Allow),
            (json!({ "deny": ["a.com"], "rest": "web" }), DefaultAction::AllowWeb),
            (json!({ "network": {}, "network_profile": "locked-down" }), DefaultAction::Deny),
            (json!({ "profile": "internet", "allow": [], "deny": [] }), DefaultAction::Allow),
        ] {
            assert_eq!(
                check_change(&parse(body.clone()), &now).unwrap().policy.default_action(),
                rest,
                "{body}"
            );
        }
    }
}
