//! What a client is told of an answer from inside: nothing that acts beyond the
//! URLs of its port, in a browser or in a proxy in front of this server.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
};
use isorun_engine::network::hop;

use super::{Place, access::TOKEN, inward::Names, place::Form};

/// What acts on a whole origin, its subdomains or the machine's other ports, for
/// longer than the page; or is an order to a proxy in front of this server.
const REMOVED: [&str; 19] = [
    "alt-svc",
    "clear-site-data",
    "expect-ct",
    "nel",
    "proxy-authenticate",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "reporting-endpoints",
    "sec-session-registration",
    "service-worker-allowed",
    "set-cookie2",
    "set-login",
    "strict-transport-security",
    "trailer",
    "x-lighttpd-send-file",
    "x-reproxy-url",
    "x-sendfile",
    "x-varnish-purge",
];
/// The same, by how they begin.
const REMOVED_PREFIXES: [&str; 2] = ["x-accel-", "x-isorun-"];
/// What acts on an origin that all runs share, and harms none that is a run's own.
const REMOVED_WHERE_SHARED: [&str; 5] =
    ["accept-ch", "critical-ch", "origin-agent-cluster", "use-as-dictionary", "www-authenticate"];
/// Pages on an origin that all runs share get one of their own, which has no
/// cookies, no storage, no service workers, and reads nothing of the others.
const SANDBOX: HeaderValue = HeaderValue::from_static(
    "sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads \
     allow-pointer-lock allow-orientation-lock allow-presentation",
);
/// Other policies would tell the id, which stands in the URL, to other servers.
const STRICT_POLICIES: [&str; 2] = ["no-referrer", "same-origin"];
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");

/// How answers of a place are shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Whether its origin is that of other runs, too, and its pages are to be
    /// kept apart.
    pub apart: bool,
    /// Whether the request comes from a page that is kept apart.
    page_apart: bool,
    pub names: Names,
}

impl Shown {
    /// `shared`: the operator wants pages to share the server's origin.
    pub fn of(place: &Place, names: &Names, headers: &HeaderMap, shared: bool) -> Self {
        let apart = place.form != Form::Name && !shared;
        Self { apart, page_apart: apart && from_page_apart(headers), names: names.clone() }
    }
}

/// Whether the request comes from a page that is kept apart: its origin is none.
/// Which page that is, a browser does not tell. One of another run would have to
/// know this run's id, and who does can read all of it without a browser.
fn from_page_apart(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin == "null")
}

/// The answer to a browser that asks whether a page that is kept apart may send a
/// request. It sees the request's answer only if that comes from its own port.
pub fn preflight<B>(apart: bool, request: &Request<B>) -> Option<Response<axum::body::Body>> {
    let headers = request.headers();
    let method = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let asked = request.method() == Method::OPTIONS
        && headers.get(header::ORIGIN).is_some_and(|origin| origin == "null");
    if !apart || !asked {
        return None;
    }
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("null"));
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    answer.insert(header::VARY, HeaderValue::from_static("Origin"));
    Some(response)
}

/// Takes out of a head what acts beyond the port's URLs, and puts what is
/// relative to the port in its place.
pub fn rewrite(place: &Place, shown: &Shown, headers: &mut HeaderMap) {
    hop::strip(headers);
    let shared = place.form != Form::Name;
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            REMOVED.contains(&name)
                || REMOVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || shared && REMOVED_WHERE_SHARED.contains(&name)
        })
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        if let Some(value) = headers.get(&name).and_then(|value| location(place, shown, value)) {
            headers.insert(name, value);
        }
    }
    let cookies: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|value| cookie(place, value.as_bytes()))
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in cookies {
        headers.append(header::SET_COOKIE, value);
    }
    let policies = headers.get_all(header::REFERRER_POLICY).iter();
    let mut words =
        policies.flat_map(|value| value.to_str().unwrap_or("unsafe-url").split(',').map(str::trim));
    let strict = headers.contains_key(header::REFERRER_POLICY)
        && words.all(|word| STRICT_POLICIES.iter().any(|known| word.eq_ignore_ascii_case(known)));
    if !strict {
        headers.insert(header::REFERRER_POLICY, SAME_ORIGIN);
    }
    if shown.apart {
        headers.append(header::CONTENT_SECURITY_POLICY, SANDBOX);
    }
    if shown.page_apart && !headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("null"));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// Where the client finds what the sandbox names by a path, or by the name that
