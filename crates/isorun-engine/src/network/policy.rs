//! Rules, and what they decide. No I/O.
//!
//! A connection has an address, a port, and names: the one that its first bytes
//! say, and those for which our resolver gave this sandbox the address. The first
//! row that matches decides:
//!
//! | | | |
//! |---|---|---|
//! | 1 | the address is not public, and either the server's operator does not permit its range or no rule in `allow` matches | denied: `private` |
//! | 2 | a rule in `deny` matches the address or a name | denied: `rule` |
//! | 3 | it says a name that the address does not belong to, and names decide | denied: `forged` |
//! | 4 | a rule in `allow` matches the address, a true name of TLS or HTTP/1, or, with `tcp://`, a known name and the port | allowed |
//! | 5 | a rule in `allow` matches a known name, but the protocol is neither TLS nor HTTP/1 | denied: `protocol` |
//! | 6 | `deny` has names in it, and none is known of this address | denied: `nameless` |
//! | 7 | everything is open, or all of the web and the port is 80 or 443 | allowed |
//! | 8 | | denied: `unlisted` |
//!
//! Row 5 stands before row 1 for addresses that the operator permits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::address;

/// Rules of one list.
const MOST_RULES: usize = 1000;

/// Where a sandbox may connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    rest: Rest,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// What becomes of that which no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// It is denied.
    #[default]
    Closed,
    /// The ports 80 and 443 of public addresses are allowed.
    Web,
    /// All ports of public addresses are allowed, but for mail between servers.
    Open,
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A range of addresses, or one.
    Range(Ipv4Net),
    /// This name only.
    Name(String),
    /// All names below this one.
    Below(String),
    /// One port of a name, or of all names below it, for any protocol.
    Tcp {
        /// The name.
        name: String,
        /// Whether the names below it are meant.
        below: bool,
        /// The port.
        port: u16,
    },
}

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{list}[{index}]: {text:?} {why}")]
pub struct BadRule {
    list: &'static str,
    index: usize,
    text: String,
    why: String,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where it goes.
    pub address: Ipv4Addr,
    /// And to which port.
    pub port: u16,
    /// The name that its first bytes say.
    pub said: Option<&'a str>,
    /// Whether the address belongs to that name, as far as our resolver says.
    pub proved: bool,
    /// Names for which the sandbox was given the address.
    pub known: &'a [String],
    /// Whether its first bytes are TLS or clean HTTP/1, which say their name, if
    /// they have one.
    pub readable: bool,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It may not.
    Deny(Reason),
}

/// Why something was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The address is not public.
    Private,
    /// A rule in `deny`.
    Rule,
    /// The name that it says is not that of the address.
    Forged,
    /// No name is known of the address, and names decide.
    Nameless,
    /// No rule in `allow`.
    Unlisted,
    /// Its first bytes are TLS or HTTP that not every server reads the same way, or
    /// come too slowly.
    Malformed,
    /// A rule allows its name, but for TLS and HTTP/1 only.
    Protocol,
    /// Too many connections at the same time.
    TooMany,
    /// A secret's own rules: not for that method or path.
    Credential,
}

impl Reason {
    /// Its name in the audit log.
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
    /// What becomes of the rest, and the rules.
    ///
    /// # Errors
    ///
    /// Which entry is no rule, and why.
    pub fn new(rest: Rest, allow: &[String], deny: &[String]) -> Result<Self, BadRule> {
        Ok(Self { rest, allow: rules("allow", allow)?, deny: rules("deny", deny)? })
    }

    /// What becomes of that which no rule names.
    #[must_use]
    pub fn rest(&self) -> Rest {
        self.rest
    }

    /// The rules of both lists, as text.
    #[must_use]
    pub fn lists(&self) -> (Vec<String>, Vec<String>) {
        let texts = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect();
        (texts(&self.allow), texts(&self.deny))
    }

    /// Whether the first bytes of a connection can change what is decided: whether
    /// they are to be read first.
    #[must_use]
    pub fn needs_first_bytes(&self, ask: Ask<'_>) -> bool {
        if has_address(&self.deny, ask.address) {
            return false;
        }
        let by_name = |rule: &Rule| matches!(rule, Rule::Name(_) | Rule::Below(_));
        if self.deny.iter().any(by_name) {
            return true;
        }
        let open = has_address(&self.allow, ask.address)
            || self.carries(ask)
            || address::is_public(ask.address) && self.leaves_open(ask.port);
        !open && self.allow.iter().any(by_name)
    }

