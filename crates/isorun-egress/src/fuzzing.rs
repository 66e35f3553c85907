//! Entry points of the fuzz targets for the parsers of data from sandboxes and resolvers.
//! Each takes arbitrary bytes and panics if an invariant is violated.

use std::time::Duration;

use bytes::BytesMut;
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{RData, rdata};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::credentials::{Credential, PLACEHOLDER, SecretValue};
use super::dns::{self, question::Question};
use super::intercept;
use super::policy::{self, Connection, DefaultAction, Policy};
use super::redact::SecretPatterns;
use super::resolver::ResolvedName;
use super::sniff::{MAX_HEAD_BYTES, MAX_REQUEST_FIELDS, Sniffed, Sniffer};

/// Parses bytes that arrive in pieces of one size.
fn parse(bytes: &[u8], piece: usize) -> Sniffed {
    let mut sniffer = Sniffer::default();
    for piece in bytes.chunks(piece.max(1)) {
        sniffer.buffer().extend_from_slice(piece);
        let first = sniffer.parse();
        if first != Sniffed::Incomplete {
            return first;
        }
    }
    Sniffed::Incomplete
}

/// Checks the parsers of first bytes: the result is the same in any pieces, and another
/// parser reads the same name.
pub fn sniff(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let first = parse(bytes, bytes.len());
    assert_eq!(parse(bytes, usize::from(*piece)), first, "in pieces of {piece}");
    assert_eq!(parse(bytes, 1), first, "byte by byte");
    match first {
        Sniffed::Tls(name) => {
            let mut acceptor = rustls::server::Acceptor::default();
            let mut rest = bytes;
            while acceptor.read_tls(&mut rest).is_ok_and(|count| count > 0) {
                match acceptor.accept() {
                    Ok(Some(accepted)) => {
                        let theirs = accepted.client_hello().server_name().map(policy::name);
                        assert_eq!(theirs, name.map(Ok), "rustls reads another name");
                        break;
                    }
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
        }
        Sniffed::Http(host) => {
            let mut fields = [httparse::EMPTY_HEADER; MAX_REQUEST_FIELDS];
            let mut request = httparse::Request::new(&mut fields);
            assert!(request.parse(bytes).is_ok_and(|parsed| parsed.is_complete()));
            let mut hosts =
                request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
            let host_field = hosts.next().map(|field| {
                let text = std::str::from_utf8(field.value).unwrap_or_default();
                super::sniff::parse_host(text)
            });
            assert!(hosts.next().is_none(), "two hosts");
            assert!(
                host_field.is_none_or(|field| field == Some(host)),
                "httparse reads another host"
            );
        }
        Sniffed::Incomplete | Sniffed::Other | Sniffed::Malformed => {}
    }
}

/// Checks heads of requests: the HTTP server of the proxy accepts each clean head, and reads
/// the same host.
pub fn heads(input: &[u8]) {
    let Sniffed::Http(host) = parse(input, input.len()) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let service = hyper::service::service_fn(move |request: http::Request<_>| {
        let host = intercept::target_host(&request);
        let _ = sender.try_send((host, request.method().clone(), request.uri().clone()));
        std::future::ready(Err::<http::Response<String>, _>(std::io::Error::other("seen")))
    });
    let serving = async {
        let (mut near, far) = tokio::io::duplex(MAX_HEAD_BYTES * 2);
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_headers(MAX_REQUEST_FIELDS).max_header_size(MAX_HEAD_BYTES);
        let writing = async {
            let _ = near.write_all(input).await;
            let _ = near.shutdown().await;
        };
        let (served, ()) =
            tokio::join!(builder.serve_connection(TokioIo::new(far), service), writing);
        served
    };
    let served =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), serving).await });
    let Ok((theirs, method, uri)) = receiver.try_recv() else {
        unreachable!("the server of the proxy rejects a clean head: {served:?}")
    };
    assert_eq!(theirs, Some(host), "the server reads another host: {method} {uri}");
    assert_ne!(method, Method::CONNECT);
    let scheme = uri.scheme_str().unwrap_or("http");
    assert_eq!(scheme, "http");
}

/// Checks queries of sandboxes, the responses to them, and responses of resolvers.
pub fn dns(input: &[u8]) {
    if let Ok(message) = Message::from_vec(input) {
        let resolved = ResolvedName::from_records(&message.answers);
        assert!(resolved.addresses.len() + resolved.aliases.len() <= message.answers.len());
    }
    let Ok(question) = Question::read(input) else { return };
    if let Ok(message) = Message::from_vec(input) {
        let labels: Vec<_> = message.queries.iter().map(|query| query.name.iter()).collect();
        let [labels] = <[_; 1]>::try_from(labels).unwrap_or_else(|_| unreachable!("one query"));
        assert!(labels.eq(question.labels.iter().map(Vec::as_slice)), "another name");
        assert_eq!(u16::from(message.queries[0].query_type), question.kind);
    }
    if let Some(host) = question.hostname() {
        assert_eq!(policy::name(&host).as_ref(), Ok(&host));
    }
    let count = input.len() % 400;
    let records: Vec<_> =
        (0..count).map(|_| (RData::A(rdata::A([1, 2, 3, 4].into())), 60)).collect();
    for is_stream in [false, true] {
        let encoded = dns::encode(&question, Ok(Clone::clone(&records)), is_stream);
        let encoded = encoded.unwrap_or_else(|| unreachable!("a response cannot be encoded"));
        assert!(is_stream || encoded.len() <= 4096);
        let decoded = Message::from_vec(&encoded);
        let decoded = decoded.unwrap_or_else(|error| unreachable!("invalid response: {error}"));
        assert_eq!((decoded.metadata.id, decoded.queries.len()), (question.id, 1));
        assert!(decoded.answers.len() == count || decoded.metadata.truncation);
    }
}

