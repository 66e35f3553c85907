//! Network rules and their evaluation. No I/O.
//!
//! A connection has an address, a port, and names: the claimed name, which is in its first
//! bytes, and the known names, for which our resolver returned the address to this sandbox.
//! The claimed name is verified if the address belongs to it. The first row that matches
//! decides:
//!
//! | | | |
//! |---|---|---|
//! | 1 | the address is not public, and either the server's operator does not permit its range or no rule in `allow` matches | denied: `private` |
//! | 2 | a rule in `deny` matches the address or a name | denied: `rule` |
//! | 3 | the claimed name is not verified, and rules by name decide | denied: `forged` |
//! | 4 | a rule in `allow` matches the address, a verified name of TLS or HTTP/1, or, with `tcp://`, a known name and the port | allowed |
//! | 5 | a rule in `allow` matches a known name, but the protocol is neither TLS nor HTTP/1 | denied: `protocol` |
//! | 6 | `deny` contains names, and no name of this address is known | denied: `nameless` |
//! | 7 | the default action is `Allow`, or it is `AllowWeb` and the port is 80 or 443 | allowed |
//! | 8 | | denied: `unlisted` |
//!
//! Row 5 precedes row 1 for addresses that the operator permits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::address;

/// Maximum number of rules in one list.
const MAX_RULES_PER_LIST: usize = 1000;

/// The rules for outgoing connections of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    #[serde(rename = "rest")]
    default_action: DefaultAction,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// The action for connections that no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultAction {
    /// Deny all.
    #[default]
    #[serde(rename = "closed")]
    Deny,
    /// Allow ports 80 and 443 of public addresses.
    #[serde(rename = "web")]
    AllowWeb,
    /// Allow all ports of public addresses except 25 (mail between servers).
    #[serde(rename = "open")]
    Allow,
}

/// A rule in the list `allow` or `deny`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// An address or a range of addresses.
    Range(Ipv4Net),
    /// One hostname.
    Name(String),
    /// All subdomains of a name, but not the name itself.
    #[serde(rename = "below")]
    Subdomains(String),
    /// One port of a name, or of all its subdomains, for any protocol.
    Tcp {
        /// The name.
        name: String,
        /// The rule is for the subdomains of the name.
        #[serde(rename = "below")]
        subdomains: bool,
        /// The port.
        port: u16,
    },
}

/// An invalid rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{list}[{index}]: {text:?} {why}")]
pub struct InvalidRule {
    list: &'static str,
    index: usize,
    text: String,
    why: String,
}

/// The properties of a connection that the policy evaluates.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The destination address.
    pub address: Ipv4Addr,
    /// The destination port.
    pub port: u16,
    /// The name in its first bytes.
    pub claimed: Option<&'a str>,
    /// The address belongs to the claimed name, according to our resolver.
    pub verified: bool,
    /// The names that the sandbox resolved to the address.
    pub known: &'a [String],
    /// Its first bytes are TLS or clean HTTP/1, which contain the name if there is one.
    pub is_tls_or_http: bool,
}

/// The decision about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is allowed.
    Allow,
    /// The connection is denied.
    Deny(Reason),
}

/// The reason why a connection or a request was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The address is not public.
    Private,
    /// A rule in `deny` matches.
    Rule,
    /// The address does not belong to the claimed name.
    Forged,
    /// No name of the address is known, and rules by name decide.
    Nameless,
    /// No rule in `allow` matches.
    Unlisted,
    /// The first bytes are TLS or HTTP that servers parse in different ways, or arrive too
    /// slowly.
    Malformed,
    /// A rule allows the name, but only for TLS and HTTP/1.
    Protocol,
    /// The sandbox has too many open connections.
    TooMany,
    /// No credential permits the method and path of the request.
    Credential,
}

impl Reason {
    /// Returns the name of the reason in the audit log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Rule => "rule",
            Self::Forged => "forged",
            Self::Nameless => "nameless",
            Self::Unlisted => "unlisted",
            Self::Malformed => "malformed",
            Self::Protocol => "protocol",
            Self::TooMany => "too_many",
            Self::Credential => "credential",
        }
    }
}

impl Policy {
    /// Parses the lists of rules.
    ///
    /// # Errors
    ///
    /// The list and index of an invalid rule, and why it is invalid.
    pub fn new(
        default_action: DefaultAction,
        allow: &[String],
        deny: &[String],
    ) -> Result<Self, InvalidRule> {
        let (allow, deny) = (parse_list("allow", allow)?, parse_list("deny", deny)?);
        Ok(Self { default_action, allow, deny })
    }

    /// Returns the action for connections that no rule matches.
    #[must_use]
    pub fn default_action(&self) -> DefaultAction {
        self.default_action
    }

    /// Returns the rules of `allow` and `deny` as text.
    #[must_use]
    pub fn lists(&self) -> (Vec<String>, Vec<String>) {
        let texts = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect();
        (texts(&self.allow), texts(&self.deny))
    }

