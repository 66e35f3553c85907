//! Secrets on the way to their hosts: every kind of request is forwarded, and whatever a guest
//! or a host does, neither the secret nor the response to another request reaches the guest.

use std::time::{Duration, Instant};

use serde_json::json;
use test_macros::server_test;
use tokio::process::Command;

use crate::support::{
    ExternalServices, Server,
    services::{PLACEHOLDER, SECRET},
};

const HOST: &str = "api.openai.com";

/// Creates a sandbox that may use the secret at three ports: a regular one, one whose
/// certificate is not trusted, and one that never responds.
async fn create(server: &Server) -> String {
    let at = |port: u16| json!({ "value": SECRET, "host": HOST, "port": port });
    let credentials =
        json!({ "OPENAI_API_KEY": SECRET, "UNTRUSTED": at(8443), "SILENT": at(9443) });
    server.create_with(json!({ "credentials": credentials, "network": { "allow": [HOST] } })).await
}

async fn python(server: &Server, run: &str, code: &str) -> String {
    let output = server.exec(run, &format!("python3 - <<'EOF'\n{code}\nEOF")).await;
    assert_eq!(output["exit_code"], 0, "{output}");
    output["stdout"].as_str().unwrap().to_owned()
}

/// The common part of the programs in the sandbox: `secure` connects to the service, and
/// `plain` to the proxy's base URL, with the path prefix of the service.
const CONNECT: &str = "
import os, socket, ssl, sys, time
host, key = 'api.openai.com', os.environ['OPENAI_API_KEY']
auth = f'Authorization: Bearer {key}\\r\\n'
def secure(port=443):
    s = socket.create_connection((host, port), 20)
    return ssl.create_default_context().wrap_socket(s, server_hostname=host), ''
def plain():
    return socket.create_connection(('192.0.0.1', 80), 20), '/' + host
def everything(s):
    data = b''
    try:
        while True:
            piece = s.recv(65536)
            if not piece: break
            data += piece
    except OSError: pass
    return data
";

#[server_test]
async fn events_and_websockets_are_forwarded() {
    let services = ExternalServices::start(1, &[HOST]).await;
    let server = services.server(&[]);
    let run = create(&server).await;
    // Events arrive one by one.
    let events = r#"
import json, os, time, urllib.request
for base in ('https://api.openai.com/v1', os.environ['OPENAI_BASE_URL']):
    order = json.dumps({'model': 'm', 'stream': True, 'messages': []}).encode()
    headers = {'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY'], 'Content-Type': 'application/json'}
    answer = urllib.request.urlopen(urllib.request.Request(base + '/chat/completions', order, headers), timeout=20)
    words, times = [], []
    for line in answer:
        if line.startswith(b'data: {'):
            words.append(json.loads(line[6:])['choices'][0]['delta'].get('content', ''))
            times.append(time.monotonic())
    print(''.join(words), times[-1] - times[0] > 0.9)
"#;
    let output = python(&server, &run, events).await;
    assert_eq!(output, "The answer is 42. True\nThe answer is 42. True\n");
    let talk = format!(
        "{CONNECT}
def exactly(s, n):
    data = b''
    while len(data) < n:
        piece = s.recv(n - len(data))
        assert piece, data
        data += piece
    return data
for s, prefix in (secure(), plain()):
    s.sendall(f'GET {{prefix}}/ws HTTP/1.1\\r\\nHost: {{host if not prefix else \"192.0.0.1\"}}\\r\\n{{auth}}Connection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n\\r\\n'.encode())
    head = b''
    while b'\\r\\n\\r\\n' not in head: head += exactly(s, 1)
    print(head.split(b'\\r\\n')[0].decode())
    for text in (b'a', b'hello' * 20):
        mask = b'\\1\\2\\3\\4'
        s.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
        kind, length = exactly(s, 2)
        if length == 126: length = int.from_bytes(exactly(s, 2), 'big')
        print(exactly(s, length) == text * 2)
"
    );
    let output = python(&server, &run, &talk).await;
    let one = "HTTP/1.1 101 Switching Protocols\nTrue\nTrue\n";
    assert_eq!(output, one.repeat(2));
    let requests = services.take_requests();
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert!(requests.iter().all(|(_, real)| *real), "{requests:?}");
}

/// The directory in which `cargo xtask setup` installs the client library of OpenAI.
const LIBRARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/openai");

