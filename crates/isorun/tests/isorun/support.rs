//! What the tests share: servers and their clients, services outside of sandboxes, WebSockets.

pub mod cluster;
pub mod server;
pub mod services;
pub mod sockets;
pub mod tls;

pub use server::{Server, Tenant, answer, refused, with_input};
pub use services::ExternalServices;
pub use tls::TlsFiles;

/// A command that prints the result of a connection to a name that no rule allows. If the web
/// were allowed, the name would be looked up, and would not exist; a denied name resolves to an
/// address where connections are reset.
pub const DENIED_PROBE: &str = "python3 -c \"
import socket
try: socket.create_connection(('denied.example', 443), 8).recv(1); print('open')
except OSError as e: print(type(e).__name__)\"";
