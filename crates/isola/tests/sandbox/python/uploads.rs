//! Streamed request bodies, and the memory that the host uses for them.

use http_body_util::BodyExt as _;
use isola::{Limits, Runtime, Value, args};
use serde_json::json;
use tokio::sync::mpsc;

use super::http::{loaded, mirror, turns};
use crate::{
    fixture::{events, results, started_with},
    server::{Server, complete_response, streamed_response},
};

const SCRIPT: &str = "
from componentize_py_types import Err
from sandbox.http import RequestError, fetch
from wit_world.imports import host
BLOCK = bytes(64 << 10)
def send(url, body):
    try:
        with fetch('PUT', url, body=body) as response:
            return response.json()
    except RequestError as error:
        return str(error)
def main(url):
    yield send(url, BLOCK * 8)
    yield send(url, BLOCK * 32)
    yield send(url, (BLOCK for _ in range(64)))
    yield send(url, iter([BLOCK * 64]))
    # Without the package, which splits pieces.
    body = host.RequestBody_Pieces(None)
    host.fetch(1000, host.Request('PUT', url, [], body, None))
    try:
        host.write(1000, BLOCK * 32)
    except Err as refusal:
        yield refusal.value
    host.abandon(1000)
    yield send(url, BLOCK * 8)
";

#[tokio::test]
async fn memory_of_uploads_is_limited() {
    let server = Server::http(|request| async move {
        let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
        complete_response(format!("{}", body.unwrap_or_default()))
    })
    .await;
    let limits = Limits { max_held_memory: 1 << 20, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, server.host()).await;
    sandbox.load_script(SCRIPT).await.unwrap();
    let all = events(sandbox.run_stream("main", args![server.url("/")]).unwrap());
    let (items, end) = results(&all.await);
    let refused =
        json!("pending hostcalls and requests hold more than 1048576 bytes: wait until some end");
    let expected = [json!(512 << 10), refused.clone(), json!(4 << 20), json!(4 << 20), refused];
    let items: Vec<serde_json::Value> =
        items.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
    assert_eq!(items[..5], expected);
    // Refused pieces do not use memory either.
    assert_eq!(items[5..], [json!(512 << 10)], "{end:?}");
}

#[tokio::test]
async fn files_are_streamed_with_their_length() {
    let server = Server::http(mirror).await;
    let script = "
from io import BytesIO
from sandbox.http import fetch
class Unseekable:
    def __init__(self):
        self.parts = [b'in ', b'parts', b'']
    def read(self, size):
        return self.parts.pop(0)
async def main(url, seekable):
    files = {
        'raw': b'bytes',
        'file': BytesIO(b'content') if seekable else Unseekable(),
        'three': ('näme \"x\".txt', BytesIO(b'text'), 'text/plain'),
    }
    async with fetch('POST', url, files=files, headers={'Content-Type': 'dropped'}) as response:
        _, _, fields, body = await response.ajson()
    fields = dict(map(tuple, fields))
    boundary = fields['content-type'].split('boundary=')[1]
    length = fields.get('content-length')
    return [length == str(len(body.encode())) if length else 'chunked', body.replace(boundary, 'B')]
";
    let sandbox = loaded(server.host(), script).await;
    let form = |content: &str| {
        format!(
            "--B\r\nContent-Disposition: form-data; name=\"raw\"; filename=\"raw\"\r\n\
             Content-Type: application/octet-stream\r\n\r\nbytes\r\n\
             --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n{content}\r\n\
             --B\r\nContent-Disposition: form-data; name=\"three\"; filename=\"näme %22x%22.txt\"\r\n\
             Content-Type: text/plain\r\n\r\ntext\r\n--B--\r\n"
        )
    };
    let seen = sandbox.run("main", args![server.url("/"), true]).await.unwrap();
    assert_eq!(seen, json!([true, form("content")]));
    let seen = sandbox.run("main", args![server.url("/"), false]).await.unwrap();
    assert_eq!(seen, json!(["chunked", form("in parts")]));
}

