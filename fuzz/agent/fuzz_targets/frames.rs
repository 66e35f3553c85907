//! The frame decoder: any bytes, in chunks of any size, result in a frame, an error, or
//! a request for more bytes; and a frame is unchanged after encoding and decoding.
#![no_main]

use bytes::BytesMut;
use isorun_agent::codec::{Decoder, Frame, MAX_PAYLOAD_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first byte is the size of the chunks of the rest.
    let Some((chunk_size, bytes)) = input.split_first() else { return };
    let frames = decode(bytes, bytes.len().max(1));
    assert_eq!(
        frames,
        decode(bytes, usize::from(*chunk_size).max(1)),
        "the frames depend on the chunk size"
    );
    for frame in frames {
        let mut written = BytesMut::new();
        // Encoding can enlarge JSON: `\u0000` for a byte of a name.
        if frame.encode(&mut written).is_ok() {
            assert_eq!(decode(&written, written.len()), [frame]);
        }
    }
});

/// Decodes the frames at the start of bytes that are received in chunks of one size.
fn decode(bytes: &[u8], chunk_size: usize) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for chunk in bytes.chunks(chunk_size) {
        decoder.buffer().extend_from_slice(chunk);
        loop {
            match decoder.decode() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
        assert!(decoder.buffer().capacity() <= 2 * (MAX_PAYLOAD_BYTES + (1 << 16)));
    }
    frames
}
