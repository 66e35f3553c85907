//! What fuzz targets call: the parsers of what sandboxes and resolvers send. Each
//! takes any bytes, and panics if something does not hold that has to hold for all.

use std::time::Duration;

use bytes::BytesMut;
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{RData, rdata};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::conceal::Needles;
use super::credentials::{Credential, PLACEHOLDER, Secret};
use super::dns::{self, question::Question};
use super::intercept;
use super::policy::{self, Ask, Policy, Rest};
use super::resolver::Answer;
use super::sniff::{First, MAX_FIELDS, MAX_HEAD, Sniffer};

/// Looks at bytes that come in pieces of one size.
fn look(bytes: &[u8], piece: usize) -> First {
    let mut sniffer = Sniffer::default();
    for piece in bytes.chunks(piece.max(1)) {
        sniffer.buffer().extend_from_slice(piece);
        let first = sniffer.look();
        if first != First::More {
            return first;
        }
    }
    First::More
}

/// First bytes of a connection: the same answer in any pieces, and no name that
/// another parser reads otherwise.
pub fn sniff(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let first = look(bytes, bytes.len());
    assert_eq!(look(bytes, usize::from(*piece)), first, "in pieces of {piece}");
    assert_eq!(look(bytes, 1), first, "byte by byte");
    match first {
        First::Tls(name) => {
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
        First::Http(host) => {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut request = httparse::Request::new(&mut fields);
            assert!(request.parse(bytes).is_ok_and(|parsed| parsed.is_complete()));
            let mut hosts =
                request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
            let said = hosts.next().map(|field| {
                let text = std::str::from_utf8(field.value).unwrap_or_default();
                super::sniff::host(text)
            });
            assert!(hosts.next().is_none(), "two hosts");
            assert!(said.is_none_or(|said| said == Some(host)), "httparse reads another host");
        }
        First::More | First::Other | First::Malformed => {}
    }
}

/// Heads of requests: what counts as clean is a request for the server of the
/// proxy, too, and for the same host.
pub fn heads(input: &[u8]) {
    let First::Http(host) = look(input, input.len()) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let service = hyper::service::service_fn(move |request: http::Request<_>| {
        let host = intercept::host(&request);
        let _ = sender.try_send((host, request.method().clone(), request.uri().clone()));
        std::future::ready(Err::<http::Response<String>, _>(std::io::Error::other("seen")))
    });
    let serving = async {
        let (mut near, far) = tokio::io::duplex(MAX_HEAD * 2);
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_headers(MAX_FIELDS).max_header_size(MAX_HEAD);
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
        unreachable!("the server of the proxy does not read what is clean: {served:?}")
    };
    assert_eq!(theirs, Some(host), "it reads another host: {method} {uri}");
    assert_ne!(method, Method::CONNECT);
    let scheme = uri.scheme_str().unwrap_or("http");
    assert_eq!(scheme, "http");
}

/// Questions of sandboxes, answers to them, and answers of resolvers.
pub fn dns(input: &[u8]) {
    if let Ok(message) = Message::from_vec(input) {
        let answer = Answer::of(&message.answers);
        assert!(answer.addresses.len() + answer.aliases.len() <= message.answers.len());
    }
    let Ok(question) = Question::read(input) else { return };
    if let Ok(message) = Message::from_vec(input) {
        let labels: Vec<_> = message.queries.iter().map(|query| query.name.iter()).collect();
        let [labels] = <[_; 1]>::try_from(labels).unwrap_or_else(|_| unreachable!("one query"));
        assert!(labels.eq(question.labels.iter().map(Vec::as_slice)), "another name");
        assert_eq!(u16::from(message.queries[0].query_type), question.kind);
    }
    if let Some(host) = question.host() {
        assert_eq!(policy::name(&host).as_ref(), Ok(&host));
    }
    let count = input.len() % 400;
    let records: Vec<_> =
        (0..count).map(|_| (RData::A(rdata::A([1, 2, 3, 4].into())), 60)).collect();
    for stream in [false, true] {
        let written = dns::write(&question, Ok(Clone::clone(&records)), stream);
        let written = written.unwrap_or_else(|| unreachable!("an answer cannot be written"));
        assert!(stream || written.len() <= 4096);
        let read = Message::from_vec(&written);
        let read = read.unwrap_or_else(|error| unreachable!("an answer is broken: {error}"));
        assert_eq!((read.metadata.id, read.queries.len()), (question.id, 1));
        assert!(read.answers.len() == count || read.metadata.truncation);
    }
}

/// Rules: what was read can be shown and read again, and decides without a panic.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.lines();
    let rest = match lines.next() {
        Some("web") => Rest::Web,
        Some("open") => Rest::Open,
        _ => Rest::Closed,
    };
    let lines: Vec<_> = lines.map(str::to_owned).collect();
    let (deny, allow): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with('-'));
    let good = |list: &[&String], from| -> Vec<String> {
        let one = |text: &&String| {
            let text = vec![text.get(from..).unwrap_or_default().to_owned()];
            let read = if from == 0 {
                Policy::new(rest, &text, &[])
            } else {
                Policy::new(rest, &[], &text)
            };
            read.is_ok().then_some(text)
        };
        list.iter().filter_map(one).flatten().collect()
    };
    let (allow, deny) = (good(&allow, 0), good(&deny, 1));
    let Ok(policy) = Policy::new(rest, &allow, &deny) else { return };
    let (shown_allow, shown_deny) = policy.lists();
    assert_eq!(Policy::new(rest, &shown_allow, &shown_deny).as_ref(), Ok(&policy));
    let kept = serde_json::to_string(&policy).unwrap_or_default();
    assert_eq!(serde_json::from_str::<Policy>(&kept).ok().as_ref(), Some(&policy));
    let names: Vec<_> = lines.iter().filter_map(|line| policy::name(line).ok()).collect();
    let permitted = ["10.0.0.0/8".parse().unwrap_or_default()];
    for address in [[10, 1, 2, 3], [9, 9, 9, 9], [127, 0, 0, 1]] {
        for (said, known) in names.iter().map(Some).chain([None]).zip([&names[..], &[]]) {
            for (port, proved) in [(80, true), (22, false), (25, true)] {
                let said = said.map(String::as_str);
                let address = address.into();
                let ask = Ask { address, port, said, proved, known, readable: true };
                let read = policy.decide(ask, &permitted);
                let unread = Ask { said: None, proved: false, readable: false, ..ask };
                let verdict = policy.decide(unread, &permitted);
                assert!(policy.needs_first_bytes(unread) || verdict == read, "{ask:?}");
                assert!(said.is_none_or(|said| !(policy.denies(said) && policy.resolves(said))));
            }
        }
    }
}