    /// Reports whether the first bytes of a connection can change the decision and have to
    /// be read before it.
    #[must_use]
    pub fn needs_first_bytes(&self, connection: Connection<'_>) -> bool {
        if matches_address(&self.deny, connection.address) {
            return false;
        }
        let by_name = |rule: &Rule| matches!(rule, Rule::Name(_) | Rule::Subdomains(_));
        if self.deny.iter().any(by_name) {
            return true;
        }
        let is_open = matches_address(&self.allow, connection.address)
            || self.has_tcp_rule(connection)
            || address::is_public(connection.address) && self.default_allows(connection.port);
        !is_open && self.allow.iter().any(by_name)
    }

    /// Reports whether a name is resolved for a sandbox, which is the case if the rules
    /// could allow a connection under this name.
    #[must_use]
    pub fn resolves(&self, name: &str) -> bool {
        !self.denies(name)
            && (self.is_open() || self.allow.iter().any(|rule| rule.matches_name(name)))
    }

    /// Reports whether connections are allowed without a rule for them, so that records
    /// other than addresses can be resolved, too.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let everything = |rule: &Rule| matches!(rule, Rule::Range(all) if all.prefix_len() == 0);
        self.default_action != DefaultAction::Deny || self.allow.iter().any(everything)
    }

    /// Reports whether a rule denies a name.
    #[must_use]
    pub fn denies(&self, name: &str) -> bool {
        matches_name(&self.deny, name)
    }

    /// Reports whether a rule allows a name.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        matches_name(&self.allow, name)
    }

    /// Decides about a connection according to the table in the module's docs. `permitted`
    /// are the ranges that are not public but that the server's operator lets rules allow.
    #[must_use]
    pub fn decide(&self, connection: Connection<'_>, permitted: &[Ipv4Net]) -> Verdict {
        let deny = |reason| Verdict::Deny(reason);
        // For rules in `deny` the claimed name always counts; for rules in `allow` it
        // counts only if it is verified.
        let names: Vec<&str> = match connection.claimed {
            Some(claimed) => vec![claimed],
            None => connection.known.iter().map(String::as_str).collect(),
        };
        let is_truthful = connection.claimed.is_none() || connection.verified;
        let is_named = names.iter().any(|name| self.allows(name));
        let is_listed = matches_address(&self.allow, connection.address)
            || self.has_tcp_rule(connection)
            || is_named && is_truthful && connection.is_tls_or_http;
        let is_permitted = address::within(permitted, connection.address);
        let is_address_denied = matches_address(&self.deny, connection.address);
        let is_denied = is_address_denied || names.iter().any(|name| self.denies(name));
        let is_other_protocol = is_named
            && is_truthful
            && !connection.is_tls_or_http
            && !is_denied
            && self.default_action == DefaultAction::Deny;
        // If the address is denied, no name is read that could match a rule in `allow`.
        if !(address::is_public(connection.address)
            || (is_listed || is_address_denied) && is_permitted)
        {
            return deny(if is_other_protocol && is_permitted {
                Reason::Protocol
            } else {
                Reason::Private
            });
        }
        if is_denied {
            return deny(Reason::Rule);
        }
        if is_listed {
            return Verdict::Allow;
        }
        if is_named && !is_truthful && self.default_action == DefaultAction::Deny {
            return deny(Reason::Forged);
        }
        if is_other_protocol {
            return deny(Reason::Protocol);
        }
        let denies_names = self.deny.iter().any(|rule| !matches!(rule, Rule::Range(_)));
        if denies_names && (names.is_empty() || !is_truthful) {
            return deny(if names.is_empty() { Reason::Nameless } else { Reason::Forged });
        }
        if self.default_allows(connection.port) { Verdict::Allow } else { deny(Reason::Unlisted) }
    }

    /// Reports whether the default action allows a port of public addresses.
    fn default_allows(&self, port: u16) -> bool {
        match self.default_action {
            DefaultAction::Deny => false,
            DefaultAction::AllowWeb => matches!(port, 80 | 443),
            DefaultAction::Allow => port != 25,
        }
    }

    /// Reports whether a `tcp://` rule allows the destination for any protocol.
    fn has_tcp_rule(&self, connection: Connection<'_>) -> bool {
        let matches = |rule: &Rule| {
            matches!(rule, Rule::Tcp { port, .. } if *port == connection.port)
                && connection.known.iter().any(|name| rule.matches_name(name))
        };
        self.allow.iter().any(matches)
    }
}

/// Reports whether a rule for an address range matches.
fn matches_address(rules: &[Rule], address: Ipv4Addr) -> bool {
    rules.iter().any(|rule| matches!(rule, Rule::Range(range) if range.contains(&address)))
}

/// Reports whether a rule for all ports matches a name.
fn matches_name(rules: &[Rule], name: &str) -> bool {
    rules.iter().any(|rule| !matches!(rule, Rule::Tcp { .. }) && rule.matches_name(name))
}

