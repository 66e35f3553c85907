//! What a caller asks for, checked: a profile or lists, and credentials.

use std::collections::{BTreeMap, BTreeSet};

use isorun_engine::network::{
    Policy,
    credentials::{Credential, Secret},
    policy::{self, Rest},
};
use serde::Deserialize;

use crate::{
    api::{Network, NetworkChange, NetworkRules, Profile},
    server::{ApiError, strict},
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

/// The fields of a [`CredentialOrder`].
const FIELDS: [&str; 7] = ["value", "host", "port", "header", "prefix", "methods", "paths"];

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

/// Checks the profile or the lists of a new run; neither is the usual profile.
pub fn order(profile: Option<&str>, rules: Option<&NetworkRules>) -> Result<Order, ApiError> {
    match rules {
        None => by_profile("network_profile", profile.unwrap_or(profiles()[0].0)),
        Some(NetworkRules { allow: None, deny: None }) => match profile {
            Some(profile) => by_profile("network_profile", profile),
            // To take it for the usual profile would open what somebody meant to close.
            None => Err(ApiError::invalid(
                "network has no rules in it: give `allow` or `deny`, each a list; or \
                 `network_profile` instead",
            )),
        },
        Some(_) if profile.is_some_and(|profile| profile != profiles()[0].0) => {
            Err(exclusive("network", "network_profile"))
        }
        Some(NetworkRules { allow, deny }) => {
            by_lists("network.", None, allow.as_deref(), deny.as_deref())
        }
    }
}

/// Checks a change of what a run reaches. `now` is what `GET` answers. Takes that
/// answer, and refuses whatever does not say what is to hold.
pub fn change(change: &NetworkChange, now: &Network) -> Result<Order, ApiError> {
    let NetworkChange { network, network_profile, profile, rest, allow, deny, credentials } =
        change;
    if let Some(names) = credentials {
        let (asked, held): (BTreeSet<_>, BTreeSet<_>) =
            (names.iter().collect(), now.credentials.iter().collect());
        if asked != held {
            return Err(ApiError::invalid(format!(
                "credentials cannot be changed: leave the field out, or give the names that this \
                 run has: {:?}",
                now.credentials
            )));
        }
    }
    let rest = rest.as_deref().map(rest_named).transpose()?;
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
                return Err(exclusive(other, name));
            }
        }
        return order(network_profile.as_deref(), network.as_ref());
    }
    if let Some(profile) = profile {
        let order = by_profile("profile", profile)?;
        let has_rules = allow.iter().chain(deny).any(|list| !list.is_empty());
        if has_rules {
            return Err(exclusive("profile", "`allow` and `deny` with rules in them"));
        }
        if let Some(rest) = rest
            && rest != order.policy.rest()
        {
            return Err(ApiError::invalid(format!(
                "rest is `{}`, and the profile `{profile}` has `{}`: leave `rest` out, or set \
                 `profile` to null and give lists",
                rest_name(rest),
                rest_name(order.policy.rest())
            )));
        }
        return Ok(order);
    }
    if lists {
        return by_lists("", rest, allow.as_deref(), deny.as_deref());
    }
    Err(ApiError::invalid(
        "nothing to change: give `network` with `allow` or `deny`, or `network_profile`, or all \
         that GET answers",
    ))
}

fn exclusive(one: &str, other: &str) -> ApiError {
    ApiError::invalid(format!(
        "{one} and {other} exclude each other: give lists, or the name of a profile"
    ))
}

fn by_profile(field: &str, name: &str) -> Result<Order, ApiError> {
    let Some((name, rest, _)) = profiles().into_iter().find(|known| known.0 == name) else {
        let names = profiles().map(|(name, ..)| name);
        let hint = strict::nearest(name, &names).map(|name| format!(": did you mean `{name}`?"));
        return Err(ApiError::invalid(format!(
            "{field} is one of default, locked-down and internet{}",
            hint.unwrap_or_default()
        )));
    };
    by_lists("", Some(rest), None, None)
        .map(|order| Order { profile: Some(name.to_owned()), ..order })
}

/// `prefix` is what stands before the names of the lists in an error.
fn by_lists(
    prefix: &str,
    rest: Option<Rest>,
    allow: Option<&[String]>,
    deny: Option<&[String]>,
) -> Result<Order, ApiError> {
    let (allow, deny) = (allow.unwrap_or_default(), deny.unwrap_or_default());
    // Who lists what is allowed wants nothing else; who only lists what is
    // denied wants the rest.
    let usual = if allow.is_empty() && !deny.is_empty() { Rest::Open } else { Rest::Closed };
    let policy = Policy::new(rest.unwrap_or(usual), allow, deny)
        .map_err(|error| ApiError::invalid(format!("{prefix}{error}")))?;
    Ok(Order { profile: None, policy })
}

const RESTS: [(Rest, &str); 3] =
    [(Rest::Closed, "denied"), (Rest::Web, "web"), (Rest::Open, "allowed")];

/// What the API calls that which becomes of what no rule names.
pub fn rest_name(rest: Rest) -> &'static str {
    RESTS.iter().find(|(known, _)| *known == rest).map_or("denied", |(_, name)| name)
}

fn rest_named(name: &str) -> Result<Rest, ApiError> {
    let found = RESTS.iter().find(|(_, known)| *known == name);
    let found = found.ok_or_else(|| ApiError::invalid("rest is one of denied, web and allowed"));
    found.map(|(rest, _)| *rest)
}