#[tokio::test]
async fn request_is_received_while_the_guest_sends() {
    // The guest sends a piece after the server has reported the previous one.
    let script = "
from sandbox.asyncio import hostcall, run
from sandbox.http import fetch
def pieces():
    for number in range(3):
        yield b'piece %d' % number
        assert run_in_place(hostcall('seen')) == f'piece {number}'
async def apieces():
    for number in range(3):
        yield b'piece %d' % number
        assert await hostcall('seen') == f'piece {number}'
def run_in_place(coroutine):
    return run(coroutine)
def main(url):
    with fetch('PUT', url, body=pieces()) as response:
        return response.text()
async def amain(url):
    async with fetch('PUT', url, body=apieces()) as response:
        return await response.atext()
";
    for function in ["main", "amain"] {
        let (turn, next) = mpsc::channel(1);
        let server = Server::http(move |request| {
            let turn = turn.clone();
            async move {
                let mut body = request.into_body();
                let mut count = 0;
                while let Some(frame) = body.frame().await {
                    let piece = frame.unwrap().into_data().unwrap();
                    let piece = String::from_utf8(piece.to_vec()).unwrap();
                    turn.send(Value::new(&piece).unwrap()).await.unwrap();
                    count += 1;
                }
                complete_response(format!("{count} pieces"))
            }
        })
        .await;
        let sandbox = loaded(turns(server.host(), "seen", next), script).await;
        let seen = sandbox.run(function, args![server.url("/")]).await.unwrap();
        assert_eq!(seen, json!("3 pieces"), "{function}");
    }
}

#[tokio::test]
async fn both_bodies_are_streamed_concurrently() {
    // An echo: each piece comes back before the next is sent.
    let server = Server::http(|request| async move {
        let (send, body) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = incoming.frame().await {
                send.send(frame.into_data().unwrap()).await.unwrap();
            }
        });
        streamed_response(body)
    })
    .await;
    let script = "
import asyncio
from sandbox.http import fetch
async def main(url):
    to_send = asyncio.Queue()
    async def lines():
        while (line := await to_send.get()) is not None:
            yield line
    received = []
    await to_send.put(b'0\\n')
    async with fetch('POST', url, body=lines()) as response:
        async for line in response.aiter_lines():
            received.append(line)
            await to_send.put(b'%d\\n' % len(received) if len(received) < 4 else None)
    return received
";
    let sandbox = loaded(server.host(), script).await;
    let seen = sandbox.run("main", args![server.url("/")]).await.unwrap();
    assert_eq!(seen, json!(["0", "1", "2", "3"]));
}

#[tokio::test]
async fn failed_upload_is_not_a_complete_body() {
    let (report, mut reports) = mpsc::unbounded_channel();
    let server = Server::http(move |request| {
        let report = report.clone();
        async move {
            let is_complete = request.into_body().collect().await.is_ok();
            report.send(is_complete).unwrap();
            complete_response("")
        }
    })
    .await;
    let script = "
import asyncio
from sandbox.http import fetch
def fail():
    yield b'started'
    raise KeyError('of the source')
async def afail():
    yield b'started'
    await asyncio.sleep(0.001)
    raise KeyError('of the source')
async def never():
    yield b'started'
    await asyncio.Event().wait()
def main(url):
    with fetch('PUT', url, body=fail()):
        pass
async def amain(url):
    async with fetch('PUT', url, body=afail()):
        pass
async def cancelled(url):
    async with asyncio.timeout(0.02):
        async with fetch('PUT', url, body=never()):
            pass
";
    let sandbox = loaded(server.host(), script).await;
    for (function, why) in [
        ("main", "KeyError: 'of the source'"),
        ("amain", "KeyError: 'of the source'"),
        ("cancelled", "TimeoutError"),
    ] {
        let error = sandbox.run(function, args![server.url("/")]).await.unwrap_err();
        assert!(error.to_string().starts_with(why), "{function}: {error}");
        assert_eq!(reports.recv().await, Some(false), "{function}");
    }
}

#[tokio::test]
async fn early_response_ends_the_upload() {
    // The server answers without reading the body, and closes the connection.
    let server =
        Server::raw(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nno!")
            .await;
    let script = "
from sandbox.http import fetch
async def endless():
    while True:
        yield b'x' * 65536
async def main(url):
    async with fetch('PUT', url, body=endless()) as response:
        return [response.status, await response.atext()]
";
    let sandbox = loaded(server.host(), script).await;
    let seen = sandbox.run("main", args![server.url("/")]).await;
    // The reset that a server sends to a client that still writes may arrive before
    // its response (RFC 9112, section 9.6): either outcome is correct.
    match seen {
        Ok(value) => assert_eq!(value, json!([413, "no!"])),
        Err(error) => assert!(error.to_string().starts_with("RequestError: "), "{error}"),
    }
}
