//! What a caller asks for, checked: a profile or lists, and credentials.

use std::collections::BTreeMap;

use isorun_engine::network::{
    Policy,
    credentials::{Credential, Secret},
    policy::{self, Rest},
};
use serde::Deserialize;

use crate::{
    api::{NetworkRules, Profile},
    server::ApiError,
};

/// Credentials of one run.
const MOST: usize = 64;
const MAX_SECRET: usize = 16 << 10;

/// What a run may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The name of a profile; nothing for lists.
    pub profile: Option<String>,
    pub policy: Policy,
}

/// A secret for a service that is not known by its name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialOrder {
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

/// The profiles, the usual one first.
pub fn profiles() -> [(&'static str, Rest, &'static str); 3] {
    [
        (
            "default",
            Rest::Web,
            "The web: ports 80 and 443 of public addresses. Nothing private, no other ports.",
        ),
        ("locked-down", Rest::Closed, "Nothing at all."),
        (
            "internet",
            Rest::Open,
            "All ports of public addresses, but for 25 (mail between servers). Nothing private.",
        ),
    ]
}

/// The profiles, as the API shows them.
pub fn shown() -> Vec<Profile> {
    profiles()
        .into_iter()
        .map(|(name, rest, description)| Profile {
            name: name.to_owned(),
            description: description.to_owned(),
            allow: if rest == Rest::Closed { Vec::new() } else { vec!["0.0.0.0/0".to_owned()] },
            deny: if rest == Rest::Closed { vec!["0.0.0.0/0".to_owned()] } else { Vec::new() },
        })
        .collect()
}

/// Checks a profile or lists.
pub fn order(profile: Option<&str>, rules: Option<&NetworkRules>) -> Result<Order, ApiError> {
    let empty = Vec::new();
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let given = rules.filter(|rules| rules.allow.is_some() || rules.deny.is_some());
    let Some(rules) = given else {
        let name = profile.unwrap_or("default");
        let found = profiles().into_iter().find(|known| known.0 == name);
        let Some((name, rest, _)) = found else {
            return Err(ApiError::invalid(
                "network_profile is one of default, locked-down and internet",
            ));
        };
        let policy = Policy::new(rest, &empty, &empty);
        let policy = policy.map_err(|error| ApiError::invalid(format!("network.{error}")))?;
        return Ok(Order { profile: Some(name.to_owned()), policy });
    };
    if profile.is_some_and(|profile| profile != "default") {
        return Err(ApiError::invalid(
            "network and network_profile exclude each other: give lists, or the name of a profile",
        ));
    }
    let (allow, deny) = (list(&rules.allow), list(&rules.deny));
    // Who lists what is allowed wants nothing else; who only lists what is
    // denied wants the rest.
    let rest = if allow.is_empty() && rules.deny.is_some() && !deny.is_empty() {
        Rest::Open
    } else {
        Rest::Closed
    };
    let policy = Policy::new(rest, &allow, &deny);
    let policy = policy.map_err(|error| ApiError::invalid(format!("network.{error}")))?;
    Ok(Order { profile: None, policy })
}

/// Checks credentials.
pub fn credentials(
    given: BTreeMap<String, serde_json::Value>,
) -> Result<Vec<Credential>, ApiError> {
    if given.len() > MOST {
        return Err(ApiError::invalid(format!("credentials: {MOST} are allowed")));
    }
    given.into_iter().map(|(name, value)| credential(name, value)).collect()
}