#[server_test]
async fn openai_client_library_works_unchanged() {
    let services = ExternalServices::start(9, &[HOST]).await;
    let server = services.server(&[]);
    let packed = Command::new("tar").args(["-C", LIBRARY, "-c", "."]).output().await.unwrap();
    assert!(packed.status.success(), "{packed:?}");
    let run = create(&server).await;
    server.upload(&run, "/srv/library.tar", packed.stdout).await;
    server.exec(&run, "mkdir /srv/library && tar -C /srv/library -xf /srv/library.tar").await;
    // The key and the base URL come from the environment.
    let code = r#"
import os, sys, time
sys.path.insert(0, '/srv/library')
import openai
print(os.environ['OPENAI_API_KEY'])
question = {'model': 'm', 'messages': [{'role': 'user', 'content': 'What is it?'}]}
for base in (None, 'https://api.openai.com/v1'):
    client = openai.OpenAI(base_url=base, max_retries=0, timeout=20)
    print(client.base_url, client.models.list().data)
    print(client.chat.completions.create(**question).choices[0].message.content)
    words, times = [], []
    for part in client.chat.completions.create(stream=True, **question):
        words.append(part.choices[0].delta.content or '')
        times.append(time.monotonic())
    print(''.join(words), times[-1] - times[0] > 0.9)
"#;
    let output = python(&server, &run, code).await;
    let one = "[]\nThe answer is 42.\nThe answer is 42. True\n";
    let expected = format!(
        "{PLACEHOLDER}\nhttp://192.0.0.1/api.openai.com/v1/ {one}https://api.openai.com/v1/ {one}"
    );
    assert_eq!(output, expected);
    let requests = services.take_requests();
    let what = ["GET /v1/models", "POST /v1/chat/completions", "POST /v1/chat/completions"];
    let what = what.repeat(2).into_iter().map(|what| (what.to_owned(), true));
    assert_eq!(requests, what.collect::<Vec<_>>());
}

#[server_test]
async fn echoed_secret_is_redacted() {
    let services = ExternalServices::start(2, &[HOST]).await;
    let server = services.server(&[]);
    let run = create(&server).await;
    let code = r#"
import os, urllib.request
for base in ('https://api.openai.com', os.environ['ISORUN_PROXY_URL'] + '/api.openai.com'):
    for path in ('/echo', '/echo?pieces'):
        headers = {'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY'], 'Accept-Encoding': 'gzip, br'}
        answer = urllib.request.urlopen(urllib.request.Request(base + path, headers=headers), timeout=20)
        body = answer.read()
        length = answer.headers['content-length']
        print(path, length is None or int(length) == len(body), answer.headers['x-echo'])
        print(body.decode())
"#;
    let output = python(&server, &run, code).await;
    assert!(!output.contains(SECRET), "{output}");
    // The replacement is as long as the secret, so that lengths remain valid.
    let hidden = &PLACEHOLDER[..SECRET.len()];
    assert_eq!(output.matches(&format!("authorization: Bearer {hidden}\n")).count(), 4, "{output}");
    for path in ["/echo", "/echo?pieces"] {
        let line = format!("{path} True {PLACEHOLDER}\n");
        assert_eq!(output.matches(&line).count(), 2, "{output}");
    }
    // The secret could not be found in a compressed response.
    assert_eq!(output.matches("accept-encoding: identity\n").count(), 4, "{output}");
    assert!(services.take_requests().iter().all(|(_, real)| *real));
}

#[server_test]
async fn upstream_failures_are_distinguished() {
    let services = ExternalServices::start(3, &[HOST]).await;
    let server = services.server(&["--credential-timeout", "2s"]);
    let run = create(&server).await;
    let code = r#"
import json, os, time, urllib.error, urllib.request
def ask(url):
    started = time.monotonic()
    headers = {'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']}
    try: print(urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30).read())
    except urllib.error.HTTPError as e: print(e.code, json.load(e)['error']['message'])
    if time.monotonic() - started > 8: print('slow')