    /// Whether a name is resolved for a sandbox: whether a rule could let it be
    /// reached under this name.
    #[must_use]
    pub fn resolves(&self, name: &str) -> bool {
        !self.denies(name) && (self.is_open() || self.allow.iter().any(|rule| rule.is_about(name)))
    }

    /// Whether more is told of names than their addresses: whether names decide
    /// about little.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let everything = |rule: &Rule| matches!(rule, Rule::Range(all) if all.prefix_len() == 0);
        self.rest != Rest::Closed || self.allow.iter().any(everything)
    }

    /// Whether a rule denies a name.
    #[must_use]
    pub fn denies(&self, name: &str) -> bool {
        has_name(&self.deny, name)
    }

    /// Whether a rule allows a name.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        has_name(&self.allow, name)
    }

    /// Decides, as the table says. `permitted` are ranges that are not public,
    /// and that the server's operator lets rules name all the same.
    #[must_use]
    pub fn decide(&self, ask: Ask<'_>, permitted: &[Ipv4Net]) -> Verdict {
        let deny = |reason| Verdict::Deny(reason);
        // What it says of itself counts against it in any case, and for it only
        // when it is true.
        let names: Vec<&str> = match ask.said {
            Some(said) => vec![said],
            None => ask.known.iter().map(String::as_str).collect(),
        };
        let truthful = ask.said.is_none() || ask.proved;
        let named = names.iter().any(|name| self.allows(name));
        let listed = has_address(&self.allow, ask.address)
            || self.carries(ask)
            || named && truthful && ask.readable;
        let may_be_listed = address::within(permitted, ask.address);
        let denied_address = has_address(&self.deny, ask.address);
        let denied = denied_address || names.iter().any(|name| self.denies(name));
        let unread = named && truthful && !ask.readable && !denied && self.rest == Rest::Closed;
        // Of an address that is denied no name is waited for, which could list it.
        if !(address::is_public(ask.address) || (listed || denied_address) && may_be_listed) {
            return deny(if unread && may_be_listed { Reason::Protocol } else { Reason::Private });
        }
        if denied {
            return deny(Reason::Rule);
        }
        if listed {
            return Verdict::Allow;
        }
        if named && !truthful && self.rest == Rest::Closed {
            return deny(Reason::Forged);
        }
        if unread {
            return deny(Reason::Protocol);
        }
        let denies_names = self.deny.iter().any(|rule| !matches!(rule, Rule::Range(_)));
        if denies_names && (names.is_empty() || !truthful) {
            return deny(if names.is_empty() { Reason::Nameless } else { Reason::Forged });
        }
        if self.leaves_open(ask.port) { Verdict::Allow } else { deny(Reason::Unlisted) }
    }

    /// Whether a port of public addresses is open that no rule names.
    fn leaves_open(&self, port: u16) -> bool {
        match self.rest {
            Rest::Closed => false,
            Rest::Web => matches!(port, 80 | 443),
            Rest::Open => port != 25,
        }
    }

    /// Whether a rule lets any protocol through to where a connection goes.
    fn carries(&self, ask: Ask<'_>) -> bool {
        let carries = |rule: &Rule| {
            matches!(rule, Rule::Tcp { port, .. } if *port == ask.port)
                && ask.known.iter().any(|name| rule.is_about(name))
        };
        self.allow.iter().any(carries)
    }
}

fn has_address(rules: &[Rule], address: Ipv4Addr) -> bool {
    rules.iter().any(|rule| matches!(rule, Rule::Range(range) if range.contains(&address)))
}

/// Whether a rule is about a name, on all ports.
fn has_name(rules: &[Rule], name: &str) -> bool {
    rules.iter().any(|rule| !matches!(rule, Rule::Tcp { .. }) && rule.is_about(name))
}