/// Checks rules: their text and their stored form parse to the same policy, and decisions
/// do not panic.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.lines();
    let default_action = match lines.next() {
        Some("web") => DefaultAction::AllowWeb,
        Some("open") => DefaultAction::Allow,
        _ => DefaultAction::Deny,
    };
    let lines: Vec<_> = lines.map(str::to_owned).collect();
    let (deny, allow): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with('-'));
    let valid = |list: &[&String], from| -> Vec<String> {
        let one = |text: &&String| {
            let text = vec![text.get(from..).unwrap_or_default().to_owned()];
            let policy = if from == 0 {
                Policy::new(default_action, &text, &[])
            } else {
                Policy::new(default_action, &[], &text)
            };
            policy.is_ok().then_some(text)
        };
        list.iter().filter_map(one).flatten().collect()
    };
    let (allow, deny) = (valid(&allow, 0), valid(&deny, 1));
    let Ok(policy) = Policy::new(default_action, &allow, &deny) else { return };
    let (shown_allow, shown_deny) = policy.lists();
    assert_eq!(Policy::new(default_action, &shown_allow, &shown_deny).as_ref(), Ok(&policy));
    let stored = serde_json::to_string(&policy).unwrap_or_default();
    assert_eq!(serde_json::from_str::<Policy>(&stored).ok().as_ref(), Some(&policy));
    let names: Vec<_> = lines.iter().filter_map(|line| policy::name(line).ok()).collect();
    let permitted = ["10.0.0.0/8".parse().unwrap_or_default()];
    for address in [[10, 1, 2, 3], [9, 9, 9, 9], [127, 0, 0, 1]] {
        for (claimed, known) in names.iter().map(Some).chain([None]).zip([&names[..], &[]]) {
            for (port, verified) in [(80, true), (22, false), (25, true)] {
                let claimed = claimed.map(String::as_str);
                let address = address.into();
                let read =
                    Connection { address, port, claimed, verified, known, is_tls_or_http: true };
                let unread =
                    Connection { claimed: None, verified: false, is_tls_or_http: false, ..read };
                let final_verdict = policy.decide(read, &permitted);
                let verdict = policy.decide(unread, &permitted);
                assert!(policy.needs_first_bytes(unread) || verdict == final_verdict, "{read:?}");
                assert!(claimed.is_none_or(|name| !(policy.denies(name) && policy.resolves(name))));
            }
        }
    }
}

/// Checks the redaction of bodies: no secret remains, in any pieces, and the length stays the
/// same.
pub fn redact(input: &[u8]) {
    let Some((&[count, piece], rest)) = input.split_first_chunk::<2>() else { return };
    // Few letters, so that secrets have common prefixes, and none of the placeholder.
    let letters: Vec<u8> = rest.iter().map(|byte| b'A' + byte % 3).collect();
    let mut rest = letters.as_slice();
    let mut secrets = Vec::new();
    for _ in 0..count % 4 {
        let length = 8 + usize::from(rest.first().copied().unwrap_or_default() % 8);
        let Some((secret, tail)) = rest.split_at_checked(length) else { break };
        secrets.push(String::from_utf8_lossy(secret).into_owned());
        rest = tail;
    }
    let patterns = SecretPatterns::new(secrets.iter().map(String::as_str));
    let redact = |piece: usize| {
        let (mut pending, mut output) = (BytesMut::new(), Vec::new());
        for part in rest.chunks(piece.max(1)) {
            pending.extend_from_slice(part);
            let count = patterns.redact(&mut pending, false);
            output.extend_from_slice(&pending.split_to(count));
            assert!(pending.len() < 16, "more bytes are held back than a secret has");
        }
        let count = patterns.redact(&mut pending, true);
        output.extend_from_slice(&pending.split_to(count));
        assert!(pending.is_empty());
        output
    };
    let redacted = redact(rest.len());
    assert_eq!(redacted.len(), rest.len());
    assert_eq!(redact(usize::from(piece)), redacted);
    assert_eq!(redact(1), redacted);
    for secret in &secrets {
        assert!(!redacted.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
}

/// Checks credentials: they are used for permitted methods and paths only, and redacted from
/// response headers.
pub fn credentials(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(5, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (host, method, path, rule, value) = (line(), line(), line(), line(), line());
    let secret = "AAAA-the-real-one";
    let Some(mut credential) =
        Credential::known("OPENAI_API_KEY", SecretValue::from(secret.to_owned()))
    else {
        return;
    };
    let Ok(host) = policy::name(host) else { return };
    assert_eq!(policy::name(&host).as_ref(), Ok(&host));
    credential.host = host;
    credential.paths = vec![rule.to_owned()];
    credential.methods = vec!["GET".to_owned()];
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    if credential.permits(&method, path) {
        assert!(method.as_str().eq_ignore_ascii_case("GET"));
        assert!(path.starts_with(rule.trim_end_matches('*')));
        assert!(!path.contains("..") && !path.contains('%'));
    }
    let (name, rest) = intercept::split_target(path);
    assert!(!name.contains(['/', '?']) && rest.starts_with('/'));
    let mut headers = HeaderMap::new();
    let name = HeaderName::from_static("authorization");
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(&name, value);
    }
    let own = headers
        .get(&name)
        .is_some_and(|value| !value.to_str().unwrap_or_default().contains(PLACEHOLDER));
    credential.apply(&mut headers);
    let has = |headers: &HeaderMap| {
        let has = |value: &HeaderValue| {
            value.as_bytes().windows(secret.len()).any(|part| part == secret.as_bytes())
        };
        headers.values().any(has)
    };
    assert!(has(&headers) || own);
    credential.redact(&mut headers);
    assert!(!has(&headers), "{headers:?}");
}
