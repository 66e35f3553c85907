//! WebSockets of a server.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use super::server::Tenant;

pub type Socket = WebSocketStream<TcpStream>;

pub async fn open(tenant: &Tenant, path: &str) -> Result<Socket, Box<Error>> {
    let address = tenant.address();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    let key = format!("Bearer {}", tenant.key);
    request.headers_mut().insert("authorization", key.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    Ok(client_async(request, stream).await?.0)
}

/// Opens a shell with the parameters of a query, and waits until it is ready. Returns its
/// session, too.
pub async fn open_shell(tenant: &Tenant, id: &str, query: &str) -> (Socket, String) {
    let mut socket = open(tenant, &format!("/v1/runs/{id}/shell{query}")).await.unwrap();
    let ready = next_message(&mut socket).await.1;
    assert_eq!(ready["type"], "ready", "{ready}");
    (socket, ready["session"].as_str().unwrap().to_owned())
}

/// Attaches to a shell whose connection was closed. The server may notice that later.
pub async fn reopen_shell(tenant: &Tenant, id: &str, session: &str) -> Socket {
    loop {
        let path = format!("/v1/runs/{id}/shell?session={session}");
        let mut socket = open(tenant, &path).await.unwrap();
        if next_message(&mut socket).await.1["type"] == "ready" {
            return socket;
        }
    }
}

pub async fn send_json(socket: &mut Socket, message: Value) {
    socket.send(Message::Text(message.to_string().into())).await.unwrap();
}

/// Reads output, with the number of the stream before each part, until the next text message.
pub async fn next_message(socket: &mut Socket) -> (Vec<u8>, Value) {
    let mut output = Vec::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => output.extend_from_slice(&bytes),
            Message::Text(text) => return (output, serde_json::from_str(&text).unwrap()),
            _ => {}
        }
    }
}

/// Reads output until it contains a text.
pub async fn read_until(socket: &mut Socket, text: &str) -> String {
    let mut output = String::new();
    while !output.contains(text) {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => output += &String::from_utf8_lossy(&bytes),
            Message::Text(text) => panic!("the command exited: {text} after {output}"),
            _ => {}
        }
    }
    output
}