ask('https://api.openai.com:8443/v1/models')
ask('https://api.openai.com:9443/v1/models')
ask('https://api.openai.com/never')
ask(os.environ['ISORUN_PROXY_URL'] + '/api.openai.com/never')
"#;
    let output = python(&server, &run, code).await;
    let lines: Vec<&str> = output.lines().collect();
    assert!(
        lines[0].starts_with("502 api.openai.com: its certificate does not verify"),
        "{output}"
    );
    let late = "504 api.openai.com: it did not answer in time";
    assert_eq!(lines[1..], [late, late, late], "{output}");
    // Only the trusted host received the secret.
    assert!(services.take_requests().iter().all(|(what, _)| what.contains("/never")));
    server.assert_served().await;
}

#[server_test]
async fn smuggled_requests_and_slow_heads_are_not_forwarded() {
    let services = ExternalServices::start(4, &[HOST]).await;
    let server = services.server(&[]);
    let run = create(&server).await;
    let code = format!(
        "{CONNECT}
inner = 'GET /smuggled HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'
heads = [
    f'Content-Length: {{len(inner) + 5}}\\r\\nTransfer-Encoding: chunked',
    'Transfer-Encoding: chunked, identity',
    'Transfer-Encoding: xchunked',
    'Transfer-Encoding : chunked',
    'Transfer-Encoding:\\x0bchunked',
    f'Content-Length: 0\\r\\nContent-Length: {{len(inner)}}',
    'Content-Length: +5',
    f'Connection: close, Content-Length\\r\\nContent-Length: {{len(inner) + 5}}',
]
for head in heads:
    for connect in (secure, plain):
        s, prefix = connect()
        target = host if connect is secure else '192.0.0.1'
        s.sendall(f'POST {{prefix}}/v1/models HTTP/1.1\\r\\nHost: {{target}}\\r\\n{{auth}}{{head}}\\r\\n\\r\\n0\\r\\n\\r\\n{{inner}}'.encode())
        s.settimeout(2)
        output = everything(s)
        # Behind the first request the proxy sees one for another host, without a secret.
        print(output.split(b'\\r\\n')[0].decode() or 'nothing')
        s.close()
# A second response that the host was not asked for is not forwarded.
s, _ = secure()
ask = lambda path: s.sendall(f'GET {{path}} HTTP/1.1\\r\\nHost: {{host}}\\r\\n{{auth}}\\r\\n'.encode())
ask('/split')
output = b''
try:
    while b'ok' not in output.partition(b'\\r\\n\\r\\n')[2]:
        piece = s.recv(65536)
        if not piece: break
        output += piece
except OSError: pass
ask('/v1/models')
s.settimeout(2)
output += everything(s)
print('twice', b'smuggled' in output)
started = time.monotonic()
for connect in (secure, plain):
    s, prefix = connect()
    s.sendall(f'GET {{prefix}}/v1/slow HTTP/1.1\\r\\nHos'.encode())
    output = everything(s)
    print('cut off', 8 < time.monotonic() - started < 30)
"
    );
    let started = Instant::now();
    let output = python(&server, &run, &code).await;
    assert!(started.elapsed() < Duration::from_secs(90));
    assert!(output.ends_with("twice False\ncut off True\ncut off True\n"), "{output}");
    let requests = services.take_requests();
    let smuggled = |(what, real): &&(String, bool)| {
        what.contains("/slow") || what.contains("/smuggled") && *real
    };
    assert_eq!(requests.iter().find(smuggled), None, "{requests:?}");
    server.assert_served().await;
}

#[server_test]
async fn websocket_is_reset_when_the_rules_change() {
    let services = ExternalServices::start(8, &[HOST]).await;
    let server = services.server(&[]);
    let run = create(&server).await;
    let code = format!(
        "{CONNECT}
s, prefix = plain()
s.sendall(f'GET {{prefix}}/ws HTTP/1.1\\r\\nHost: 192.0.0.1\\r\\n{{auth}}Connection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n\\r\\n'.encode())
head = b''
while b'\\r\\n\\r\\n' not in head: head += s.recv(1)
open('/srv/open', 'w').close()
try: s.recv(1); print('a good end')
except ConnectionResetError: print('reset')
"
    );
    let talking = python(&server, &run, &code);
    let changing = async {
        server.exec(&run, "until test -e /srv/open; do sleep 0.05; done").await;
        let rules = ["net", "set", &run, "--network", "locked-down"];
        assert!(server.run(&rules).await.status.success());
    };
    let (output, ()) = tokio::join!(talking, changing);
    assert_eq!(output, "reset\n");
}
