//! Rewrites the head of a response from a sandbox: removes everything that has an effect
//! beyond the URLs of its port, in a browser or in a proxy in front of this server.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
};
use isorun_egress::hop_by_hop;

use super::{
    access::TOKEN_NAME,
    inward::HostNames,
    port_url::{PortUrl, UrlForm},
};

/// Headers that affect an entire origin, its subdomains or other ports of the host for
/// longer than the page; or that instruct a proxy in front of this server.
const REMOVED_HEADERS: [&str; 19] = [
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
/// The prefixes of further such headers.
const REMOVED_HEADER_PREFIXES: [&str; 2] = ["x-accel-", "x-isorun-"];
/// Headers that are removed only on an origin that all runs share: they affect the entire
/// origin.
const REMOVED_ON_SHARED_ORIGIN: [&str; 5] =
    ["accept-ch", "critical-ch", "origin-agent-cluster", "use-as-dictionary", "www-authenticate"];
/// The policy of pages on an origin that all runs share. It gives each page an opaque
/// origin without cookies, storage and service workers, and without access to other pages.
const SANDBOX_POLICY: HeaderValue = HeaderValue::from_static(
    "sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads \
     allow-pointer-lock allow-orientation-lock allow-presentation",
);
/// The accepted referrer policies. Others would disclose the URL, which contains the id of
/// the run, to other servers.
const STRICT_REFERRER_POLICIES: [&str; 2] = ["no-referrer", "same-origin"];
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");

/// The rules for rewriting the responses of a port URL.
#[derive(Clone, Debug)]
pub struct ResponsePolicy {
    /// The origin is shared with other runs, so pages are isolated by the browser.
    pub is_isolated: bool,
    /// The request comes from an isolated page.
    from_isolated_page: bool,
    pub names: HostNames,
}

impl ResponsePolicy {
    /// Returns the rules for a request. `shared`: the operator lets pages share the server's
    /// origin.
    pub fn of(url: &PortUrl, names: &HostNames, headers: &HeaderMap, shared: bool) -> Self {
        let is_isolated = url.form != UrlForm::Name && !shared;
        Self {
            is_isolated,
            from_isolated_page: is_isolated && is_from_isolated_page(headers),
            names: names.clone(),
        }
    }
}

/// Reports whether a request comes from an isolated page: its origin is `null`. Browsers do
/// not send which page it is. A page of another run would have to know this run's id, which
/// gives access without a browser as well.
fn is_from_isolated_page(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin == "null")
}

/// Returns the response to a CORS preflight request of an isolated page, if it is one. The
/// page can read the response to the actual request only if it comes from its own port.
pub fn preflight<B>(is_isolated: bool, request: &Request<B>) -> Option<Response<axum::body::Body>> {
    let headers = request.headers();
    let method = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let is_preflight = request.method() == Method::OPTIONS
        && headers.get(header::ORIGIN).is_some_and(|origin| origin == "null");
    if !is_isolated || !is_preflight {
        return None;
    }
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let response_headers = response.headers_mut();
    response_headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("null"));
    response_headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        response_headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    response_headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    Some(response)
}

/// Removes the headers that have an effect beyond the port's URLs, and restricts the
/// others to the port.
pub fn rewrite(url: &PortUrl, policy: &ResponsePolicy, headers: &mut HeaderMap) {
    hop_by_hop::strip(headers);
    let shared = url.form != UrlForm::Name;
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            REMOVED_HEADERS.contains(&name)
                || REMOVED_HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || shared && REMOVED_ON_SHARED_ORIGIN.contains(&name)
        })
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        if let Some(value) = headers.get(&name).and_then(|value| location(url, policy, value)) {
            headers.insert(name, value);
        }
    }
    let cookies: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|value| cookie(url, value.as_bytes()))
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in cookies {
        headers.append(header::SET_COOKIE, value);
    }
    let policies = headers.get_all(header::REFERRER_POLICY).iter();
    let mut words =
        policies.flat_map(|value| value.to_str().unwrap_or("unsafe-url").split(',').map(str::trim));
    let strict = headers.contains_key(header::REFERRER_POLICY)
        && words.all(|word| {
            STRICT_REFERRER_POLICIES.iter().any(|known| word.eq_ignore_ascii_case(known))
        });
    if !strict {
        headers.insert(header::REFERRER_POLICY, SAME_ORIGIN);
    }
    if policy.is_isolated {
        headers.append(header::CONTENT_SECURITY_POLICY, SANDBOX_POLICY);
    }
    if policy.from_isolated_page && !headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("null"));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// Returns the external form of a location that the sandbox gives as a path or with the
/// internal host name.
fn location(url: &PortUrl, policy: &ResponsePolicy, value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let path = if text.starts_with('/') && !text.starts_with("//") {
        text
    } else {
        let rest = match text.split_once("//")? {
            ("" | "http:" | "https:", rest) => rest,
            _ => return None,
        };
        let rest = rest.strip_prefix(policy.names.internal.as_str())?;
        match rest.chars().next() {
            None => "/",
            Some('/') => rest,
            Some(_) => return None,
        }
    };
    HeaderValue::try_from(format!("{}{path}", url.prefix)).ok()
}

