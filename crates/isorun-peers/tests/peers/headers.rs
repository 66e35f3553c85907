//! Which headers are forwarded, and how the target of a request is.

use http::{HeaderMap, HeaderValue, Method, Request, Version};
use isorun_peers::{AddedHeaders, Authority, PeerBody, PeerError};
use tokio::sync::mpsc;

use crate::nodes::{Handler, Node, client, event, fetch, get, post, serve, text};

/// Starts a node that passes on the heads of its requests.
async fn recorder(authority: &Authority) -> (Node, mpsc::Receiver<http::request::Parts>) {
    let (heads, received) = mpsc::channel(8);
    let node = serve(
        authority,
        Handler::new(move |request| {
            let heads = heads.clone();
            async move {
                heads.send(request.into_parts().0).await.unwrap();
                text("ok")
            }
        }),
    )
    .await;
    (node, received)
}

#[tokio::test]
async fn headers_of_one_connection_are_removed_in_both_directions() {
    let authority = Authority::generate().unwrap();
    let removed = [
        ("connection", "close, X-Secret"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eA=="),
        ("proxy-authenticate", "Basic"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("x-secret", "secret"),
    ];
    let kept = [("x-kept", "1"), ("authorization", "Bearer x"), ("cookie", "a=b")];
    let (heads, mut received) = mpsc::channel(1);
    let node = serve(
        &authority,
        Handler::new(move |request| {
            let heads = heads.clone();
            async move {
                heads.send(request.headers().clone()).await.unwrap();
                let mut response = text("ok");
                // hyper removes the others from a response before it is sent.
                for (name, value) in removed.iter().chain(&kept) {
                    response.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                response
            }
        }),
    )
    .await;
    let mut request = get("/");
    for (name, value) in removed.iter().chain(&kept) {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    let response = client(&authority).send(&node.address(), request).await.unwrap();
    let at_peer = received.recv().await.unwrap();
    for headers in [&at_peer, response.headers()] {
        for (name, _) in removed {
            assert!(!headers.contains_key(name), "{name}: {headers:?}");
        }
        for (name, value) in kept {
            assert_eq!(headers[name], value);
        }
    }
    assert_eq!(at_peer.len(), kept.len());
}

#[tokio::test]
async fn the_form_of_the_target_and_the_host_are_kept() {
    let authority = Authority::generate().unwrap();
    let (node, mut received) = recorder(&authority).await;
    let client = client(&authority);
    for (method, target, host) in [
        (Method::GET, "/a/b%20c?d=e&f", Some("run1.sb.test:7676")),
        (Method::GET, "/", None),
        (Method::OPTIONS, "*", Some("a.test")),
        (Method::PUT, "https://run1.sb.test/x?y", None),
        (Method::PUT, "https://run1.sb.test/x?y", Some("run1.sb.test")),
        (Method::from_bytes(b"PURGE").unwrap(), "http://a.test:81/", None),
    ] {
        let mut request =
            Request::builder().method(&method).uri(target).body(PeerBody::empty()).unwrap();
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        let response = event("the response", client.send(&node.address(), request)).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
        let head = received.recv().await.unwrap();
        assert_eq!((head.method, head.uri.to_string().as_str()), (method, target));
        assert_eq!(head.headers.get("host").map(|host| host.to_str().unwrap()), host);
    }
}

#[tokio::test]
async fn a_connection_header_cannot_remove_framing_or_what_this_node_adds() {
    let authority = Authority::generate().unwrap();
    let (node, mut received) = recorder(&authority).await;
    let mut request = post(PeerBody::from("12345"));
    let named = "content-length, host, x-tenant, x-own";
    for (name, value) in [
        ("connection", named),
        ("content-length", "5"),
        ("host", "a.test"),
        ("transfer-encoding", "chunked"),
        ("x-tenant", "of the client"),
        ("x-own", "1"),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let mut added = HeaderMap::new();
    added.insert("x-tenant", HeaderValue::from_static("of the node"));
    request.extensions_mut().insert(AddedHeaders(added));
    client(&authority).send(&node.address(), request).await.unwrap();
    let headers = received.recv().await.unwrap().headers;
    assert_eq!(headers.len(), 3, "{headers:?}");
    assert_eq!(headers["content-length"], "5");
    assert_eq!(headers["host"], "a.test");
    assert_eq!(headers["x-tenant"], "of the node");
}

#[tokio::test]
async fn a_wrong_length_harms_only_its_own_request() {
    let authority = Authority::generate().unwrap();
    let echo = Handler::new(|request| async { http::Response::new(request.into_body()) });
    let node = serve(&authority, echo).await;
    let client = client(&authority);
    let smuggled = "12345GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut request = post(PeerBody::from(smuggled));
    request.headers_mut().insert("content-length", HeaderValue::from_static("5"));
    let result = event("an end", async {
        let response = client.send(&node.address(), request).await?;
        crate::nodes::read(response.into_body()).await
    })
    .await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(fetch(&client, &node.address()).await, "");
}

#[tokio::test]
async fn connect_without_a_websocket_is_refused() {
    let authority = Authority::generate().unwrap();
    let (node, mut received) = recorder(&authority).await;
    let client = client(&authority);
    let request = Request::connect("a.test:443").body(PeerBody::empty()).unwrap();
    let error = client.send(&node.address(), request).await.unwrap_err();
    assert!(matches!(error, PeerError::InvalidRequest(_)), "{error}");
    // A WebSocket needs a connection that can be upgraded.
    let request = Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(PeerBody::empty())
        .unwrap();
    let error = client.send(&node.address(), request).await.unwrap_err();
    assert!(matches!(error, PeerError::InvalidRequest(_)), "{error}");
    assert!(received.try_recv().is_err());
}