impl Rule {
    /// Whether it is about a name, on any port.
    fn is_about(&self, name: &str) -> bool {
        let is_below = |suffix: &str| {
            name.strip_suffix(suffix)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty())
        };
        match self {
            Self::Range(_) => false,
            Self::Name(rule) | Self::Tcp { name: rule, below: false, .. } => rule == name,
            Self::Below(rule) | Self::Tcp { name: rule, below: true, .. } => is_below(rule),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) if range.prefix_len() == 32 => write!(f, "{}", range.addr()),
            Self::Range(range) => write!(f, "{range}"),
            Self::Name(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Tcp { name, below, port } => {
                let below = if *below { "*." } else { "" };
                write!(f, "tcp://{below}{name}:{port}")
            }
        }
    }
}

fn rules(list: &'static str, texts: &[String]) -> Result<Vec<Rule>, BadRule> {
    let bad = |index, text: &str, why: &str| BadRule {
        list,
        index,
        text: text.chars().take(100).collect(),
        why: why.to_owned(),
    };
    if texts.len() > MOST_RULES {
        return Err(bad(MOST_RULES, "", &format!("is one too many: {MOST_RULES} are allowed")));
    }
    let of_list = |text: &String| match rule(text)? {
        Rule::Tcp { .. } if list == "deny" => {
            Err("is only for `allow`: deny the name, or its address".to_owned())
        }
        rule => Ok(rule),
    };
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| of_list(text).map_err(|why| bad(index, text, &why)))
        .collect()
}

fn rule(text: &str) -> Result<Rule, String> {
    if let Some(rest) = text.strip_prefix("tcp://") {
        return tcp(rest);
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
            Ok(IpNet::V4(range)) => {
                Err(format!("has bits beyond its length: is {} meant?", range.trunc()))
            }
            Ok(IpNet::V6(_)) => Err(ipv6.to_owned()),
            Err(_) if address.parse::<IpAddr>().is_ok() => {
                Err("is no CIDR: give a length from 0 to 32, such as 10.0.0.0/8".to_owned())
            }
            Err(_) => Err("has a path in it: give a hostname only, such as example.com".to_owned()),
        };
    }
    if text.contains("://") || text.contains(':') {
        return Err("has a scheme or a port in it: give a hostname only".to_owned());
    }
    match text.strip_prefix("*.") {
        Some(rest) => name(rest).map(Rule::Below),
        None => name(text).map(Rule::Name),
    }
}

/// Reads what stands behind `tcp://`: a name, perhaps with `*.` before it, and a port.
fn tcp(text: &str) -> Result<Rule, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let Some(port) = port.parse().ok().filter(|port| plain && *port > 0) else {
        return Err(
            "has no port from 1 to 65535 at its end, as in tcp://db.example.com:5432".to_owned()
        );
    };
    if host.parse::<Ipv4Addr>().is_ok() {
        return Err("is an address: give it without tcp:// and port".to_owned());
    }
    let (host, below) = host.strip_prefix("*.").map_or((host, false), |rest| (rest, true));
    Ok(Rule::Tcp { name: name(host)?, below, port })
}

/// A hostname in the form in which all are compared: lower case, no dot at the
/// end.
///
/// # Errors
///
/// Why it is none.
pub fn name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.contains('*') {
        return Err("has a `*` inside: it can only stand for all names below, as in \
                    *.example.com"
            .to_owned());
    }
    if !name.is_ascii() {
        return Err("has letters beyond ASCII: write it in its xn-- form".to_owned());
    }
    if name.is_empty() || name.len() > 253 || !name.split('.').all(label) {
        return Err("is no hostname, IP, CIDR or *.suffix".to_owned());
    }
    // Such as 1.2.3 or 0x7f.1, which some programs take for addresses.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("is neither an IP address nor a hostname".to_owned());
    }
    Ok(name)
}

