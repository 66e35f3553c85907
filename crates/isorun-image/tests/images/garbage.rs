//! Registries with invalid, slow, or missing responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use isorun_image::{Error, Image, Limits, Progress, PullOptions, Registries, RegistryCredentials};
use serde_json::json;

use crate::bundle::{Bundle, Layer, TestStore, gzip, sha256};
use crate::registry::options;
use crate::server::{
    RecordedRequest, RegistryResponse, Server, challenge, endless, ok, redirect, stalled, status,
    truncated,
};

/// Creates an image whose layer is large enough to be received in several chunks.
fn sample() -> Bundle {
    let content: String = (0..40_000).map(|at| format!("{:x}", at * 7919)).collect();
    let tar = Layer::default().file("big", &content).tar();
    Bundle::new(&[(gzip(&tar), sha256(&tar))])
}

fn layer_path(bundle: &Bundle) -> String {
    format!("/v2/image/blobs/{}", sha256(&bundle.blobs[0]))
}

/// Returns limits with short timeouts, so that tests of them are fast.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.connect = Duration::from_secs(2);
    limits.idle = Duration::from_millis(400);
    limits.request = Duration::from_millis(1500);
    limits.tries = 3;
    limits.document = 256 << 10;
    limits
}

fn test_options() -> PullOptions {
    let mut options = options();
    options.limits = limits();
    options
}

async fn pull(home: &TestStore, server: &Server, options: &PullOptions) -> Result<Image, Error> {
    let name = server.name().parse().unwrap();
    let progress = Progress::none();
    let pulling = home.store.pull(&name, options, &progress);
    tokio::time::timeout(Duration::from_secs(30), pulling)
        .await
        .expect("the pull must end within 30 s")
}

type Handler = Box<dyn Fn(&RecordedRequest) -> Option<RegistryResponse> + Send + Sync>;

