//! A guest that took over its agent answers with any bytes: every request of the
//! server ends, by a result or by an error.
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
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut said = bytes::BytesMut::new();
        // Most of what is beyond the greeting is reached only after a good one.
        if which & 0x80 == 0 {
            let welcome = Welcome { version: Hello::OURS.newest, agent: "fuzzed".to_owned() };
            assert!(Frame::Welcome(welcome).encode(&mut said).is_ok());
        }
        said.extend_from_slice(bytes);
        if said.len() > 1 << 20 {
            return;
        }
        assert!(theirs.write_all(&said).await.is_ok());
        assert!(theirs.shutdown().await.is_ok());
        let asked = async {
            match which & 0x7f {
                0 => drop(client::info(ours).await),
                1 => drop(client::list(ours, "/".into()).await),
                2 => drop(client::stat(ours, "/".into()).await),
                3 => {
                    let request = WriteFile { path: "/f".into(), ..WriteFile::default() };
                    drop(client::write_file(ours, request, &b"content"[..]).await);
                }
                4 => drop(client::remove(ours, "/f".into()).await),
                _ => {
                    if let Ok(exec) = client::exec(ours, Exec::default()).await {
                        drop(exec.output(1 << 16).await);
                    }
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), asked).await;
        assert!(ended.is_ok(), "a request hangs");
    });
});
