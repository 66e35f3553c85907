//! Responses of a compromised agent, of any bytes: every request of the server ends
//! with a result or an error.
#![no_main]

use std::time::Duration;

use isorun_agent::client;
use isorun_agent::codec::Frame;
use isorun_agent::protocol::{Exec, Hello, Welcome, WriteFile};
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let (client_end, mut agent_end) = tokio::io::duplex(1 << 20);
        let mut sent = bytes::BytesMut::new();
        // Most code after the handshake is reached only with a valid one.
        if which & 0x80 == 0 {
            let welcome = Welcome { version: Hello::SUPPORTED.newest, agent: "fuzzed".to_owned() };
            assert!(Frame::Welcome(welcome).encode(&mut sent).is_ok());
        }
        sent.extend_from_slice(bytes);
        if sent.len() > 1 << 20 {
            return;
        }
        assert!(agent_end.write_all(&sent).await.is_ok());
        assert!(agent_end.shutdown().await.is_ok());
        let request = async {
            match which & 0x7f {
                0 => drop(client::info(client_end).await),
                1 => drop(client::list(client_end, "/".into()).await),
                2 => drop(client::stat(client_end, "/".into()).await),
                3 => {
                    let request = WriteFile { path: "/f".into(), ..WriteFile::default() };
                    drop(client::write_file(client_end, request, &b"content"[..]).await);
                }
                4 => drop(client::remove(client_end, "/f".into()).await),
                _ => {
                    if let Ok(exec) = client::exec(client_end, Exec::default()).await {
                        drop(exec.output(1 << 16).await);
                    }
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), request).await;
        assert!(ended.is_ok(), "the request must end within 5 s");
    });
});