/// Creates a handler that responds to each request whose path contains `part`.
fn respond_to(
    part: &'static str,
    answer: impl Fn() -> RegistryResponse + Send + Sync + 'static,
) -> Handler {
    Box::new(move |seen| seen.path.contains(part).then(&answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_responses_have_specific_errors() {
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
    let served = |bytes: Vec<u8>| respond_to("/manifests/", move || ok(&bytes));
    let cases: Vec<(&str, Handler, &str, &str)> = vec![
        ("a page", served(b"<html>hi</html>".to_vec()), "image_malformed", "not valid JSON"),
        ("nothing", served(Vec::new()), "image_malformed", "not valid JSON"),
        ("a deep document", served(b"[".repeat(100_000)), "image_malformed", "not valid JSON"),
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
        ("a layer on another host", served(foreign), "image_unsupported", "another host"),
        ("more layers than diff ids", served(twice), "image_malformed", "2"),
        (
            "an index of another manifest",
            served(nested.to_string().into_bytes()),
            "image_digest",
            "0000",
        ),
        ("an endless manifest", respond_to("/manifests/", endless), "image_too_large", "manifest"),
        (
            "an endless configuration",
            respond_to("/blobs/", endless),
            "image_too_large",
            "configuration",
        ),
        (
            "another configuration",
            respond_to("/blobs/", || ok(b"{}")),
            "image_digest",
            "configuration",
        ),
        (
            "a failure",
            respond_to("/v2/", || status(500, "secret of the host")),
            "registry_failure",
            "500",
        ),
        ("a teapot", respond_to("/v2/", || status(418, "")), "registry_failure", "418"),
        ("forbidden", respond_to("/v2/", || status(403, "")), "image_auth", "credentials"),
        ("nothing there", respond_to("/v2/", || status(404, "")), "image_not_found", "image:1"),
        ("circles", respond_to("/v2/", || redirect("/v2/")), "registry_unreachable", "loop"),
        (
            "a redirect to nowhere",
            respond_to("/v2/", || redirect("http://127.0.0.1:1/")),
            "registry_unreachable",
            "refused",
        ),
        (
            "a redirect to a file",
            respond_to("/v2/", || redirect("file:///etc/passwd")),
            "registry_failure",
            "307",
        ),
        ("silence", respond_to("/manifests/", || stalled(b"{")), "image_timeout", "manifest"),
        (
            "a cut manifest",
            respond_to("/manifests/", || truncated(b"{", 100)),
            "registry_unreachable",
            "manifest",
        ),
        (
            "a challenge again and again",
            respond_to("/v2/", || challenge("Basic realm=\"x\"")),
            "image_auth",
            "user and a password",
        ),
        (
            "a challenge of no kind",
            respond_to("/v2/", || challenge("Foo")),
            "image_auth",
            "no supported scheme",
        ),
        (
            "tokens from a stranger without https",
            respond_to("/v2/", || challenge("Bearer realm=\"http://stranger.example/token\"")),
            "image_auth",
            "not secure",
        ),
    ];
    for (case, handler, code, part) in cases {
        let home = TestStore::new();
        let server = Server::start(bundle.clone(), handler).await;
        let error = pull(&home, &server, &test_options()).await.unwrap_err();
        assert_eq!(error.code(), code, "{case}: {error}");
        assert!(error.to_string().contains(part), "{case}: {error}");
        assert!(!error.to_string().contains("secret"), "{case}: {error}");
        assert!(home.store.list().unwrap().is_empty(), "{case}");
        home.check(case);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_with_a_wrong_digest_or_size_are_refused() {
    let bundle = sample();
    let layer = bundle.blobs[0].clone();
    let path = layer_path(&bundle);
    let mut wrong = layer.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let longer = [layer.clone(), b"more".to_vec()].concat();
    let half = layer[..middle].to_vec();
    let at = |answer: Box<dyn Fn() -> RegistryResponse + Send + Sync>| -> Handler {
        let path = path.clone();
        Box::new(move |seen| (seen.path == path).then(&answer))
    };
    let length = layer.len();
    for (case, handler, code, tries) in [
        ("other content", at(Box::new(move || ok(&wrong))), "image_digest", 1),
        ("longer", at(Box::new(move || ok(&longer))), "image_too_large", 1),
        ("endless", at(Box::new(endless)), "image_too_large", 1),
        ("shorter", at(Box::new(move || ok(&half))), "registry_unreachable", 3),
        ("cut", at(Box::new(move || truncated(b"x", length))), "registry_unreachable", 3),
        ("stuck", at(Box::new(|| stalled(b"x"))), "image_timeout", 3),
        ("missing", at(Box::new(|| status(404, ""))), "registry_failure", 1),
    ] {
        let home = TestStore::new();
        let server = Server::start(bundle.clone(), handler).await;
        let error = pull(&home, &server, &test_options()).await.unwrap_err();
        assert_eq!(error.code(), code, "{case}: {error}");
        assert_eq!(server.count(&path), tries, "{case}");
        let left = std::fs::read_dir(home.path("store/blobs/sha256")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{case}");
        home.store.gc().await.unwrap();
        for directory in ["partial", "tmp", "work", "roots"] {
            let left = std::fs::read_dir(home.path("store").join(directory)).unwrap().count();
            assert_eq!(left, 0, "{case}: {directory}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_failures_are_retried_and_resumed() {
    let bundle = sample();
    let layer = bundle.blobs[0].clone();
    let path = layer_path(&bundle);
    // Each transient failure once, and success afterwards.
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
                0 => Some(truncated(&layer[..1000], layer.len())),
                1 => Some(status(503, "")),
                _ => None,
            }
        }
    })
    .await;
    let home = TestStore::new();
    let mut options = test_options();
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
async fn progress_resets_the_number_of_retries() {
    let tar = Layer::default().file("big", &"0123456789abcdef".repeat(1 << 20)).tar();
    let bundle = Bundle::new(&[(tar.clone(), sha256(&tar))]);
    let path = layer_path(&bundle);
    let server = Server::start(bundle, {
        let path = path.clone();
        move |seen| {
            let offset: usize = match &seen.range {
                Some(range) => range.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap(),
                None => 0,
            };
            let rest = tar.get(offset..).filter(|rest| rest.len() > 4 << 20)?;
            (seen.path == path).then(|| {
                let mut answer = truncated(&rest[..4 << 20], rest.len());
                *answer.status_mut() =
                    hyper::StatusCode::from_u16(if offset > 0 { 206 } else { 200 }).unwrap();
                answer
            })
        }
    })
    .await;
    let home = TestStore::new();
    let mut options = test_options();
    options.limits.tries = 2;
    let image = pull(&home, &server, &options).await.unwrap();
    assert_eq!(image.size, 16 << 20);
    assert!(server.count(&path) > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_pull_is_resumed_by_the_next() {
    let bundle = sample();
    let path = layer_path(&bundle);
    let part = bundle.blobs[0][..5000].to_vec();
    let broken = Arc::new(AtomicBool::new(true));
    let server = Server::start(bundle, {
        let (path, broken) = (path.clone(), broken.clone());
        move |seen| (seen.path == path && broken.load(Ordering::SeqCst)).then(|| stalled(&part))
    })
    .await;
    let home = TestStore::new();
    let mut options = test_options();
    options.limits.idle = Duration::from_secs(20);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let progress = Progress::new(move |event| drop(sender.send(event)));
    let name = server.name().parse().unwrap();
    {
        let pulling = std::pin::pin!(home.store.pull(&name, &options, &progress));
        let came = async {
            while let Some(event) = receiver.recv().await {
                if matches!(event, isorun_image::ProgressEvent::Fetched { .. }) {
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

/// A partial layer in the store may have any content.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_partial_layer_is_fetched_again() {
    let bundle = sample();
    let path = layer_path(&bundle);
    let file = sha256(&bundle.blobs[0]).replace(':', "-");
    let size = bundle.blobs[0].len();
    for (case, left) in
        [("damaged", vec![1; 500]), ("full, damaged", vec![1; size]), ("longer", vec![1; size + 1])]
    {
        let home = TestStore::new();
        std::fs::write(home.path("store/partial").join(&file), left).unwrap();
        let server = Server::start(bundle.clone(), |_| None).await;
        let image = pull(&home, &server, &test_options()).await.unwrap();
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
                    (true, true) => ok(format!(r#"{{"token":"t{}"}}"#, seen.before).as_bytes()),
                    _ => status(401, ""),
                });
            }
            // The first token is valid for documents, and then expires.
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
    let home = TestStore::new();
    let mut options = test_options();
    let host = server.address.to_string();
    let user = |password: &str| RegistryCredentials::User {
        name: "me".to_owned(),
        password: password.to_owned(),
    };
    options.registries = Registries::default().credentials(&host, user("wrong"));
    let error = pull(&home, &server, &options).await.unwrap_err();
    assert_eq!(error.code(), "image_auth");
    assert!(error.to_string().contains("does not accept the credentials"), "{error}");
    // The count of tokens includes the refused request.
    server.seen.lock().unwrap().clear();
    options.registries = Registries::default().credentials(&host, user("secret"));
    pull(&home, &server, &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_not_sent_to_a_redirect_target() {
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
    let home = TestStore::new();
    let mut options = test_options();
    let me = RegistryCredentials::User { name: "me".to_owned(), password: "secret".to_owned() };
    options.registries = Registries::default().credentials(&server.address.to_string(), me);
    pull(&home, &server, &options).await.unwrap();
    let seen = storage.seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn total_time_of_a_pull_is_limited() {
    // A byte at intervals, so that no other timeout is reached.
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
    let home = TestStore::new();
    let mut options = test_options();
    options.limits.pull = Duration::from_millis(600);
    let start = Instant::now();
    let error = pull(&home, &server, &options).await.unwrap_err();
    assert_eq!(error.code(), "image_timeout");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_registry_is_reported() {
    let home = TestStore::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/image:1", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = home.store.pull(&name, &test_options(), &Progress::none()).await.unwrap_err();
    assert_eq!(error.code(), "registry_unreachable");
    assert!(error.to_string().contains("refused"), "{error}");
    // Registries that are not on this machine are connected to by https.
    let name = "no-such-host.invalid/image:1".parse().unwrap();
    let error = home.store.pull(&name, &test_options(), &Progress::none()).await.unwrap_err();
    assert_eq!(error.code(), "registry_unreachable");
}
