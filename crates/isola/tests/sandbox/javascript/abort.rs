//! Aborting a fetch closes the host's connection at any point.

use std::sync::Arc;

use isola::{Limits, Runtime, Value, args};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Notify, mpsc},
};

use crate::{
    fixture::started_with,
    server::{Server, read_head},
};

/// A server that reads a request's head, answers with some bytes, and reports when
/// its client has closed the connection.
struct WatchedServer {
    server: Server,
    requested: Arc<Notify>,
    closed: mpsc::UnboundedReceiver<()>,
}

async fn watched_server(answer: &'static [u8]) -> WatchedServer {
    let requested = Arc::new(Notify::new());
    let (sender, closed) = mpsc::unbounded_channel();
    let notify = Arc::clone(&requested);
    let server = Server::tcp(move |mut stream| {
        let (notify, sender) = (Arc::clone(&notify), sender.clone());
        async move {
            if !read_head(&mut stream).await {
                return;
            }
            stream.write_all(answer).await.unwrap();
            notify.notify_one();
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await.unwrap_or(0) > 0 {}
            let _ = sender.send(());
        }
    })
    .await;
    WatchedServer { server, requested, closed }
}

const SCRIPT: &str = "
async function request(url, reason) {
    const controller = new AbortController();
    hostcall('requested').then(() => controller.abort(reason));
    return outcome(fetch(url, { signal: controller.signal }));
}
async function outcome(promise) {
    try {
        await promise;
        return 'no error';
    } catch (error) {
        return [error.name, error.message, error instanceof DOMException];
    }
}
async function body(url, reason) {
    const controller = new AbortController();
    const response = await fetch(url, { signal: controller.signal });
    const reader = response.body.getReader();
    const first = new TextDecoder().decode((await reader.read()).value);
    const second = outcome(reader.read());
    controller.abort(reason);
    return [first, await second, await outcome(reader.read())];
}
async function complete(url, reason) {
    const controller = new AbortController();
    const response = await fetch(url, { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 1);
    return [await outcome(response.text()), response.bodyUsed];
}
async function late(url, reason) {
    const controller = new AbortController();
    const response = await fetch(url, { signal: controller.signal });
    controller.abort(reason);
    return outcome(response.text());
}
async function cancelled(url) {
    const response = await fetch(url);
    await response.body.cancel();
    return response.bodyUsed;
}
async function left(url) {
    const response = await fetch(url);
    for await (const _ of response.body) break;
    return response.bodyUsed;
}
async function timeout(url) {
    const [name, , isException] = await outcome(fetch(url, { signal: AbortSignal.timeout(1) }));
    return [name, isException];
}
async function upload(url, reason) {
    const controller = new AbortController();
    hostcall('requested').then(() => controller.abort(reason));
    let cancelled = null;
    const body = new ReadableStream({
        async pull(queue) {
            await new Promise((resolve) => setTimeout(resolve, 1));
            queue.enqueue(new Uint8Array(10));
        },
        cancel() {
            cancelled = true;
        },
    });
    const seen = await outcome(fetch(url, { method: 'POST', duplex: 'half', signal: controller.signal, body }));
    await new Promise((resolve) => setTimeout(resolve, 5));
    return [seen, cancelled];
}
";

const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";

#[tokio::test]
async fn abort_closes_the_connection() {
    let abort = json!(["AbortError", "stop", true]);
    for (function, answer, expected) in [
        ("request", &b""[..], abort.clone()),
        ("body", HALF, json!(["half", abort, abort])),
        ("complete", HALF, json!([abort, true])),
        ("late", HALF, abort.clone()),
        ("cancelled", HALF, json!(true)),
        ("left", HALF, json!(true)),
        ("timeout", b"", json!(["TimeoutError", true])),
        ("upload", b"", json!([abort, true])),
    ] {
        let WatchedServer { server, requested, mut closed } = watched_server(answer).await;
        let (done, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (done_too, release_too) = (Arc::clone(&done), Arc::clone(&release));
        let host = server
            .host()
            .hostcall("requested", move |_: Value| {
                let requested = Arc::clone(&requested);
                async move {
                    requested.notified().await;
                    Ok(Value::null())
                }
            })
            // Keeps the call running, so that its end does not close the connection.
            .hostcall("hold", move |_: Value| {
                let (done, release) = (Arc::clone(&done_too), Arc::clone(&release_too));
                async move {
                    done.notify_one();
                    release.notified().await;
                    Ok(Value::null())
                }
            });
        let sandbox = started_with(Runtime::JavaScript, Limits::default(), host).await;
        sandbox.load_script(SCRIPT).await.unwrap();
        sandbox
            .load_script(format!(
                "async function main(url) {{
                    const seen = await {function}(url, 'stop');
                    await hostcall('hold');
                    return seen;
                }}"
            ))
            .await
            .unwrap();
        let call = sandbox.run("main", args![server.url("/")]);
        let call = tokio::spawn(call.into_future());
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            if function != "timeout" {
                done.notified().await;
            }
            closed.recv().await.unwrap();
        })
        .await
        .unwrap_or_else(|_| panic!("{function}: the connection is still open"));
        release.notify_one();
        assert_eq!(call.await.unwrap().unwrap(), expected, "{function}");
    }
}

#[tokio::test]
async fn aborted_signal_sends_no_request() {
    let host = isola::Handlers::new().http(|_| async { panic!("a request was sent") });
    let sandbox = started_with(Runtime::JavaScript, Limits::default(), host).await;
    sandbox
        .load_script(
            "async function main() {
                const signal = AbortSignal.abort('early');
                const names = [];
                for (const start of [
                    () => fetch('http://a.test/', { signal }),
                    () => fetch(new Request('http://a.test/', { signal })),
                    () => fetch('http://a.test/', { signal, method: 'POST', body: { a: 1 } }),
                ]) names.push(await start().catch((error) => error.name));
                return names;
            }",
        )
        .await
        .unwrap();
    assert_eq!(
        sandbox.run("main", args![]).await.unwrap(),
        json!(["AbortError", "AbortError", "AbortError"])
    );
}