impl Rule {
    /// Reports whether the rule matches a name, on any port.
    fn matches_name(&self, name: &str) -> bool {
        let is_subdomain_of = |suffix: &str| {
            name.strip_suffix(suffix)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty())
        };
        match self {
            Self::Range(_) => false,
            Self::Name(rule) | Self::Tcp { name: rule, subdomains: false, .. } => rule == name,
            Self::Subdomains(rule) | Self::Tcp { name: rule, subdomains: true, .. } => {
                is_subdomain_of(rule)
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) if range.prefix_len() == 32 => write!(f, "{}", range.addr()),
            Self::Range(range) => write!(f, "{range}"),
            Self::Name(name) => f.write_str(name),
            Self::Subdomains(name) => write!(f, "*.{name}"),
            Self::Tcp { name, subdomains, port } => {
                let wildcard = if *subdomains { "*." } else { "" };
                write!(f, "tcp://{wildcard}{name}:{port}")
            }
        }
    }
}

fn parse_list(list: &'static str, texts: &[String]) -> Result<Vec<Rule>, InvalidRule> {
    let invalid = |index, text: &str, why: &str| InvalidRule {
        list,
        index,
        text: text.chars().take(100).collect(),
        why: why.to_owned(),
    };
    if texts.len() > MAX_RULES_PER_LIST {
        let why = format!("exceeds the maximum of {MAX_RULES_PER_LIST} rules in a list");
        return Err(invalid(MAX_RULES_PER_LIST, "", &why));
    }
    let parse = |text: &String| match parse_rule(text)? {
        Rule::Tcp { .. } if list == "deny" => {
            Err("is allowed only in `allow`: deny the name, or its address".to_owned())
        }
        rule => Ok(rule),
    };
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| parse(text).map_err(|why| invalid(index, text, &why)))
        .collect()
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    if let Some(rest) = text.strip_prefix("tcp://") {
        return parse_tcp_rule(rest);
    }
    let ipv6 = "is IPv6, which sandboxes do not have: name the host, or an IPv4 address";
    if let Ok(address) = text.parse::<IpAddr>() {
        return match unmapped(address) {
            IpAddr::V4(address) => Ok(Rule::Range(address.into())),
            IpAddr::V6(_) => Err(ipv6.to_owned()),
        };
    }
    if let Some((address, _)) = text.split_once('/') {
        return match text.parse() {
            Ok(IpNet::V4(range)) if range.trunc() == range => Ok(Rule::Range(range)),
            Ok(IpNet::V4(range)) => Err(format!(
                "has bits set beyond its prefix length: did you mean {}?",
                range.trunc()
            )),
            Ok(IpNet::V6(_)) => Err(ipv6.to_owned()),
            Err(_) if address.parse::<IpAddr>().is_ok() => {
                Err("is not a valid CIDR: give a prefix length from 0 to 32, such as 10.0.0.0/8"
                    .to_owned())
            }
            Err(_) => Err("has a path in it: give a hostname only, such as example.com".to_owned()),
        };
    }
    if text.contains("://") || text.contains(':') {
        return Err("has a scheme or a port in it: give a hostname only".to_owned());
    }
    match text.strip_prefix("*.") {
        Some(rest) => name(rest).map(Rule::Subdomains),
        None => name(text).map(Rule::Name),
    }
}

/// Parses the part after `tcp://`: a name, perhaps with `*.` before it, and a port.
fn parse_tcp_rule(text: &str) -> Result<Rule, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let Some(port) = port.parse().ok().filter(|port| is_number && *port > 0) else {
        return Err(
            "has no port from 1 to 65535 at its end, as in tcp://db.example.com:5432".to_owned()
        );
    };
    if host.parse::<Ipv4Addr>().is_ok() {
        return Err("is an address: give it without tcp:// and port".to_owned());
    }
    let (host, subdomains) = host.strip_prefix("*.").map_or((host, false), |rest| (rest, true));
    Ok(Rule::Tcp { name: name(host)?, subdomains, port })
}

/// Normalizes a hostname: lower case, no dot at the end.
///
/// # Errors
///
/// Why the text is not a hostname.
pub fn name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.contains('*') {
        return Err(
            "has a `*` in the wrong place: it is allowed only at the start, for all subdomains, \
                    as in *.example.com"
                .to_owned(),
        );
    }
    if !name.is_ascii() {
        return Err("has letters beyond ASCII: write it in its xn-- form".to_owned());
    }
    if name.is_empty() || name.len() > 253 || !name.split('.').all(is_label) {
        return Err("is not a hostname, IP, CIDR or *.suffix".to_owned());
    }
    // Such as 1.2.3 or 0x7f.1, which some programs parse as addresses.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("is neither an IP address nor a hostname".to_owned());
    }
    Ok(name)
}

/// Converts an IPv4-mapped IPv6 address to IPv4; returns any other address unchanged.
#[must_use]
pub fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => Ipv6Addr::to_ipv4_mapped(&six).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests;