/// Restricts a cookie to this port. Returns `None` if that is not possible.
fn cookie(url: &PortUrl, text: &[u8]) -> Option<HeaderValue> {
    let mut parts = text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let pair = parts.next()?;
    let name = pair.iter().position(|byte| *byte == b'=').map(|at| pair[..at].trim_ascii())?;
    // A cookie without a name can pass for any other.
    if name.is_empty() || name.eq_ignore_ascii_case(TOKEN_NAME.as_bytes()) {
        return None;
    }
    let has_prefix = |prefix: &[u8]| {
        name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    // `__Host-` cookies are for the entire host by definition.
    let is_host_cookie = has_prefix(b"__host-");
    if is_host_cookie && url.form != UrlForm::Name {
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
    if !is_host_cookie {
        kept.extend_from_slice(url.prefix.as_bytes());
    }
    kept.extend_from_slice(if is_host_cookie { b"/" } else { path });
    HeaderValue::from_bytes(&kept).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "run0123456789abcdef";

    fn url(form: UrlForm) -> PortUrl {
        match form {
            UrlForm::Key => PortUrl::parse_keyed(&format!("/v1/runs/{RUN}/proxy/80/x")),
            UrlForm::Path => PortUrl::parse_anonymous(None, None, &format!("/sb/{RUN}/p/80/x")),
            UrlForm::Name => {
                PortUrl::parse_anonymous(Some(&format!("{RUN}.localhost")), None, "/sb/p/80/x")
            }
        }
        .unwrap()
    }

    /// Returns the rewritten values of a header, as one text.
    fn rewritten(form: UrlForm, name: &str, value: &str) -> Option<String> {
        let url = url(form);
        let names = HostNames { external: "h:1".to_owned(), internal: "inside:1".to_owned() };
        let policy = ResponsePolicy::of(&url, &names, &HeaderMap::new(), false);
        let mut headers = HeaderMap::new();
        headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        rewrite(&url, &policy, &mut headers);
        let all: Vec<_> =
            headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        (!all.is_empty()).then(|| all.join(" | "))
    }

    #[test]
    fn headers_that_affect_other_ports_are_removed() {
        for form in [UrlForm::Key, UrlForm::Path, UrlForm::Name] {
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
                assert_eq!(rewritten(form, name, value), None, "{form:?} {name}");
            }
            for (name, value) in [
                ("content-type", "text/html"),
                ("x-frame-options", "DENY"),
                ("cache-control", "max-age=60"),
                ("access-control-allow-origin", "*"),
                ("link", "</a.css>; rel=preload"),
            ] {
                assert_eq!(rewritten(form, name, value).as_deref(), Some(value), "{form:?} {name}");
            }
        }
        for name in REMOVED_ON_SHARED_ORIGIN {
            assert_eq!(rewritten(UrlForm::Path, name, "x"), None);
            assert_eq!(rewritten(UrlForm::Name, name, "x").as_deref(), Some("x"));
        }
    }

    #[test]
    fn cookies_are_scoped_to_their_port() {
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
            assert_eq!(rewritten(UrlForm::Path, "set-cookie", given), Some(in_path), "{given}");
            assert_eq!(
                rewritten(UrlForm::Name, "set-cookie", given).as_deref(),
                Some(in_name),
                "{given}"
            );
        }
        let host = "__Host-a=1; Secure; Path=/";
        assert_eq!(rewritten(UrlForm::Path, "set-cookie", host), None);
        assert_eq!(
            rewritten(UrlForm::Name, "set-cookie", host).as_deref(),
            Some("__Host-a=1; Secure; Path=/")
        );
        for bad in ["", "a", "=a", "=isorun_token=1", "isorun_token=1", " Isorun_Token =1"] {
            assert_eq!(rewritten(UrlForm::Path, "set-cookie", bad), None, "{bad}");
            assert_eq!(rewritten(UrlForm::Name, "set-cookie", bad), None, "{bad}");
        }
    }

    #[test]
    fn pages_on_a_shared_origin_are_sandboxed() {
        let policy = "default-src 'self'";
        let path = rewritten(UrlForm::Path, "content-security-policy", policy).unwrap();
        assert!(path.starts_with(policy) && path.contains("sandbox allow-scripts"), "{path}");
        assert!(!path.contains("allow-same-origin"));
        assert_eq!(
            rewritten(UrlForm::Name, "content-security-policy", policy).as_deref(),
            Some(policy)
        );
        for (given, policy) in [
            ("unsafe-url", "same-origin"),
            ("origin", "same-origin"),
            ("no-referrer, unsafe-url", "same-origin"),
            ("no-referrer", "no-referrer"),
            ("same-origin", "same-origin"),
            ("nonsense", "same-origin"),
        ] {
            for form in [UrlForm::Path, UrlForm::Name] {
                assert_eq!(
                    rewritten(form, "referrer-policy", given).as_deref(),
                    Some(policy),
                    "{given}"
                );
            }
        }
    }

    #[test]
    fn only_sandboxed_pages_are_allowed_by_cors() {
        for (form, shared, origin, expected) in [
            (UrlForm::Path, false, "null", true),
            (UrlForm::Path, false, "http://h:1", false),
            (UrlForm::Path, false, "http://evil.test", false),
            (UrlForm::Path, false, "NULL", false),
            // Pages of these forms have their own origin, and need no permission.
            (UrlForm::Path, true, "null", false),
            (UrlForm::Name, false, "null", false),
        ] {
            let names = HostNames { external: "h:1".to_owned(), internal: "h:1".to_owned() };
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            let url = url(form);
            let policy = ResponsePolicy::of(&url, &names, &headers, shared);
            let mut response_headers = HeaderMap::new();
            rewrite(&url, &policy, &mut response_headers);
            let allowed = response_headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(allowed, expected, "{form:?} {shared} {origin}");
            assert!(!response_headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        }
    }

    #[test]
    fn redirects_are_rewritten_to_the_port() {
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
            assert_eq!(rewritten(UrlForm::Path, "location", given), Some(expected), "{given}");
        }
    }
}
