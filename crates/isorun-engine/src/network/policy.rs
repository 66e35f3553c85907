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
//! | 4 | a rule in `allow` matches the address or the name | allowed |
//! | 5 | `deny` has names in it, and none is known of this address | denied: `nameless` |
//! | 6 | everything is open, or all of the web and the port is 80 or 443 | allowed |
//! | 7 | | denied: `unlisted` |

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
    /// Its first bytes make no sense, or come too slowly.
    Malformed,
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

    /// Whether a name is needed to decide about an address.
    #[must_use]
    pub fn asks_names(&self) -> bool {
        self.allow.iter().chain(&self.deny).any(|rule| !matches!(rule, Rule::Range(_)))
    }

    /// Whether a name is resolved for a sandbox: whether anything may be reached
    /// under it. What its addresses are is another question.
    #[must_use]
    pub fn resolves(&self, name: &str) -> bool {
        if self.deny.iter().any(|rule| rule.has_name(name)) {
            return false;
        }
        self.rest != Rest::Closed
            || self.allow.iter().any(|rule| rule.has_name(name))
            // An address may be allowed, and programs know it by its name.
            || self.allow.iter().any(|rule| matches!(rule, Rule::Range(_)))
    }

    /// Whether a rule denies a name.
    #[must_use]
    pub fn denies(&self, name: &str) -> bool {
        self.deny.iter().any(|rule| rule.has_name(name))
    }

    /// Decides, as the table says. `permitted` are ranges that are not public,
    /// and that the server's operator lets rules name all the same.
    #[must_use]
    pub fn decide(&self, ask: Ask<'_>, permitted: &[Ipv4Net]) -> Verdict {
        let deny = |reason| Verdict::Deny(reason);
        let by_address = |rules: &[Rule]| rules.iter().any(|rule| rule.has_address(ask.address));
        let named = |rules: &[Rule], name: &str| rules.iter().any(|rule| rule.has_name(name));
        // What it says of itself counts against it in any case, and for it only
        // when it is true.
        let names: Vec<&str> = match ask.said {
            Some(said) => vec![said],
            None => ask.known.iter().map(String::as_str).collect(),
        };
        let truthful = ask.said.is_none() || ask.proved;
        let listed = by_address(&self.allow)
            || (truthful && names.iter().any(|name| named(&self.allow, name)));
        let lawful =
            address::is_public(ask.address) || listed && address::within(permitted, ask.address);
        if !lawful {
            return deny(Reason::Private);
        }
        if by_address(&self.deny) || names.iter().any(|name| named(&self.deny, name)) {
            return deny(Reason::Rule);
        }
        let forged = names.iter().any(|name| named(&self.allow, name)) && !truthful;
        if listed {
            return Verdict::Allow;
        }
        if forged && self.rest == Rest::Closed {
            return deny(Reason::Forged);
        }
        let denies_names = self.deny.iter().any(|rule| !matches!(rule, Rule::Range(_)));
        if denies_names && (names.is_empty() || !truthful) {
            return deny(if names.is_empty() { Reason::Nameless } else { Reason::Forged });
        }
        match (self.rest, ask.port) {
            (Rest::Web, 80 | 443) => Verdict::Allow,
            (Rest::Open, port) if port != 25 => Verdict::Allow,
            _ => deny(Reason::Unlisted),
        }
    }
}

impl Rule {
    fn has_address(&self, address: Ipv4Addr) -> bool {
        matches!(self, Self::Range(range) if range.contains(&address))
    }

    fn has_name(&self, name: &str) -> bool {
        match self {
            Self::Range(_) => false,
            Self::Name(rule) => rule == name,
            Self::Below(rule) => {
                name.strip_suffix(rule.as_str()).is_some_and(|rest| rest.ends_with('.'))
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
            Self::Below(name) => write!(f, "*.{name}"),
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
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| rule(text).map_err(|why| bad(index, text, &why)))
        .collect()
}

fn rule(text: &str) -> Result<Rule, String> {
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
            };
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
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let error =
            Policy::new(Rest::Open, &list(&["a.com"]), &list(&["b.com", "c d"])).unwrap_err();
        assert_eq!(error.to_string(), "deny[1]: \"c d\" is no hostname, IP, CIDR or *.suffix");
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
    }
}
