//! The end of listeners and clients.

use std::time::{Duration, Instant};

use http::Response;
use http_body::Frame;
use http_body_util::BodyExt;
use isorun_peers::{Authority, PeerError, ServeOptions};
use tokio::sync::mpsc;

use crate::{
    nodes::{
        DropSignal, Handler, channel_body, client, event, fetch, get, post, read, serve,
        serve_with, text,
    },
    proxy::Proxy,
};

#[tokio::test]
async fn shutdown_finishes_requests_in_progress_and_refuses_new_ones() {
    let authority = Authority::generate().unwrap();
    let echo = Handler::new(|request| async { Response::new(request.into_body()) });
    let mut node = serve(&authority, echo).await;
    let (client, address) = (client(&authority), node.address());
    let (frames, body) = channel_body();
    let response = client.send(&address, post(body)).await.unwrap();
    let mut body = response.into_body();
    node.shutdown.cancel();
    // The connection is still open for the first request.
    let refused = async {
        loop {
            match client.send(&address, get("/")).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        }
    };
    let error = event("a refusal", refused).await;
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    for _ in 0..3 {
        frames.send(Frame::data("piece".into())).await.unwrap();
        let frame = event("a piece", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "piece");
    }
    assert!(!node.task.is_finished());
    drop(frames);
    assert!(event("the end", body.frame()).await.is_none());
    event("the shutdown", &mut node.task).await.unwrap();
}

#[tokio::test]
async fn no_request_is_lost_while_a_node_shuts_down() {
    let authority = Authority::generate().unwrap();
    for _ in 0..5 {
        let node = serve(&authority, Handler::new(|_| async { text("ok") })).await;
        let (client, address) = (client(&authority), node.address());
        fetch(&client, &address).await;
        let requests = (0..20).map(|_| async {
            loop {
                match client.send(&address, get("/")).await {
                    Ok(response) => {
                        assert_eq!(read(response.into_body()).await.unwrap(), "ok");
                    }
                    Err(error) => break error,
                }
            }
        });
        let stop = async {
            tokio::task::yield_now().await;
            node.stop().await;
        };
        let (errors, ()) = tokio::join!(futures_util::future::join_all(requests), stop);
        for error in errors {
            assert!(error.is_retryable(), "{error}");
        }
    }
}

#[tokio::test]
async fn requests_that_do_not_end_are_closed_after_the_limit() {
    let authority = Authority::generate().unwrap();
    let (signals, mut received) = mpsc::channel(1);
    let options =
        ServeOptions { shutdown_timeout: Duration::from_millis(500), ..ServeOptions::default() };
    let handler = Handler::new(move |_| {
        let signals = signals.clone();
        async move {
            let (signal, dropped) = DropSignal::new();
            signals.send(dropped).await.unwrap();
            let _signal = signal;
            std::future::pending().await
        }
    });
    let node = serve_with(&authority, handler, options).await;
    let (client, address) = (client(&authority), node.address());
    let request = tokio::spawn(async move { client.send(&address, get("/")).await });
    let dropped = received.recv().await.unwrap();
    let start = Instant::now();
    node.stop().await;
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(dropped.is_cancelled());
    let error = event("the error", request).await.unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Interrupted { .. }), "{error}");
}

#[tokio::test]
async fn a_listener_that_is_dropped_closes_its_connections() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, Handler::new(|_| async { text("ok") })).await;
    let proxy = Proxy::start(node.socket).await;
    let client = client(&authority);
    assert_eq!(fetch(&client, &node.address_at(proxy.address)).await, "ok");
    assert_eq!(proxy.state.borrow().open, 1);
    node.task.abort();
    event("the end of the connection", proxy.until_open(0)).await;
}

#[tokio::test]
async fn a_client_that_is_closed_ends_its_requests() {
    let authority = Authority::generate().unwrap();
    let node =
        serve(&authority, Handler::new(|request| async { Response::new(request.into_body()) }))
            .await;
    let proxy = Proxy::start(node.socket).await;
    let (client, address) = (client(&authority), node.address_at(proxy.address));
    let (_frames, body) = channel_body();
    let response = client.send(&address, post(body)).await.unwrap();
    event("the end", client.close()).await;
    let error = event("the error", read(response.into_body())).await.unwrap_err();
    let error = error.downcast::<PeerError>().unwrap();
    assert!(matches!(*error, PeerError::Interrupted { .. }), "{error}");
    event("the end of the connection", proxy.until_open(0)).await;
    let error = client.send(&address, get("/")).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_client_that_is_dropped_finishes_its_requests() {
    let authority = Authority::generate().unwrap();
    let node =
        serve(&authority, Handler::new(|request| async { Response::new(request.into_body()) }))
            .await;
    let proxy = Proxy::start(node.socket).await;
    let client = client(&authority);
    let (frames, body) = channel_body();
    let response = client.send(&node.address_at(proxy.address), post(body)).await.unwrap();
    drop(client);
    frames.send(Frame::data("late".into())).await.unwrap();
    drop(frames);
    assert_eq!(read(response.into_body()).await.unwrap(), "late");
    event("the end of the connection", proxy.until_open(0)).await;
}
