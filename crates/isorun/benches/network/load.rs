//! The load generators and servers of the benchmark. It starts itself, in sandboxes and on the
//! machine, as `network --load PROGRAM ARGUMENTS`.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, pki_types::CertificateDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The size of the buffer for one read or write, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// A connection with or without TLS.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Runs the program that the arguments select, and prints its result.
pub async fn run(arguments: &[&str]) {
    match *arguments {
        ["requests", url, connections, seconds] => {
            let (connections, seconds) = (connections.parse().unwrap(), seconds.parse().unwrap());
            println!("{}", requests(url, connections, seconds).await);
        }
        ["pull", address, bytes] => println!("{}", pull(address, bytes.parse().unwrap()).await),
        ["fetch", url] => println!("{}", fetch(url).await),
        ["push", address, bytes] => println!("{}", push(address, bytes.parse().unwrap()).await),
        ["echo", address, times] => println!("{}", echo(address, times.parse().unwrap()).await),
        ["serve", port] => {
            let address = (Ipv4Addr::UNSPECIFIED, port.parse().unwrap());
            let listener = TcpListener::bind(address).await.unwrap();
            serve_http(listener, None).await;
        }
        _ => panic!("{arguments:?}"),
    }
}

/// Measures requests per second over a number of keep-alive connections.
async fn requests(url: &str, connections: usize, seconds: f64) -> f64 {
    let url: hyper::Uri = url.parse().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    let warm_up = Duration::from_millis(500);
    let end = Instant::now() + warm_up + Duration::from_secs_f64(seconds);
    for _ in 0..connections {
        let (url, count) = (url.clone(), Arc::clone(&count));
        tasks.push(tokio::spawn(async move {
            let mut sender = sender(&url).await;
            let host = url.authority().unwrap().as_str().to_owned();
            let path = url.path().to_owned();
            while Instant::now() < end {
                let request = Request::get(&path).header("host", &host);
                let request = request.body(Empty::<Bytes>::new()).unwrap();
                let answer = sender.send_request(request).await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                sender.ready().await.unwrap();
            }
        }));
    }
    tokio::time::sleep(warm_up).await;
    let (start, before) = (Instant::now(), count.load(Ordering::Relaxed));
    for task in tasks {
        task.await.unwrap();
    }
    (count.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64()
}

/// Measures the bytes per second of one response.
async fn fetch(url: &str) -> f64 {
    let url: hyper::Uri = url.parse().unwrap();
    let mut sender = sender(&url).await;
    let host = url.authority().unwrap().as_str().to_owned();
    let request = Request::get(url.path()).header("host", host);
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let start = Instant::now();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame.unwrap().into_data().unwrap().len();
    }
    count as f64 / start.elapsed().as_secs_f64()
}

type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

async fn sender(url: &hyper::Uri) -> Sender {
    let secure = url.scheme_str() == Some("https");
    let name = url.host().unwrap();
    let address = (name, url.port_u16().unwrap_or(if secure { 443 } else { 80 }));
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let stream: Box<dyn Io> = if secure {
        let name = name.to_owned().try_into().unwrap();
        Box::new(TlsConnector::from(client_config()).connect(name, stream).await.unwrap())
    } else {
        Box::new(stream)
    };
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Returns a configuration that trusts the certificates of `SSL_CERT_FILE`.
fn client_config() -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let file = std::env::var("SSL_CERT_FILE").unwrap();
    let read = CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap);
    roots.add_parsable_certificates(read);
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Measures the bytes per second of receiving.
async fn pull(address: &str, bytes: u64) -> f64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"\x01").await.unwrap();
    stream.write_u64(bytes).await.unwrap();
    let mut buffer = vec![0; BUFFER_BYTES];
    stream.read_exact(&mut buffer[..1]).await.unwrap();
    let (start, mut left) = (Instant::now(), bytes - 1);
    while left > 0 {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0);
        left -= count as u64;
    }
    bytes as f64 / start.elapsed().as_secs_f64()
}

/// Measures the bytes per second of sending, until the other end has received everything.
async fn push(address: &str, bytes: u64) -> f64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"\x02").await.unwrap();
    stream.write_u64(bytes).await.unwrap();
    let buffer = vec![7; BUFFER_BYTES];
    let (start, mut left) = (Instant::now(), bytes);
    while left > 0 {
        let count = left.min(BUFFER_BYTES as u64);
        stream.write_all(&buffer[..usize::try_from(count).unwrap()]).await.unwrap();
        left -= count;
    }
    assert_eq!(stream.read_u8().await.unwrap(), 1);
    bytes as f64 / start.elapsed().as_secs_f64()
}

/// Measures the median round-trip time of a byte, in microseconds.
async fn echo(address: &str, times: usize) -> f64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"\x03").await.unwrap();
    let mut samples = Vec::new();
    for _ in 0..times {
        let start = Instant::now();
        stream.write_u8(9).await.unwrap();
        stream.read_u8().await.unwrap();
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    samples.sort_by(f64::total_cmp);
    samples[times / 2]
}

/// Runs the server for `pull`, `push` and `echo`.
pub async fn serve_raw(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        // An error ends this connection only.
        tokio::spawn(async move { answer_raw(stream).await.ok() });
    }
}

async fn answer_raw(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let operation = stream.read_u8().await?;
    if operation == 3 {
        loop {
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
        }
    }
    let mut left = stream.read_u64().await?;
    let mut buffer = vec![7; BUFFER_BYTES];
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        left -= if operation == 1 {
            stream.write_all(&buffer[..count]).await?;
            count as u64
        } else {
            stream.read(&mut buffer[..count]).await? as u64
        };
    }
    if operation == 2 {
        stream.write_u8(1).await?;
    }
    // Wait until the client has read everything.
    let _ = stream.read_u8().await;
    Ok(())
}

/// Runs an HTTP server with small responses, and a large one at `/large/BYTES`.
pub async fn serve_http(listener: TcpListener, tls: Option<TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            stream.set_nodelay(true).ok()?;
            let stream: Box<dyn Io> = match tls {
                Some(tls) => Box::new(tls.accept(stream).await.ok()?),
                None => Box::new(stream),
            };
            let service = service_fn(answer_http);
            let builder = auto::Builder::new(TokioExecutor::new());
            builder.serve_connection(TokioIo::new(stream), service).await.ok()
        });
    }
}

async fn answer_http(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match request.uri().path().strip_prefix("/large/") {
        Some(bytes) => Bytes::from(vec![7; bytes.parse().unwrap()]),
        None => Bytes::from_static(b"{\"object\":\"list\",\"data\":[]}"),
    };
    Ok(Response::new(Full::new(body)))
}