/// An IPv4 address that is written as an IPv6 one is an IPv4 address.
#[must_use]
pub fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => Ipv6Addr::to_ipv4_mapped(&six).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_table_of_precedence() {
        use Reason::{Forged, Nameless, Private, Rule, Unlisted};
        let (no, yes) = (Verdict::Deny, Verdict::Allow);
        let public = "93.184.216.34";
        // rest, allow, deny, address, port, said and whether it is true, known
        type Row<'a> = (
            Rest,
            &'a [&'a str],
            &'a [&'a str],
            (&'a str, u16),
            Option<(&'a str, bool)>,
            &'a [&'a str],
            Verdict,
        );
        let rows: &[Row<'_>] = &[
            // 1: what is not public.
            (Rest::Open, &[], &[], ("169.254.169.254", 80), None, &[], no(Private)),
            (Rest::Open, &[], &[], ("10.9.0.1", 80), None, &[], no(Private)),
            (
                Rest::Open,
                &["169.254.169.254"],
                &[],
                ("169.254.169.254", 80),
                None,
                &[],
                no(Private),
            ),
            (Rest::Closed, &["10.9.0.1"], &[], ("10.9.0.1", 80), None, &[], yes),
            (Rest::Closed, &["a.com"], &[], ("10.9.0.1", 80), Some(("a.com", true)), &[], yes),
            (
                Rest::Closed,
                &["a.com"],
                &[],
                ("10.8.0.1", 80),
                Some(("a.com", true)),
                &[],
                no(Private),
            ),
            (Rest::Closed, &["10.9.0.0/16"], &["10.9.0.1"], ("10.9.0.1", 80), None, &[], no(Rule)),
            (
                Rest::Closed,
                &["10.9.0.0/16"],
                &["10.8.0.1"],
                ("10.8.0.1", 80),
                None,
                &[],
                no(Private),
            ),
            (Rest::Closed, &["a.com"], &["10.9.0.1"], ("10.9.0.1", 80), None, &[], no(Rule)),
            (
                Rest::Closed,
                &["a.com"],
                &["10.9.0.1"],
                ("10.9.0.1", 80),
                Some(("a.com", true)),
                &[],
                no(Rule),
            ),
            // 2: deny goes before allow, whatever is narrower.
            (Rest::Closed, &[public], &["93.184.216.0/24"], (public, 80), None, &[], no(Rule)),
            (Rest::Closed, &["93.184.0.0/16"], &[public], (public, 80), None, &[], no(Rule)),
            (
                Rest::Closed,
                &["*.a.com"],
                &["x.a.com"],
                (public, 443),
                Some(("x.a.com", true)),
                &[],
                no(Rule),
            ),
            (Rest::Open, &[], &["a.com"], (public, 443), Some(("a.com", true)), &[], no(Rule)),
            (Rest::Open, &[], &["a.com"], (public, 443), Some(("a.com", false)), &[], no(Rule)),
            (Rest::Open, &[], &["a.com"], (public, 22), None, &["a.com"], no(Rule)),
            (
                Rest::Open,
                &[],
                &["*.a.com"],
                (public, 443),
                Some(("x.y.a.com", true)),
                &[],
                no(Rule),
            ),
            (Rest::Open, &[], &["*.a.com"], (public, 443), Some(("a.com", true)), &[], yes),
            (Rest::Open, &[], &["*.a.com"], (public, 443), Some(("xa.com", true)), &[], yes),
            // 3: a name that is not true.
            (Rest::Closed, &["a.com"], &[], (public, 443), Some(("a.com", false)), &[], no(Forged)),
            (
                Rest::Closed,
                &["a.com"],
                &[],
                (public, 443),
                Some(("a.com", false)),
                &["b.com"],
                no(Forged),
            ),
            (Rest::Open, &[], &["b.com"], (public, 443), Some(("a.com", false)), &[], no(Forged)),
            // 4: allow.
            (Rest::Closed, &["a.com"], &[], (public, 443), Some(("a.com", true)), &[], yes),
            (Rest::Closed, &["a.com"], &[], (public, 443), None, &["a.com"], yes),
            (Rest::Closed, &["a.com"], &[], (public, 22), None, &["b.com", "a.com"], yes),
            (
                Rest::Closed,
                &["a.com"],
                &[],
                (public, 443),
                Some(("b.com", true)),
                &["a.com"],
                no(Unlisted),
            ),
            (Rest::Closed, &["*.a.com"], &[], (public, 443), Some(("x.a.com", true)), &[], yes),
            (
                Rest::Closed,
                &["*.a.com"],
                &[],
                (public, 443),
                Some(("a.com", true)),
                &[],
                no(Unlisted),
            ),
            (Rest::Closed, &[public], &[], (public, 443), Some(("any.com", false)), &[], yes),
            (Rest::Closed, &["93.184.0.0/16"], &[], (public, 9999), None, &[], yes),
            (Rest::Closed, &["0.0.0.0/0"], &[], (public, 22), None, &[], yes),
            (Rest::Closed, &["::ffff:93.184.216.34"], &[], (public, 22), None, &[], yes),
            // 5: an address that nobody knows a name of.
            (Rest::Open, &[], &["b.com"], (public, 443), None, &[], no(Nameless)),
            (Rest::Open, &[], &["b.com"], (public, 443), None, &["a.com"], yes),
            (Rest::Open, &[public], &["b.com"], (public, 443), None, &[], yes),
            // 6 and 7: the rest.
            (Rest::Open, &[], &[], (public, 22), None, &[], yes),
            (Rest::Open, &[], &[], (public, 25), None, &[], no(Unlisted)),
            (Rest::Web, &[], &[], (public, 443), None, &[], yes),
            (Rest::Web, &[], &[], (public, 80), Some(("a.com", false)), &[], yes),
            (Rest::Web, &[], &[], (public, 22), None, &[], no(Unlisted)),
            (Rest::Closed, &[], &[], (public, 443), None, &[], no(Unlisted)),
            (Rest::Closed, &["a.com"], &[], (public, 443), None, &[], no(Unlisted)),
        ];
        let permitted = ["10.9.0.0/16".parse().unwrap()];
        for row in rows {
            let (rest, allow, deny, (address, port), said, known, verdict) = *row;
            let policy = Policy::new(rest, &list(allow), &list(deny)).unwrap();
            let known = list(known);
            let ask = Ask {
                address: address.parse().unwrap(),
                port,
                said: said.map(|(name, _)| name),
                proved: said.is_some_and(|(_, proved)| proved),
                known: &known,
                readable: true,
            };
            assert_eq!(policy.decide(ask, &permitted), verdict, "{row:?}");
            // Where the first bytes are not read, they would have changed nothing.
            if !policy.needs_first_bytes(ask) {
                let unread = Ask { said: None, proved: false, readable: false, ..ask };
                assert_eq!(policy.decide(unread, &permitted), verdict, "unread: {row:?}");
            }
        }
    }

    #[test]
    fn other_protocols_pass_by_address_or_port_only() {
        use Reason::{Private, Protocol, Rule, Unlisted};
        let (no, yes) = (Verdict::Deny, Verdict::Allow);
        let (public, private) = ("93.184.216.34", "10.9.0.1");
        // rest, allow, deny, address, port, known
        type Row<'a> = (Rest, &'a [&'a str], &'a [&'a str], (&'a str, u16), &'a [&'a str], Verdict);
        let rows: &[Row<'_>] = &[
            (Rest::Closed, &["a.com"], &[], (public, 22), &["a.com"], no(Protocol)),
            (Rest::Closed, &["*.a.com"], &[], (public, 443), &["x.a.com"], no(Protocol)),
            (Rest::Closed, &["a.com"], &[], (private, 22), &["a.com"], no(Protocol)),
            (Rest::Closed, &["a.com"], &[], ("10.8.0.1", 22), &["a.com"], no(Private)),
            (Rest::Closed, &["a.com"], &[], (public, 22), &["b.com"], no(Unlisted)),
            (Rest::Closed, &["a.com"], &["a.com"], (public, 22), &["a.com"], no(Rule)),
            (Rest::Closed, &["a.com", public], &[], (public, 22), &["a.com"], yes),
            (Rest::Closed, &["a.com", "10.9.0.0/16"], &[], (private, 22), &["a.com"], yes),
            (Rest::Closed, &["a.com", public], &["a.com"], (public, 22), &["a.com"], no(Rule)),
            (Rest::Closed, &["tcp://a.com:22"], &[], (public, 22), &["a.com"], yes),
            (Rest::Closed, &["tcp://a.com:22"], &[], (private, 22), &["b.com", "a.com"], yes),
            (Rest::Closed, &["tcp://a.com:22"], &[], (public, 23), &["a.com"], no(Unlisted)),
            (Rest::Closed, &["tcp://a.com:22"], &[], (public, 22), &["x.a.com"], no(Unlisted)),
            (Rest::Closed, &["tcp://a.com:22"], &[], (public, 22), &[], no(Unlisted)),
            (Rest::Closed, &["tcp://a.com:22"], &["a.com"], (public, 22), &["a.com"], no(Rule)),
            (Rest::Closed, &["tcp://*.a.com:22"], &[], (public, 22), &["x.a.com"], yes),
            (Rest::Closed, &["tcp://*.a.com:22"], &[], (public, 22), &["a.com"], no(Unlisted)),
            (Rest::Open, &[], &["b.com"], (public, 22), &["a.com"], yes),
            (Rest::Open, &[], &["b.com"], (public, 22), &["b.com"], no(Rule)),
        ];
        let permitted = ["10.9.0.0/16".parse().unwrap()];
        for row in rows {
            let (rest, allow, deny, (address, port), known, verdict) = *row;
            let policy = Policy::new(rest, &list(allow), &list(deny)).unwrap();
            let known = list(known);
            let address = address.parse().unwrap();
            let ask =
                Ask { address, port, said: None, proved: false, known: &known, readable: false };
            assert_eq!(policy.decide(ask, &permitted), verdict, "{row:?}");
        }
    }

    #[test]
    fn rules_are_what_they_say() {
        for (text, shown) in [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.0/24", "1.2.3.0/24"),
            ("Example.COM.", "example.com"),
            ("*.Example.com", "*.example.com"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("localhost", "localhost"),
            ("my_host.Example.com", "my_host.example.com"),
            ("tcp://Db.example.com.:5432", "tcp://db.example.com:5432"),
            ("tcp://*.example.com:22", "tcp://*.example.com:22"),
        ] {
            assert_eq!(rule(text).unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("", "no hostname"),
            ("1.2.3", "neither an IP"),
            ("1.2.3.4.5", "neither an IP"),
            ("1.2.3.4/33", "no CIDR"),
            ("1.2.3.4/8", "1.0.0.0/8"),
            ("fe80::1", "IPv6"),
            ("::/0", "IPv6"),
            ("https://example.com", "path"),
            ("example.com/path", "path"),
            ("example.com:443", "port"),
            ("*", "`*`"),
            ("a.*.com", "`*`"),
            ("*.*.com", "`*`"),
            ("b\u{fc}cher.example", "xn--"),
            ("exa mple.com", "no hostname"),
            ("-a.com", "no hostname"),
            ("a..com", "no hostname"),
            ("tcp://a.com", "no port"),
            ("tcp://a.com:", "no port"),
            ("tcp://a.com:0", "no port"),
            ("tcp://a.com:+22", "no port"),
            ("tcp://a.com:65536", "no port"),
            ("tcp://1.2.3.4:22", "without tcp://"),
            ("tcp://a.com/:22", "no hostname"),
            ("tcp://*:22", "`*`"),
            ("udp://a.com:53", "path"),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let error =
            Policy::new(Rest::Open, &list(&["a.com"]), &list(&["b.com", "c d"])).unwrap_err();
        assert_eq!(error.to_string(), "deny[1]: \"c d\" is no hostname, IP, CIDR or *.suffix");
        let error = Policy::new(Rest::Open, &[], &list(&["tcp://a.com:22"])).unwrap_err();
        assert!(error.to_string().contains("only for `allow`"), "{error}");
        let many = vec!["a.com".to_owned(); MOST_RULES + 1];
        assert!(Policy::new(Rest::Open, &many, &[]).is_err());
    }

    #[test]
    fn which_names_are_resolved() {
        let closed = Policy::new(Rest::Closed, &list(&["*.a.com"]), &list(&["x.a.com"])).unwrap();
        assert!(closed.resolves("y.a.com"));
        for name in ["x.a.com", "a.com", "b.com"] {
            assert!(!closed.resolves(name), "{name}");
        }
        assert!(!Policy::default().resolves("a.com"));
        // allow, and whether a.com, x.a.com and b.com are asked outside
        for (allow, expected) in [
            (&["93.184.216.34"][..], [false, false, false]),
            (&["93.184.0.0/16", "0.0.0.0/1"], [false, false, false]),
            (&["0.0.0.0/0"], [true, true, true]),
            (&["a.com", "93.184.216.34"], [true, false, false]),
            (&["*.a.com"], [false, true, false]),
            (&["tcp://a.com:22"], [true, false, false]),
            (&["tcp://*.a.com:22"], [false, true, false]),
        ] {
            let policy = Policy::new(Rest::Closed, &list(allow), &[]).unwrap();
            let asked = ["a.com", "x.a.com", "b.com"].map(|name| policy.resolves(name));
            assert_eq!(asked, expected, "{allow:?}");
        }
    }
}
