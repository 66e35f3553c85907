//! Which certificates are accepted, in both directions.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use isorun_peers::{
    Authority, ClientOptions, Identity, IdentityError, NodeId, Peer, PeerAddress, PeerBody,
    PeerClient, PeerError, ServeOptions,
};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ServerConfig, SupportedProtocolVersion,
        pki_types::ServerName,
        version::{TLS12, TLS13},
    },
};

use crate::{
    certificates::{Leaf, OperatorAuthority},
    nodes::{Handler, Node, client, event, fetch, get, identity, serve, serve_as, text},
};

/// Returns a service that responds with the peer, and counts the requests.
fn peer_service() -> (Handler, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = Handler::new({
        let calls = Arc::clone(&calls);
        move |request| {
            calls.fetch_add(1, Ordering::Relaxed);
            let Peer(node) = request.extensions().get().unwrap();
            let response = text(node.to_string());
            async { response }
        }
    });
    (handler, calls)
}

async fn operator_node(operator: &OperatorAuthority, handler: Handler) -> Node {
    let leaf = operator.leaf(&[NodeId::random().unwrap().dns_name()]);
    let identity = operator.identity(&leaf).unwrap();
    serve_as(identity, "127.0.0.1:0".parse().unwrap(), handler, ServeOptions::default()).await
}

#[tokio::test]
async fn a_request_has_the_peer_of_its_certificate() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, peer_service().0).await;
    // Each node has its own copy of the authority.
    let copy = Authority::from_pem(authority.to_pem()).unwrap();
    for _ in 0..2 {
        let identity = identity(&copy);
        let own = identity.node().to_string();
        let client = PeerClient::new(identity, ClientOptions::default());
        assert_eq!(fetch(&client, &node.address()).await, own);
    }
}

#[tokio::test]
async fn nodes_with_certificates_of_the_operator_reach_each_other() {
    let operator = OperatorAuthority::new();
    let node = operator_node(&operator, peer_service().0).await;
    let own = NodeId::random().unwrap();
    let identity = operator.identity(&operator.leaf(&[own.dns_name()])).unwrap();
    assert_eq!(identity.node(), &own);
    let client = PeerClient::new(identity, ClientOptions::default());
    assert_eq!(fetch(&client, &node.address()).await, own.to_string());
}

/// Sends a request with HTTP/1.1, without this crate's client. Returns the response, or
/// nothing if the connection was closed without one.
async fn raw_request(
    node: &Node,
    operator: &OperatorAuthority,
    leaf: Option<&Leaf>,
    version: &'static SupportedProtocolVersion,
) -> Option<String> {
    let tcp = TcpStream::connect(node.socket).await.unwrap();
    let name = ServerName::try_from(node.id.dns_name()).unwrap();
    let connector = TlsConnector::from(operator.client_config(leaf, version));
    let mut stream = connector.connect(name, tcp).await.ok()?;
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    (!response.is_empty()).then(|| String::from_utf8(response).unwrap())
}