/// Secrets in a body: none comes through in any pieces, and no length changes.
pub fn redact(input: &[u8]) {
    let Some((&[count, piece], rest)) = input.split_first_chunk::<2>() else { return };
    // Of few letters, so that they begin alike, and of none that stands for one.
    let letters: Vec<u8> = rest.iter().map(|byte| b'A' + byte % 3).collect();
    let mut rest = letters.as_slice();
    let mut secrets = Vec::new();
    for _ in 0..count % 4 {
        let length = 8 + usize::from(rest.first().copied().unwrap_or_default() % 8);
        let Some((secret, tail)) = rest.split_at_checked(length) else { break };
        secrets.push(String::from_utf8_lossy(secret).into_owned());
        rest = tail;
    }
    let needles = Needles::new(secrets.iter().map(String::as_str));
    let redact = |piece: usize| {
        let (mut held, mut told) = (BytesMut::new(), Vec::new());
        for part in rest.chunks(piece.max(1)) {
            held.extend_from_slice(part);
            let count = needles.replace(&mut held, false);
            told.extend_from_slice(&held.split_to(count));
            assert!(held.len() < 16, "more is held than a secret has");
        }
        let count = needles.replace(&mut held, true);
        told.extend_from_slice(&held.split_to(count));
        assert!(held.is_empty());
        told
    };
    let whole = redact(rest.len());
    assert_eq!(whole.len(), rest.len());
    assert_eq!(redact(usize::from(piece)), whole);
    assert_eq!(redact(1), whole);
    for secret in &secrets {
        assert!(!whole.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
}

/// Credentials: for no other host, method or path, and taken back out of heads.
pub fn credentials(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(5, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (host, method, path, rule, value) = (line(), line(), line(), line(), line());
    let secret = "AAAA-the-real-one";
    let Some(mut credential) = Credential::known("OPENAI_API_KEY", Secret::from(secret.to_owned()))
    else {
        return;
    };
    let Ok(host) = policy::name(host) else { return };
    assert_eq!(policy::name(&host).as_ref(), Ok(&host));
    credential.host = host;
    credential.paths = vec![rule.to_owned()];
    credential.methods = vec!["GET".to_owned()];
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    if credential.serves(&method, path) {
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
    credential.hide(&mut headers);
    assert!(!has(&headers), "{headers:?}");
}
