//! Registries that answer wrongly, slowly, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use isorun_engine::image::{Credentials, Error, Image, Limits, Progress, PullOptions, Registries};
use serde_json::json;

use crate::bundle::{Bundle, Home, Layer, gzip, sha256};
use crate::registry::options;
use crate::server::{Answer, Seen, Server, challenge, cut, endless, full, redirect, status, stuck};

/// An image whose layer is large enough to come in several pieces.
fn sample() -> Bundle {
    let content: String = (0..40_000).map(|at| format!("{:x}", at * 7919)).collect();
    let tar = Layer::default().file("big", &content).tar();
    Bundle::new(&[(gzip(&tar), sha256(&tar))])
}

fn layer_path(bundle: &Bundle) -> String {
    format!("/v2/image/blobs/{}", sha256(&bundle.blobs[0]))
}

/// Short waits, so that tests of them are short.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.connect = Duration::from_secs(2);
    limits.idle = Duration::from_millis(400);
    limits.request = Duration::from_millis(1500);
    limits.tries = 3;
    limits.document = 256 << 10;
    limits
}

fn patient() -> PullOptions {
    let mut options = options();
    options.limits = limits();
    options
}

async fn pull(home: &Home, server: &Server, options: &PullOptions) -> Result<Image, Error> {
    let name = server.name().parse().unwrap();
    let progress = Progress::none();
    let pulling = home.store.pull(&name, options, &progress);
    tokio::time::timeout(Duration::from_secs(30), pulling).await.expect("a pull hangs")
}

type Respond = Box<dyn Fn(&Seen) -> Option<Answer> + Send + Sync>;

