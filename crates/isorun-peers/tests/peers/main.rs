//! Tests of connections between nodes, with real sockets on the loopback interface.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bodies;
mod certificates;
mod failures;
mod headers;
mod limits;
mod nodes;
mod proxy;
mod shutdown;
mod tls;
mod websockets;