/// Checks a change of rules that the fuzzer made, from each of the profiles: what
/// is then shown is taken, and means the same.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_network(asked: &NetworkChange) {
    use super::{Settings, routes::describe};
    for (name, ..) in profiles() {
        let Ok(order) = order(Some(name), None) else { panic!("{name}") };
        let before =
            Settings { profile: order.profile, policy: order.policy, ..Settings::default() };
        let Ok(order) = change(asked, &describe(&before)) else { continue };
        let after = before.with(order);
        let shown = serde_json::to_vec(&describe(&after)).unwrap_or_default();
        let again: NetworkChange = strict::object(&shown).unwrap_or_else(|why| panic!("{why}"));
        let again = change(&again, &describe(&after));
        let again = again.unwrap_or_else(|error| panic!("{}", error.message));
        assert_eq!(after.with(again), after);
    }
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
        value => {
            let unknown = value
                .as_object()
                .and_then(|fields| fields.keys().find(|name| !FIELDS.contains(&name.as_str())));
            if let Some(field) = unknown {
                return invalid(&strict::unknown("field", field, "in it", &FIELDS));
            }
            let is_object = value.is_object();
            match serde_json::from_value::<CredentialOrder>(value) {
                // A list would be taken for the fields in their order.
                Ok(order) if is_object => order,
                _ => {
                    return invalid(
                        "give a secret, or an object with `value` and `host`, and perhaps `port`, \
                         `header`, `prefix`, `methods` and `paths`",
                    );
                }
            }
        }
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
    use crate::server::network::{Settings, routes::describe};

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
            assert!(!bad.to_string().contains("hots") || error.message.contains("mean `host`"));
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
        // Neither list, and no profile: not what is usual.
        let nothing = NetworkRules::default();
        assert!(order(None, Some(&nothing)).is_err());
        assert_eq!(order(Some("locked-down"), Some(&nothing)).unwrap().policy.rest(), Rest::Closed);
        assert!(order(Some("internet"), Some(&lists(&["a.com"], &[]))).is_err());
        let error = order(None, Some(&lists(&["a.com", "1.2.3.4/40"], &[]))).unwrap_err();
        assert!(error.message.contains("network.allow[1]"), "{}", error.message);
    }

    fn parse(body: serde_json::Value) -> NetworkChange {
        strict::object(body.to_string().as_bytes()).unwrap()
    }

    fn shown(order: Order) -> (Settings, Network) {
        let key = "sk-1".to_owned().into();
        let credential = Credential::known("OPENAI_API_KEY", key).unwrap();
        let settings = Settings::new(order, vec![credential]).unwrap();
        let network = describe(&settings);
        (settings, network)
    }

    /// For every profile, default and pair of lists: what `GET` answers is taken
    /// by `PUT`, and what holds is equal.
    #[test]
    fn what_is_shown_is_taken_and_means_the_same() {
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
        let mut orders: Vec<Order> =
            profiles().iter().map(|(name, ..)| order(Some(name), None).unwrap()).collect();
        for allow in subsets() {
            let deny = subsets().nth(allow.len() * 7 % 11).unwrap();
            for lists in [(Some(&allow), None), (None, Some(&allow)), (Some(&allow), Some(&deny))] {
                let lists = NetworkRules { allow: lists.0.cloned(), deny: lists.1.cloned() };
                orders.push(order(None, Some(&lists)).unwrap());
            }
            for (rest, _) in RESTS {
                orders.push(by_lists("", Some(rest), Some(&allow), Some(&deny)).unwrap());
            }
        }
        assert!(orders.len() > 1000);
        for order in orders {
            let (settings, network) = shown(order);
            let body = serde_json::to_value(&network).unwrap();
            let again = change(&parse(body.clone()), &network);
            let again = again.unwrap_or_else(|error| panic!("{body}: {}", error.message));
            assert_eq!(settings.with(again), settings, "{body}");
            // Also without the fields that are null or follow from others.
            let mut less = body.clone();
            less.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            assert_eq!(settings.with(change(&parse(less), &network).unwrap()), settings, "{body}");
        }
    }

    #[test]
    fn a_change_that_says_nothing_or_two_things_is_refused() {
        let (_, now) = shown(order(Some("locked-down"), None).unwrap());
        for (body, said) in [
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
            (json!({ "network_profile": "" }), "network_profile is one of"),
            (json!({ "allow": ["a.com"], "rest": "open" }), "rest is one of"),
            (json!({ "allow": ["a b"] }), "allow[0]"),
            (json!({ "profile": "locked-down", "credentials": [] }), "credentials cannot"),
            (json!({ "profile": "locked-down", "credentials": ["MINE"] }), "credentials cannot"),
        ] {
            let error = change(&parse(body.clone()), &now).err();
            let error = error.unwrap_or_else(|| panic!("{body} was taken"));
            assert!(error.message.contains(said), "{body}: {}", error.message);
        }
        for (body, rest) in [
            (json!({ "allow": [] }), Rest::Closed),
            (json!({ "deny": ["a.com"] }), Rest::Open),
            (json!({ "deny": ["a.com"], "rest": "web" }), Rest::Web),
            (json!({ "network": {}, "network_profile": "locked-down" }), Rest::Closed),
            (json!({ "profile": "internet", "allow": [], "deny": [] }), Rest::Open),
        ] {
            assert_eq!(change(&parse(body.clone()), &now).unwrap().policy.rest(), rest, "{body}");
        }
    }
}