/// No text in here has the value in it.
fn credential(name: String, value: serde_json::Value) -> Result<Credential, ApiError> {
    let invalid = |what: &str| Err(ApiError::invalid(format!("credentials.{name}: {what}")));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty()
        || name.len() > 100
        || !name.bytes().all(plain)
        || name.as_bytes()[0].is_ascii_digit()
    {
        return Err(ApiError::invalid(
            "credentials: a name is that of an environment variable, of letters, digits and `_`",
        ));
    }
    let order = match value {
        serde_json::Value::String(value) => CredentialOrder {
            value,
            host: None,
            port: None,
            header: None,
            prefix: None,
            methods: Vec::new(),
            paths: Vec::new(),
        },
        value => match serde_json::from_value::<CredentialOrder>(value) {
            Ok(order) => order,
            Err(_) => {
                return invalid(
                    "give a secret, or an object with `value` and `host`, and perhaps `port`, \
                     `header`, `prefix`, `methods` and `paths`",
                );
            }
        },
    };
    let good = |byte: u8| (0x20..0x7f).contains(&byte);
    if order.value.is_empty() || order.value.len() > MAX_SECRET || !order.value.bytes().all(good) {
        return invalid("the value is empty, too long, or has characters that no header can have");
    }
    let secret = Secret::from(order.value);
    let mut credential = match (Credential::known(&name, secret.clone()), order.host) {
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
                prefix: if order.header.is_none() { "Bearer " } else { "" }.to_owned(),
                secret,
                methods: Vec::new(),
                paths: Vec::new(),
                base: None,
            }
        }
        (None, None) => {
            let known: Vec<_> = Credential::names().collect();
            return invalid(&format!(
                "this is no service that is known by its name ({}): give an object with `value` \
                 and `host`",
                known.join(", ")
            ));
        }
    };
    if let Some(header) = order.header {
        if header.parse::<axum::http::HeaderName>().is_err() || header.eq_ignore_ascii_case("host")
        {
            return invalid("header is no name of a header that can hold a secret");
        }
        credential.header = header.to_ascii_lowercase();
    }
    if let Some(prefix) = order.prefix {
        if prefix.len() > 100 || !prefix.bytes().all(good) {
            return invalid("prefix has characters that no header can have");
        }
        credential.prefix = prefix;
    }
    if order.port == Some(0) {
        return invalid("port is 0");
    }
    credential.port = order.port.unwrap_or(credential.port);
    for method in &order.methods {
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return invalid("methods: each is a name such as GET");
        }
    }
    for path in &order.paths {
        if !path.starts_with('/') || path.trim_end_matches('*').contains(['*', '?', '%']) {
            return invalid("paths: each begins with `/`, and may end with `*`");
        }
    }
    credential.methods = order.methods;
    credential.paths = order.paths;
    Ok(credential)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_checked_and_never_repeated() {
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
            assert!(!error.message.contains("sk-secret"), "{bad}: {}", error.message);
        }
    }

    #[test]
    fn lists_and_profiles() {
        let lists = |allow: &[&str], deny: &[&str]| NetworkRules {
            allow: Some(allow.iter().map(|rule| (*rule).to_owned()).collect()),
            deny: Some(deny.iter().map(|rule| (*rule).to_owned()).collect()),
        };
        for (profile, rules, rest) in [
            (None, None, Rest::Web),
            (Some("default"), None, Rest::Web),
            (Some("internet"), None, Rest::Open),
            (Some("locked-down"), None, Rest::Closed),
            (None, Some(lists(&[], &[])), Rest::Closed),
            (None, Some(lists(&["a.com"], &[])), Rest::Closed),
            (None, Some(lists(&["a.com"], &["b.com"])), Rest::Closed),
            (None, Some(lists(&[], &["b.com"])), Rest::Open),
        ] {
            let order = order(profile, rules.as_ref()).unwrap();
            assert_eq!(order.policy.rest(), rest, "{profile:?} {rules:?}");
        }
        assert!(order(Some("open"), None).is_err());
        assert!(order(Some("internet"), Some(&lists(&["a.com"], &[]))).is_err());
        let error = order(None, Some(&lists(&["a.com", "1.2.3.4/40"], &[]))).unwrap_err();
        assert!(error.message.contains("network.allow[1]"), "{}", error.message);
    }
}