#[tokio::test]
async fn clients_without_a_valid_certificate_reach_no_service() {
    let operator = OperatorAuthority::new();
    let (handler, calls) = peer_service();
    let node = operator_node(&operator, handler).await;
    let own = NodeId::random().unwrap();
    let own_name = [own.dns_name()];
    let two_names = [own.dns_name(), NodeId::random().unwrap().dns_name()];
    for (case, leaf) in [
        ("none", None),
        ("of another authority", Some(OperatorAuthority::new().leaf(&own_name))),
        ("expired", Some(operator.expired_leaf(&own))),
        (
            "of a server only",
            Some(operator.leaf_with(&own_name, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            })),
        ),
        ("without a name", Some(operator.leaf(&[]))),
        ("with two names", Some(operator.leaf(&two_names))),
        ("with a wildcard", Some(operator.leaf(&["*.isorun.internal".to_owned()]))),
        ("of another domain", Some(operator.leaf(&[format!("{own}.example.com")]))),
        ("with an address", Some(operator.leaf(&["127.0.0.1".to_owned()]))),
    ] {
        let response = event(case, raw_request(&node, &operator, leaf.as_ref(), &TLS13)).await;
        assert_eq!(response, None, "{case}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    // The same request with a valid certificate.
    let leaf = operator.leaf(&own_name);
    let response = raw_request(&node, &operator, Some(&leaf), &TLS13).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with(own.as_str()));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let operator = OperatorAuthority::new();
    let (handler, calls) = peer_service();
    let node = operator_node(&operator, handler).await;
    let leaf = operator.leaf(&[NodeId::random().unwrap().dns_name()]);
    let response = event("a refusal", raw_request(&node, &operator, Some(&leaf), &TLS12)).await;
    assert_eq!(response, None);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn plain_http_is_refused() {
    let (handler, calls) = peer_service();
    let node = serve(&Authority::generate().unwrap(), handler).await;
    let mut stream = TcpStream::connect(node.socket).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut response = Vec::new();
    let _ = event("the end", stream.read_to_end(&mut response)).await;
    assert!(!response.starts_with(b"HTTP"), "{response:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_that_the_peer_does_not_trust_is_told_that_it_is_unreachable() {
    let operator = OperatorAuthority::new();
    let (handler, calls) = peer_service();
    // Trusts another authority as well, as during a change of authorities.
    let node_leaf = operator.leaf(&[NodeId::random().unwrap().dns_name()]);
    let node = serve_as(
        operator.identity(&node_leaf).unwrap(),
        "127.0.0.1:0".parse().unwrap(),
        handler,
        ServeOptions::default(),
    )
    .await;
    let other = OperatorAuthority::new();
    let leaf = other.leaf(&[NodeId::random().unwrap().dns_name()]);
    let [certificate, key, roots] = other.files(&leaf);
    let both = format!(
        "{}{}",
        fs::read_to_string(&roots).unwrap(),
        fs::read_to_string(&operator.files(&node_leaf)[2]).unwrap()
    );
    fs::write(&roots, both).unwrap();
    let identity = Identity::from_files(&certificate, &key, &roots).unwrap();
    let client = PeerClient::new(identity, ClientOptions::default());
    let error = event("an error", client.send(&node.address(), get("/"))).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    assert!(error.is_retryable());
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

/// Runs a TLS server that accepts one connection, and returns the error of a request to it
/// as to a node.
async fn error_from_server(
    config: Arc<ServerConfig>,
    client: &PeerClient,
    node: &NodeId,
) -> PeerError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let address = PeerAddress::new(node.clone(), &url).unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else { return };
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        assert!(!received.windows(8).any(|part| part == b"x-secret"));
    };
    let request =
        http::Request::get("/").header("x-secret", "x-secret").body(PeerBody::empty()).unwrap();
    let (error, ()) =
        event("an error", async { tokio::join!(client.send(&address, request), server) }).await;
    error.unwrap_err()
}

#[tokio::test]
async fn a_server_with_another_certificate_than_that_of_the_node_gets_no_request() {
    let operator = OperatorAuthority::new();
    let (node, other) = (NodeId::random().unwrap(), NodeId::random().unwrap());
    let own = operator.leaf(&[NodeId::random().unwrap().dns_name()]);
    let client = PeerClient::new(operator.identity(&own).unwrap(), ClientOptions::default());
    for names in [
        vec![other.dns_name()],
        vec!["*.isorun.internal".to_owned()],
        vec![node.dns_name(), other.dns_name()],
        vec!["127.0.0.1".to_owned()],
    ] {
        let config = operator.server_config(&operator.leaf(&names));
        let error = error_from_server(config, &client, &node).await;
        assert!(matches!(error, PeerError::WrongNode { .. }), "{names:?}: {error}");
        assert!(error.to_string().contains(node.as_str()), "{error}");
    }
    let expired = operator.server_config(&operator.expired_leaf(&node));
    let foreign = OperatorAuthority::new();
    let foreign = foreign.server_config(&foreign.leaf(&[node.dns_name()]));
    for config in [expired, foreign] {
        let error = error_from_server(config, &client, &node).await;
        assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_node_at_the_url_of_another_is_found() {
    let authority = Authority::generate().unwrap();
    let (handler, calls) = peer_service();
    let node = serve(&authority, handler).await;
    let url = format!("https://{}", node.socket);
    let address = PeerAddress::new(NodeId::random().unwrap(), &url).unwrap();
    let error = client(&authority).send(&address, get("/")).await.unwrap_err();
    let names = vec![node.id.dns_name()];
    assert_eq!(error, PeerError::WrongNode { node: address.node().clone(), names });
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[test]
fn certificates_of_the_operator_that_peers_would_refuse_are_refused_at_once() {
    let operator = OperatorAuthority::new();
    let node = NodeId::random().unwrap();
    let refused = |leaf: &Leaf| operator.identity(leaf).unwrap_err();
    for leaf in [
        operator.expired_leaf(&node),
        OperatorAuthority::new().leaf(&[node.dns_name()]),
        operator.leaf_with(&[node.dns_name()], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    ] {
        let error = refused(&leaf);
        assert!(matches!(error, IdentityError::Untrusted(_)), "{error}");
    }
    for names in [vec![], vec!["a.test".to_owned()], vec![node.dns_name(), "a.test".to_owned()]] {
        let error = refused(&operator.leaf(&names));
        assert!(matches!(&error, IdentityError::InvalidNames { names: found } if *found == names));
    }
    let mut leaf = operator.leaf(&[node.dns_name()]);
    let [certificate, key, roots] = operator.files(&leaf);
    for (mode, is_good) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let result = Identity::from_files(&certificate, &key, &roots);
        match result {
            Ok(identity) => assert!(is_good && identity.node() == &node),
            Err(error) => assert!(!is_good && error.to_string().contains("chmod 600"), "{error}"),
        }
    }
    leaf.key = rcgen::KeyPair::generate().unwrap();
    let error = refused(&leaf);
    assert!(matches!(error, IdentityError::InvalidCertificate(_)), "{error}");
    let error = Identity::from_files(&certificate, &roots, &key).unwrap_err();
    assert!(matches!(error, IdentityError::File { .. } | IdentityError::Permissions { .. }));
}