/// Answers every request whose path has `part` in it.
fn on(part: &'static str, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Respond {
    Box::new(move |seen| seen.path.contains(part).then(&answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_named_for_what_it_is() {
    let bundle = sample();
    let manifest = bundle.manifest.clone();
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        change(&mut value);
        value.to_string().into_bytes()
    };
    let huge = with(&|value| value["layers"][0]["size"] = json!(1_u64 << 60));
    let short = with(&|value| value["layers"][0]["size"] = json!(100));
    let path = with(&|value| value["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"));
    let md5 =
        with(&|value| value["layers"][0]["digest"] = json!(format!("md5:{}", "0".repeat(32))));
    let foreign = with(&|value| {
        value["layers"][0]["mediaType"] =
            json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    });
    let twice = with(&|value| {
        let layer = value["layers"][0].clone();
        value["layers"].as_array_mut().unwrap().push(layer);
    });
    let nested = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json", "size": 1,
        "digest": format!("sha256:{}", "0".repeat(64)) }] });
    let served = |bytes: Vec<u8>| on("/manifests/", move || full(&bytes));
    let cases: Vec<(&str, Respond, &str, &str)> = vec![
        ("a page", served(b"<html>hi</html>".to_vec()), "image_malformed", "no JSON"),
        ("nothing", served(Vec::new()), "image_malformed", "no JSON"),
        ("a deep document", served(b"[".repeat(100_000)), "image_malformed", "no JSON"),
        (
            "an old manifest",
            served(br#"{"schemaVersion":1}"#.to_vec()),
            "image_unsupported",
            "version 1",
        ),
        ("a layer of an exabyte", served(huge), "image_too_large", "limit"),
        ("a layer that is longer", served(short), "image_too_large", "layer 1 of 1"),
        ("a digest that is a path", served(path), "image_malformed", "encoded"),
        ("a digest of md5", served(md5), "image_unsupported", "md5"),
        ("a layer from elsewhere", served(foreign), "image_unsupported", "elsewhere"),
        ("more layers than diff ids", served(twice), "image_malformed", "2"),
        (
            "an index of another manifest",
            served(nested.to_string().into_bytes()),
            "image_digest",
            "0000",
        ),
        ("an endless manifest", on("/manifests/", endless), "image_too_large", "manifest"),
        ("an endless configuration", on("/blobs/", endless), "image_too_large", "configuration"),
        ("another configuration", on("/blobs/", || full(b"{}")), "image_digest", "configuration"),
        ("a failure", on("/v2/", || status(500, "secret of the host")), "registry_failure", "500"),
        ("a teapot", on("/v2/", || status(418, "")), "registry_failure", "418"),
        ("forbidden", on("/v2/", || status(403, "")), "image_auth", "credentials"),
        ("nothing there", on("/v2/", || status(404, "")), "image_not_found", "image:1"),
        ("circles", on("/v2/", || redirect("/v2/")), "registry_unreachable", "circles"),
        (
            "a redirect to nowhere",
            on("/v2/", || redirect("http://127.0.0.1:1/")),
            "registry_unreachable",
            "refused",
        ),
        (
            "a redirect to a file",
            on("/v2/", || redirect("file:///etc/passwd")),
            "registry_failure",
            "307",
        ),
        ("silence", on("/manifests/", || stuck(b"{")), "image_timeout", "manifest"),
        (
            "a cut manifest",
            on("/manifests/", || cut(b"{", 100)),
            "registry_unreachable",
            "manifest",
        ),
        (
            "a challenge again and again",
            on("/v2/", || challenge("Basic realm=\"x\"")),
            "image_auth",
            "user and a password",
        ),
        ("a challenge of no kind", on("/v2/", || challenge("Foo")), "image_auth", "does not say"),
        (
            "tokens from a stranger without https",
            on("/v2/", || challenge("Bearer realm=\"http://stranger.example/token\"")),
            "image_auth",
            "not safe",
        ),
    ];
    for (case, handler, code, part) in cases {
        let home = Home::new();
        let server = Server::start(bundle.clone(), handler).await;
        let error = pull(&home, &server, &patient()).await.unwrap_err();
        assert_eq!(error.code(), code, "{case}: {error}");
        assert!(error.to_string().contains(part), "{case}: {error}");
        assert!(!error.to_string().contains("secret"), "{case}: {error}");
        assert!(home.store.list().unwrap().is_empty(), "{case}");
        home.check(case);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_was_promised_are_refused() {
    let bundle = sample();
    let layer = bundle.blobs[0].clone();
    let path = layer_path(&bundle);
    let mut wrong = layer.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let longer = [layer.clone(), b"more".to_vec()].concat();
    let half = layer[..middle].to_vec();
    let at = |answer: Box<dyn Fn() -> Answer + Send + Sync>| -> Respond {
        let path = path.clone();
        Box::new(move |seen| (seen.path == path).then(&answer))
    };
    let length = layer.len();
    for (case, handler, code, tries) in [
        ("other content", at(Box::new(move || full(&wrong))), "image_digest", 1),
        ("longer", at(Box::new(move || full(&longer))), "image_too_large", 1),
        ("endless", at(Box::new(endless)), "image_too_large", 1),
        ("shorter", at(Box::new(move || full(&half))), "registry_unreachable", 3),
        ("cut", at(Box::new(move || cut(b"x", length))), "registry_unreachable", 3),
        ("stuck", at(Box::new(|| stuck(b"x"))), "image_timeout", 3),
        ("gone", at(Box::new(|| status(404, ""))), "registry_failure", 1),
    ] {
        let home = Home::new();
        let server = Server::start(bundle.clone(), handler).await;
        let error = pull(&home, &server, &patient()).await.unwrap_err();
        assert_eq!(error.code(), code, "{case}: {error}");
        assert_eq!(server.count(&path), tries, "{case}");
        let left = std::fs::read_dir(home.path("store/blobs/sha256")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{case}");
        home.store.gc().await.unwrap();
        for folder in ["partial", "tmp", "work", "roots"] {
            let left = std::fs::read_dir(home.path("store").join(folder)).unwrap().count();
            assert_eq!(left, 0, "{case}: {folder}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again_and_resumed() {
    let bundle = sample();
    let layer = bundle.blobs[0].clone();
    let path = layer_path(&bundle);
    // Every kind of trouble once, and then all is well.
    let server = Server::start(bundle.clone(), {
        let (path, layer) = (path.clone(), layer.clone());
        move |seen| {
            if seen.path.contains("/manifests/") && seen.before == 0 {
                return Some(status(500, ""));
            }
            if seen.path != path {
                return None;
            }
            match seen.before {
                0 => Some(cut(&layer[..1000], layer.len())),
                1 => Some(status(503, "")),
                _ => None,
            }
        }
    })
    .await;
    let home = Home::new();
    let mut options = patient();
    options.limits.tries = 5;
    let image = pull(&home, &server, &options).await.unwrap();
    assert!(image.root.join("big").exists());
    let ranges: Vec<_> = server
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|seen| seen.path == path)
        .map(|seen| seen.range.clone())
        .collect();
    assert_eq!(ranges.first(), Some(&None));
    assert_eq!(ranges.last(), Some(&Some("bytes=1000-".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_dropped_is_resumed_by_the_next() {
    let bundle = sample();
    let path = layer_path(&bundle);
    let part = bundle.blobs[0][..5000].to_vec();
    let broken = Arc::new(AtomicBool::new(true));
    let server = Server::start(bundle, {
        let (path, broken) = (path.clone(), broken.clone());
        move |seen| (seen.path == path && broken.load(Ordering::SeqCst)).then(|| stuck(&part))
    })
    .await;
    let home = Home::new();
    let mut options = patient();
    options.limits.idle = Duration::from_secs(20);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let progress = Progress::new(move |event| drop(sender.send(event)));
    let name = server.name().parse().unwrap();
    {
        let pulling = std::pin::pin!(home.store.pull(&name, &options, &progress));
        let came = async {
            while let Some(event) = receiver.recv().await {
                if matches!(event, isorun_engine::image::Event::Fetched { .. }) {
                    break;
                }
            }
        };
        tokio::select! {
            _ = pulling => panic!("the pull cannot end"),
            () = came => {}
        }
    }
    broken.store(false, Ordering::SeqCst);
    pull(&home, &server, &options).await.unwrap();
    let ranges: Vec<_> = server
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|seen| seen.path == path)
        .map(|seen| seen.range.clone())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=5000-".to_owned())]);
}

/// What lies in the store of a layer that was not finished may be anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_beginning_is_fetched_anew() {
    let bundle = sample();
    let path = layer_path(&bundle);
    let file = sha256(&bundle.blobs[0]).replace(':', "-");
    let size = bundle.blobs[0].len();
    for (case, left) in
        [("damaged", vec![1; 500]), ("full, damaged", vec![1; size]), ("longer", vec![1; size + 1])]
    {
        let home = Home::new();
        std::fs::write(home.path("store/partial").join(&file), left).unwrap();
        let server = Server::start(bundle.clone(), |_| None).await;
        let image = pull(&home, &server, &patient()).await.unwrap();
        assert!(image.root.join("big").exists(), "{case}");
        assert!((1..=2).contains(&server.count(&path)), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_and_renewed() {
    let bundle = sample();
    let address = Arc::new(std::sync::OnceLock::<String>::new());
    let server = Server::start(bundle, {
        let address = address.clone();
        move |seen| {
            if seen.path.starts_with("/token") {
                // "me:secret"
                let known = seen.authorization.as_deref() == Some("Basic bWU6c2VjcmV0");
                let scoped = seen.path.contains("scope=repository%3Aimage%3Apull")
                    && seen.path.contains("service=tests");
                return Some(match (known, scoped) {
                    (true, true) => full(format!(r#"{{"token":"t{}"}}"#, seen.before).as_bytes()),
                    _ => status(401, ""),
                });
            }
            // The first token is good for documents, and then expires.
            let wanted = if seen.path.contains("/manifests/") { "Bearer t0" } else { "Bearer t1" };
            (seen.authorization.as_deref() != Some(wanted)).then(|| {
                let address = address.get().unwrap();
                challenge(&format!(
                    "Bearer realm=\"http://{address}/token\",service=\"tests\",scope=\"x\""
                ))
            })
        }
    })
    .await;
    address.set(server.address.to_string()).unwrap();
    let home = Home::new();
    let mut options = patient();
    let host = server.address.to_string();
    let user =
        |password: &str| Credentials::User { name: "me".to_owned(), password: password.to_owned() };
    options.registries = Registries::default().credentials(&host, user("wrong"));
    let error = pull(&home, &server, &options).await.unwrap_err();
    assert_eq!(error.code(), "image_auth");
    assert!(error.to_string().contains("does not take the credentials"), "{error}");
    // The count of tokens began with the refused one.
    server.seen.lock().unwrap().clear();
    options.registries = Registries::default().credentials(&host, user("secret"));
    pull(&home, &server, &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_their_registry() {
    let bundle = sample();
    let storage = Server::start(bundle.clone(), |_| None).await;
    let there = storage.address;
    let server = Server::start(bundle, move |seen| {
        if seen.authorization.is_none() {
            return Some(challenge("Basic realm=\"x\""));
        }
        seen.path.contains("/blobs/").then(|| redirect(&format!("http://{there}{}", seen.path)))
    })
    .await;
    let home = Home::new();
    let mut options = patient();
    let me = Credentials::User { name: "me".to_owned(), password: "secret".to_owned() };
    options.registries = Registries::default().credentials(&server.address.to_string(), me);
    pull(&home, &server, &options).await.unwrap();
    let seen = storage.seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_has_an_end() {
    // A byte now and then keeps every other limit content.
    let server = Server::start(sample(), |seen| {
        seen.path.contains("/manifests/").then(|| {
            let body = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let frame = hyper::body::Frame::data(bytes::Bytes::from_static(b" "));
                Some((Ok::<_, std::io::Error>(frame), ()))
            });
            let body = http_body_util::StreamBody::new(body);
            hyper::Response::new(http_body_util::BodyExt::boxed_unsync(body))
        })
    })
    .await;
    let home = Home::new();
    let mut options = patient();
    options.limits.pull = Duration::from_millis(600);
    let start = Instant::now();
    let error = pull(&home, &server, &options).await.unwrap_err();
    assert_eq!(error.code(), "image_timeout");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_is_said() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/image:1", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = home.store.pull(&name, &patient(), &Progress::none()).await.unwrap_err();
    assert_eq!(error.code(), "registry_unreachable");
    assert!(error.to_string().contains("refused"), "{error}");
    // https is spoken with what is not on this machine.
    let name = "no-such-host.invalid/image:1".parse().unwrap();
    let error = home.store.pull(&name, &patient(), &Progress::none()).await.unwrap_err();
    assert_eq!(error.code(), "registry_unreachable");
}
