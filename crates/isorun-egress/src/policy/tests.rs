//! Tables of connections and verdicts.

use super::*;

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn rules_have_the_documented_precedence() {
    use Reason::{Forged, Nameless, Private, Rule, Unlisted};
    let (no, yes) = (Verdict::Deny, Verdict::Allow);
    let public = "93.184.216.34";
    // default action, allow, deny, address, port, claimed name and whether it is
    // verified, known names
    type Row<'a> = (
        DefaultAction,
        &'a [&'a str],
        &'a [&'a str],
        (&'a str, u16),
        Option<(&'a str, bool)>,
        &'a [&'a str],
        Verdict,
    );
    let rows: &[Row<'_>] = &[
        // 1: addresses that are not public.
        (DefaultAction::Allow, &[], &[], ("169.254.169.254", 80), None, &[], no(Private)),
        (DefaultAction::Allow, &[], &[], ("10.9.0.1", 80), None, &[], no(Private)),
        (
            DefaultAction::Allow,
            &["169.254.169.254"],
            &[],
            ("169.254.169.254", 80),
            None,
            &[],
            no(Private),
        ),
        (DefaultAction::Deny, &["10.9.0.1"], &[], ("10.9.0.1", 80), None, &[], yes),
        (DefaultAction::Deny, &["a.com"], &[], ("10.9.0.1", 80), Some(("a.com", true)), &[], yes),
        (
            DefaultAction::Deny,
            &["a.com"],
            &[],
            ("10.8.0.1", 80),
            Some(("a.com", true)),
            &[],
            no(Private),
        ),
        (
            DefaultAction::Deny,
            &["10.9.0.0/16"],
            &["10.9.0.1"],
            ("10.9.0.1", 80),
            None,
            &[],
            no(Rule),
        ),
        (
            DefaultAction::Deny,
            &["10.9.0.0/16"],
            &["10.8.0.1"],
            ("10.8.0.1", 80),
            None,
            &[],
            no(Private),
        ),
        (DefaultAction::Deny, &["a.com"], &["10.9.0.1"], ("10.9.0.1", 80), None, &[], no(Rule)),
        (
            DefaultAction::Deny,
            &["a.com"],
            &["10.9.0.1"],
            ("10.9.0.1", 80),
            Some(("a.com", true)),
            &[],
            no(Rule),
        ),
        // 2: deny takes precedence over allow, whichever is narrower.
        (DefaultAction::Deny, &[public], &["93.184.216.0/24"], (public, 80), None, &[], no(Rule)),
        (DefaultAction::Deny, &["93.184.0.0/16"], &[public], (public, 80), None, &[], no(Rule)),
        (
            DefaultAction::Deny,
            &["*.a.com"],
            &["x.a.com"],
            (public, 443),
            Some(("x.a.com", true)),
            &[],
            no(Rule),
        ),
        (
            DefaultAction::Allow,
            &[],
            &["a.com"],
            (public, 443),
            Some(("a.com", true)),
            &[],
            no(Rule),
        ),
        (
            DefaultAction::Allow,
            &[],
            &["a.com"],
            (public, 443),
            Some(("a.com", false)),
            &[],
            no(Rule),
        ),
        (DefaultAction::Allow, &[], &["a.com"], (public, 22), None, &["a.com"], no(Rule)),
        (
            DefaultAction::Allow,
            &[],
            &["*.a.com"],
            (public, 443),
            Some(("x.y.a.com", true)),
            &[],
            no(Rule),
        ),
        (DefaultAction::Allow, &[], &["*.a.com"], (public, 443), Some(("a.com", true)), &[], yes),
        (DefaultAction::Allow, &[], &["*.a.com"], (public, 443), Some(("xa.com", true)), &[], yes),
        // 3: a claimed name that is not verified.
        (
            DefaultAction::Deny,
            &["a.com"],
            &[],
            (public, 443),
            Some(("a.com", false)),
            &[],
            no(Forged),
        ),
        (
            DefaultAction::Deny,
            &["a.com"],
            &[],
            (public, 443),
            Some(("a.com", false)),
            &["b.com"],
            no(Forged),
        ),
        (
            DefaultAction::Allow,
            &[],
            &["b.com"],
            (public, 443),
            Some(("a.com", false)),
            &[],
            no(Forged),
        ),
        // 4: allow.
        (DefaultAction::Deny, &["a.com"], &[], (public, 443), Some(("a.com", true)), &[], yes),
        (DefaultAction::Deny, &["a.com"], &[], (public, 443), None, &["a.com"], yes),
        (DefaultAction::Deny, &["a.com"], &[], (public, 22), None, &["b.com", "a.com"], yes),
        (
            DefaultAction::Deny,
            &["a.com"],
            &[],
            (public, 443),
            Some(("b.com", true)),
            &["a.com"],
            no(Unlisted),
        ),
        (DefaultAction::Deny, &["*.a.com"], &[], (public, 443), Some(("x.a.com", true)), &[], yes),
        (
            DefaultAction::Deny,
            &["*.a.com"],
            &[],
            (public, 443),
            Some(("a.com", true)),
            &[],
            no(Unlisted),
        ),
        (DefaultAction::Deny, &[public], &[], (public, 443), Some(("any.com", false)), &[], yes),
        (DefaultAction::Deny, &["93.184.0.0/16"], &[], (public, 9999), None, &[], yes),
        (DefaultAction::Deny, &["0.0.0.0/0"], &[], (public, 22), None, &[], yes),
        (DefaultAction::Deny, &["::ffff:93.184.216.34"], &[], (public, 22), None, &[], yes),
        // 5: an address without a known name.
        (DefaultAction::Allow, &[], &["b.com"], (public, 443), None, &[], no(Nameless)),
        (DefaultAction::Allow, &[], &["b.com"], (public, 443), None, &["a.com"], yes),
        (DefaultAction::Allow, &[public], &["b.com"], (public, 443), None, &[], yes),
        // 6 and 7: the default action.
        (DefaultAction::Allow, &[], &[], (public, 22), None, &[], yes),
        (DefaultAction::Allow, &[], &[], (public, 25), None, &[], no(Unlisted)),
        (DefaultAction::AllowWeb, &[], &[], (public, 443), None, &[], yes),
        (DefaultAction::AllowWeb, &[], &[], (public, 80), Some(("a.com", false)), &[], yes),
        (DefaultAction::AllowWeb, &[], &[], (public, 22), None, &[], no(Unlisted)),
        (DefaultAction::Deny, &[], &[], (public, 443), None, &[], no(Unlisted)),
        (DefaultAction::Deny, &["a.com"], &[], (public, 443), None, &[], no(Unlisted)),
    ];
    let permitted = ["10.9.0.0/16".parse().unwrap()];
    for row in rows {
        let (default_action, allow, deny, (address, port), claimed, known, verdict) = *row;
        let policy = Policy::new(default_action, &list(allow), &list(deny)).unwrap();
        let known = list(known);
        let connection = Connection {
            address: address.parse().unwrap(),
            port,
            claimed: claimed.map(|(name, _)| name),
            verified: claimed.is_some_and(|(_, verified)| verified),
            known: &known,
            is_tls_or_http: true,
        };
        assert_eq!(policy.decide(connection, &permitted), verdict, "{row:?}");
        // If the first bytes are not needed, the decision without them is the same.
        if !policy.needs_first_bytes(connection) {
            let unread =
                Connection { claimed: None, verified: false, is_tls_or_http: false, ..connection };
            assert_eq!(policy.decide(unread, &permitted), verdict, "unread: {row:?}");
        }
    }
}

