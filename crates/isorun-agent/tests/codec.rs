//! Frames are decoded as they were encoded, and arbitrary bytes are an error.

use bytes::{Bytes, BytesMut};
use isorun_agent::client::{self, ClientError};
use isorun_agent::codec::{
    CodecError, Decoder, Frame, FrameReader, FrameWriter, MAX_PAYLOAD_BYTES,
};
use isorun_agent::protocol::{
    Exec, Failure, FailureKind, Hello, Reply, Request, Size, Status, Welcome,
};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

fn frames() -> impl Strategy<Value = Frame> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..2000).prop_map(Bytes::from);
    prop_oneof![
        (any::<u32>(), any::<u32>())
            .prop_map(|(oldest, newest)| Frame::Hello(Hello { oldest, newest })),
        ".*".prop_map(|agent| Frame::Welcome(Welcome { version: 1, agent })),
        (prop::collection::vec(".*", 0..4), any::<Option<u64>>(), any::<bool>()).prop_map(
            |(argv, timeout_ms, stdin)| Frame::Request(Request::Exec(Exec {
                argv,
                timeout_ms,
                stdin,
                ..Exec::default()
            }))
        ),
        prop::collection::vec(any::<u8>(), 0..50)
            .prop_map(|path| Frame::Request(Request::Stat { path: path.into() })),
        any::<u64>().prop_map(|bytes| Frame::Reply(Reply::Written { bytes })),
        ".*".prop_map(|message| Frame::Failed(Failure { kind: FailureKind::NoSpace, message })),
        bytes().prop_map(Frame::Data),
        bytes().prop_map(Frame::Stdin),
        bytes().prop_map(Frame::Stdout),
        bytes().prop_map(Frame::Stderr),
        Just(Frame::DataEnd),
        Just(Frame::StdinEnd),
        any::<u32>().prop_map(|pid| Frame::Started { pid }),
        any::<u32>().prop_map(Frame::StdinTaken),
        any::<u32>().prop_map(Frame::Signal),
        any::<(u16, u16)>().prop_map(|(rows, cols)| Frame::Resize(Size { rows, cols })),
        any::<i32>().prop_map(|code| Frame::Exited(Status::Code(code))),
        Just(Frame::Exited(Status::TimedOut)),
    ]
}

proptest! {
    #[test]
    fn frames_round_trip(
        frames in prop::collection::vec(frames(), 0..8),
        cut in 1usize..200,
    ) {
        let mut bytes = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut bytes).unwrap();
        }
        // Independent of how the stream is split into chunks.
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(frame) = decoder.decode().unwrap() {
                found.push(frame);
            }
        }
        prop_assert!(decoder.is_empty());
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn random_bytes_are_an_error_or_incomplete(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&bytes);
        while let Ok(Some(_)) = decoder.decode() {}
        // No input makes it reserve more than one frame.
        prop_assert!(decoder.buffer().capacity() <= MAX_PAYLOAD_BYTES + 8192);
    }

    #[test]
    fn frame_with_a_wrong_byte_does_not_panic(
        frame in frames(),
        index in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).unwrap();
        let index = index.index(bytes.len());
        bytes[index] = byte;
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&bytes);
        while let Ok(Some(_)) = decoder.decode() {}
    }
}

#[test]
fn invalid_frames_have_specific_errors() {
    let decode = |bytes: &[u8]| {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(bytes);
        decoder.decode()
    };
    assert!(matches!(decode(b"\xff\xff\xff\xff\x06"), Err(CodecError::TooLong(_))));
    assert!(matches!(decode(b"\x00\x00\x00\x00\x00"), Err(CodecError::UnknownKind(0))));
    assert!(matches!(decode(b"\x02\x00\x00\x00\x03{}"), Err(CodecError::Payload { kind: 3, .. })));
    assert!(matches!(decode(b"\x02\x00\x00\x00\x0bab"), Err(CodecError::Length { kind: 11, .. })));
    assert!(matches!(decode(b"\x02\x00\x00\x00"), Ok(None)));
    let long = Frame::Data(vec![0; MAX_PAYLOAD_BYTES + 1].into());
    let mut bytes = BytesMut::new();
    assert!(matches!(long.encode(&mut bytes), Err(CodecError::TooLong(_))));
    assert!(bytes.is_empty());
}

/// An attacker controls the agent. Its frames must not harm the client.
#[tokio::test]
async fn client_survives_a_hostile_agent() {
    let welcome = Frame::Welcome(Welcome { version: 1, agent: String::new() });
    let started = Frame::Started { pid: 7 };
    for script in [
        vec![],
        vec![Frame::Welcome(Welcome { version: 99, agent: String::new() })],
        vec![Frame::DataEnd],
        vec![welcome.clone()],
        vec![welcome.clone(), Frame::Exited(Status::Code(0))],
        vec![welcome.clone(), started.clone()],
        vec![welcome.clone(), started.clone(), Frame::StdinTaken(u32::MAX)],
        vec![welcome.clone(), started.clone(), Frame::Reply(Reply::Done)],
        vec![welcome, started, Frame::Stdout("partial".into())],
    ] {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let frames = script.clone();
        let agent = tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(theirs);
            let mut writer = FrameWriter::new(writer);
            for frame in &frames {
                writer.send(frame).await.unwrap();
            }
            writer.shutdown().await.unwrap();
            let mut reader = FrameReader::new(reader);
            while let Ok(Some(_)) = reader.next().await {}
        });
        let exec = Exec { argv: vec!["true".into()], ..Exec::default() };
        let outcome = match client::exec(ours, exec).await {
            Ok(exec) => exec.output(10).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(
            matches!(outcome, Err(ClientError::Disconnected | ClientError::Protocol(_))),
            "{script:?}: {outcome:?}"
        );
        agent.await.unwrap();
    }
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert!(matches!(client::info(ours).await, Err(ClientError::Protocol(_))));
}