/// it was told.
fn location(place: &Place, shown: &Shown, value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let path = if text.starts_with('/') && !text.starts_with("//") {
        text
    } else {
        let rest = match text.split_once("//")? {
            ("" | "http:" | "https:", rest) => rest,
            _ => return None,
        };
        let rest = rest.strip_prefix(shown.names.inside.as_str())?;
        match rest.chars().next() {
            None => "/",
            Some('/') => rest,
            Some(_) => return None,
        }
    };
    HeaderValue::try_from(format!("{}{path}", place.prefix)).ok()
}

/// A cookie that is sent back to this port only. Nothing if it cannot be one.
fn cookie(place: &Place, text: &[u8]) -> Option<HeaderValue> {
    let mut parts = text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let pair = parts.next()?;
    let name = pair.iter().position(|byte| *byte == b'=').map(|at| pair[..at].trim_ascii())?;
    // One without a name can pass for any other.
    if name.is_empty() || name.eq_ignore_ascii_case(TOKEN.as_bytes()) {
        return None;
    }
    let begins = |prefix: &[u8]| {
        name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    // Those are for a whole host by definition.
    let whole_host = begins(b"__host-");
    if whole_host && place.form != Form::Name {
        return None;
    }
    let mut kept = pair.to_vec();
    let mut path: &[u8] = b"/";
    for part in parts {
        let at = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
        let (key, value) = part.split_at(at);
        let key = key.trim_ascii();
        if key.eq_ignore_ascii_case(b"domain") {
            continue;
        }
        if key.eq_ignore_ascii_case(b"path") {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            path = if value.starts_with(b"/") { value } else { b"/" };
            continue;
        }
        kept.extend_from_slice(b"; ");
        kept.extend_from_slice(part);
    }
    kept.extend_from_slice(b"; Path=");
    if !whole_host {
        kept.extend_from_slice(place.prefix.as_bytes());
    }
    kept.extend_from_slice(if whole_host { b"/" } else { path });
    HeaderValue::from_bytes(&kept).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "run0123456789abcdef";

    fn place(form: Form) -> Place {
        match form {
            Form::Key => Place::of_key(&format!("/v1/runs/{RUN}/proxy/80/x")),
            Form::Path => Place::of_name(None, None, &format!("/sb/{RUN}/p/80/x")),
            Form::Name => Place::of_name(Some(&format!("{RUN}.localhost")), None, "/sb/p/80/x"),
        }
        .unwrap()
    }

    /// What the client is told of a header, as one text.
    fn told(form: Form, name: &str, value: &str) -> Option<String> {
        let place = place(form);
        let names = Names { outside: "h:1".to_owned(), inside: "inside:1".to_owned() };
        let shown = Shown::of(&place, &names, &HeaderMap::new(), false);
        let mut headers = HeaderMap::new();
        headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        rewrite(&place, &shown, &mut headers);
        let all: Vec<_> =
            headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        (!all.is_empty()).then(|| all.join(" | "))
    }

    #[test]
    fn what_acts_beyond_the_port_is_removed() {
        for form in [Form::Key, Form::Path, Form::Name] {
            for (name, value) in [
                ("Service-Worker-Allowed", "/"),
                ("CLEAR-SITE-DATA", "\"*\""),
                ("strict-transport-security", "max-age=1; includeSubDomains"),
                ("public-key-pins", "x"),
                ("alt-svc", "h2=\":1\""),
                ("nel", "{}"),
                ("report-to", "{}"),
                ("reporting-endpoints", "a=\"https://evil.test\""),
                ("x-accel-redirect", "/internal"),
                ("X-Accel-Buffering", "no"),
                ("x-sendfile", "/etc/passwd"),
                ("connection", "x"),
                ("keep-alive", "1"),
                ("x-isorun-anything", "1"),
            ] {
                assert_eq!(told(form, name, value), None, "{form:?} {name}");
            }
            for (name, value) in [
                ("content-type", "text/html"),
                ("x-frame-options", "DENY"),
                ("cache-control", "max-age=60"),
                ("access-control-allow-origin", "*"),
                ("link", "</a.css>; rel=preload"),
            ] {
                assert_eq!(told(form, name, value).as_deref(), Some(value), "{form:?} {name}");
            }
        }
        for name in REMOVED_WHERE_SHARED {
            assert_eq!(told(Form::Path, name, "x"), None);
            assert_eq!(told(Form::Name, name, "x").as_deref(), Some("x"));
        }
    }

    #[test]
    fn cookies_stay_on_their_port() {
        let path = format!("/sb/{RUN}/p/80");
        for (given, in_path, in_name) in [
            ("a=1", format!("a=1; Path={path}/"), "a=1; Path=/sb/p/80/"),
            ("a=1; Path=/", format!("a=1; Path={path}/"), "a=1; Path=/sb/p/80/"),
            (
                "a=1;path=/x;HttpOnly",
                format!("a=1; HttpOnly; Path={path}/x"),
                "a=1; HttpOnly; Path=/sb/p/80/x",
            ),
            ("a=1; Domain=sb.test", format!("a=1; Path={path}/"), "a=1; Path=/sb/p/80/"),
            (
                "a=1; DOMAIN = .sb.test ; Secure",
                format!("a=1; Secure; Path={path}/"),
                "a=1; Secure; Path=/sb/p/80/",
            ),
            (
                "a=1; Path=/a; Domain=x; Path=/; Domain=y",
                format!("a=1; Path={path}/"),
                "a=1; Path=/sb/p/80/",
            ),
            ("a=1; Path=relative", format!("a=1; Path={path}/"), "a=1; Path=/sb/p/80/"),
            ("a=1; Path", format!("a=1; Path={path}/"), "a=1; Path=/sb/p/80/"),
            (
                "a==b; SameSite=None",
                format!("a==b; SameSite=None; Path={path}/"),
                "a==b; SameSite=None; Path=/sb/p/80/",
            ),
        ] {
            assert_eq!(told(Form::Path, "set-cookie", given), Some(in_path), "{given}");
            assert_eq!(told(Form::Name, "set-cookie", given).as_deref(), Some(in_name), "{given}");
        }
        let host = "__Host-a=1; Secure; Path=/";
        assert_eq!(told(Form::Path, "set-cookie", host), None);
        assert_eq!(
            told(Form::Name, "set-cookie", host).as_deref(),
            Some("__Host-a=1; Secure; Path=/")
        );
        for bad in ["", "a", "=a", "=isorun_token=1", "isorun_token=1", " Isorun_Token =1"] {
            assert_eq!(told(Form::Path, "set-cookie", bad), None, "{bad}");
            assert_eq!(told(Form::Name, "set-cookie", bad), None, "{bad}");
        }
    }

    #[test]
    fn pages_are_kept_apart_where_they_share_an_origin() {
        let policy = "default-src 'self'";
        let path = told(Form::Path, "content-security-policy", policy).unwrap();
        assert!(path.starts_with(policy) && path.contains("sandbox allow-scripts"), "{path}");
        assert!(!path.contains("allow-same-origin"));
        assert_eq!(told(Form::Name, "content-security-policy", policy).as_deref(), Some(policy));
        for (given, policy) in [
            ("unsafe-url", "same-origin"),
            ("origin", "same-origin"),
            ("no-referrer, unsafe-url", "same-origin"),
            ("no-referrer", "no-referrer"),
            ("same-origin", "same-origin"),
            ("nonsense", "same-origin"),
        ] {
            for form in [Form::Path, Form::Name] {
                assert_eq!(
                    told(form, "referrer-policy", given).as_deref(),
                    Some(policy),
                    "{given}"
                );
            }
        }
    }

    #[test]
    fn only_pages_that_are_kept_apart_read_answers() {
        for (form, shared, origin, expected) in [
            (Form::Path, false, "null", true),
            (Form::Path, false, "http://h:1", false),
            (Form::Path, false, "http://evil.test", false),
            (Form::Path, false, "NULL", false),
            // Pages there have an origin of their own, and need no leave.
            (Form::Path, true, "null", false),
            (Form::Name, false, "null", false),
        ] {
            let names = Names { outside: "h:1".to_owned(), inside: "h:1".to_owned() };
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            let place = place(form);
            let shown = Shown::of(&place, &names, &headers, shared);
            let mut answer = HeaderMap::new();
            rewrite(&place, &shown, &mut answer);
            let allowed = answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(allowed, expected, "{form:?} {shared} {origin}");
            assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        }
    }

    #[test]
    fn redirects_stay_on_the_port() {
        let own = format!("/sb/{RUN}/p/80");
        for (given, expected) in [
            ("/there?x=1", format!("{own}/there?x=1")),
            ("http://inside:1/there", format!("{own}/there")),
            ("//inside:1/there", format!("{own}/there")),
            ("https://inside:1", format!("{own}/")),
            ("http://inside:12/there", "http://inside:12/there".to_owned()),
            ("https://elsewhere.test/", "https://elsewhere.test/".to_owned()),
            ("//elsewhere.test/", "//elsewhere.test/".to_owned()),
            ("relative", "relative".to_owned()),
        ] {
            assert_eq!(told(Form::Path, "location", given), Some(expected), "{given}");
        }
    }
}