#[test]
fn other_protocols_are_allowed_by_address_or_port_only() {
    use Reason::{Private, Protocol, Rule, Unlisted};
    let (no, yes) = (Verdict::Deny, Verdict::Allow);
    let (public, private) = ("93.184.216.34", "10.9.0.1");
    // default action, allow, deny, address, port, known names
    type Row<'a> =
        (DefaultAction, &'a [&'a str], &'a [&'a str], (&'a str, u16), &'a [&'a str], Verdict);
    let rows: &[Row<'_>] = &[
        (DefaultAction::Deny, &["a.com"], &[], (public, 22), &["a.com"], no(Protocol)),
        (DefaultAction::Deny, &["*.a.com"], &[], (public, 443), &["x.a.com"], no(Protocol)),
        (DefaultAction::Deny, &["a.com"], &[], (private, 22), &["a.com"], no(Protocol)),
        (DefaultAction::Deny, &["a.com"], &[], ("10.8.0.1", 22), &["a.com"], no(Private)),
        (DefaultAction::Deny, &["a.com"], &[], (public, 22), &["b.com"], no(Unlisted)),
        (DefaultAction::Deny, &["a.com"], &["a.com"], (public, 22), &["a.com"], no(Rule)),
        (DefaultAction::Deny, &["a.com", public], &[], (public, 22), &["a.com"], yes),
        (DefaultAction::Deny, &["a.com", "10.9.0.0/16"], &[], (private, 22), &["a.com"], yes),
        (DefaultAction::Deny, &["a.com", public], &["a.com"], (public, 22), &["a.com"], no(Rule)),
        (DefaultAction::Deny, &["tcp://a.com:22"], &[], (public, 22), &["a.com"], yes),
        (DefaultAction::Deny, &["tcp://a.com:22"], &[], (private, 22), &["b.com", "a.com"], yes),
        (DefaultAction::Deny, &["tcp://a.com:22"], &[], (public, 23), &["a.com"], no(Unlisted)),
        (DefaultAction::Deny, &["tcp://a.com:22"], &[], (public, 22), &["x.a.com"], no(Unlisted)),
        (DefaultAction::Deny, &["tcp://a.com:22"], &[], (public, 22), &[], no(Unlisted)),
        (DefaultAction::Deny, &["tcp://a.com:22"], &["a.com"], (public, 22), &["a.com"], no(Rule)),
        (DefaultAction::Deny, &["tcp://*.a.com:22"], &[], (public, 22), &["x.a.com"], yes),
        (DefaultAction::Deny, &["tcp://*.a.com:22"], &[], (public, 22), &["a.com"], no(Unlisted)),
        (DefaultAction::Allow, &[], &["b.com"], (public, 22), &["a.com"], yes),
        (DefaultAction::Allow, &[], &["b.com"], (public, 22), &["b.com"], no(Rule)),
    ];
    let permitted = ["10.9.0.0/16".parse().unwrap()];
    for row in rows {
        let (default_action, allow, deny, (address, port), known, verdict) = *row;
        let policy = Policy::new(default_action, &list(allow), &list(deny)).unwrap();
        let known = list(known);
        let address = address.parse().unwrap();
        let connection = Connection {
            address,
            port,
            claimed: None,
            verified: false,
            known: &known,
            is_tls_or_http: false,
        };
        assert_eq!(policy.decide(connection, &permitted), verdict, "{row:?}");
    }
}

#[test]
fn rules_are_parsed_and_formatted() {
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
        assert_eq!(parse_rule(text).unwrap().to_string(), shown);
    }
    for (text, why) in [
        ("", "not a hostname"),
        ("1.2.3", "neither an IP"),
        ("1.2.3.4.5", "neither an IP"),
        ("1.2.3.4/33", "not a valid CIDR"),
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
        ("exa mple.com", "not a hostname"),
        ("-a.com", "not a hostname"),
        ("a..com", "not a hostname"),
        ("tcp://a.com", "no port"),
        ("tcp://a.com:", "no port"),
        ("tcp://a.com:0", "no port"),
        ("tcp://a.com:+22", "no port"),
        ("tcp://a.com:65536", "no port"),
        ("tcp://1.2.3.4:22", "without tcp://"),
        ("tcp://a.com/:22", "not a hostname"),
        ("tcp://*:22", "`*`"),
        ("udp://a.com:53", "path"),
    ] {
        let error = parse_rule(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
    let error =
        Policy::new(DefaultAction::Allow, &list(&["a.com"]), &list(&["b.com", "c d"])).unwrap_err();
    assert_eq!(error.to_string(), "deny[1]: \"c d\" is not a hostname, IP, CIDR or *.suffix");
    let error = Policy::new(DefaultAction::Allow, &[], &list(&["tcp://a.com:22"])).unwrap_err();
    assert!(error.to_string().contains("only in `allow`"), "{error}");
    let many = vec!["a.com".to_owned(); MAX_RULES_PER_LIST + 1];
    assert!(Policy::new(DefaultAction::Allow, &many, &[]).is_err());
}

#[test]
fn names_are_resolved_if_a_rule_could_allow_them() {
    let closed =
        Policy::new(DefaultAction::Deny, &list(&["*.a.com"]), &list(&["x.a.com"])).unwrap();
    assert!(closed.resolves("y.a.com"));
    for name in ["x.a.com", "a.com", "b.com"] {
        assert!(!closed.resolves(name), "{name}");
    }
    assert!(!Policy::default().resolves("a.com"));
    // allow, and whether a.com, x.a.com and b.com are resolved
    for (allow, expected) in [
        (&["93.184.216.34"][..], [false, false, false]),
        (&["93.184.0.0/16", "0.0.0.0/1"], [false, false, false]),
        (&["0.0.0.0/0"], [true, true, true]),
        (&["a.com", "93.184.216.34"], [true, false, false]),
        (&["*.a.com"], [false, true, false]),
        (&["tcp://a.com:22"], [true, false, false]),
        (&["tcp://*.a.com:22"], [false, true, false]),
    ] {
        let policy = Policy::new(DefaultAction::Deny, &list(allow), &[]).unwrap();
        let resolved = ["a.com", "x.a.com", "b.com"].map(|name| policy.resolves(name));
        assert_eq!(resolved, expected, "{allow:?}");
    }
}
