//! What the host holds of the bodies that a guest sends.

use http_body_util::BodyExt as _;
use isola::{Limits, Runtime, args};
use serde_json::json;

use crate::{
    fixture::{events, results, started_with},
    server::{Server, whole},
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
    # Past the package, which cuts pieces.
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
async fn what_the_host_holds_of_them_is_bounded() {
    let server = Server::http(|request| async move {
        let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
        whole(format!("{}", body.unwrap_or_default()))
    })
    .await;
    let limits = Limits { max_held_memory: 1 << 20, ..Limits::default() };
    let sandbox = started_with(Runtime::Python, limits, server.host()).await;
    sandbox.load_script(SCRIPT).await.unwrap();
    let all = events(sandbox.run_stream("main", args![server.url("/")]).unwrap());
    let (items, end) = results(&all.await);
    let refused = json!("what is under way holds more than 1048576 bytes");
    let expected = [json!(512 << 10), refused.clone(), json!(4 << 20), json!(4 << 20), refused];
    let items: Vec<serde_json::Value> =
        items.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
    assert_eq!(items[..5], expected);
    // What was refused is not held either.
    assert_eq!(items[5..], [json!(512 << 10)], "{end:?}");
}
