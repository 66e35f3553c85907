//! Any bytes, in any pieces: a frame, an error, or not enough; and what is a
//! frame is the same one after it was written and read again.
#![no_main]

use bytes::BytesMut;
use isorun_agent::codec::{Decoder, Frame, MAX_PAYLOAD};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first byte says how the rest is cut.
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(whole, decode(bytes, usize::from(*cut).max(1)), "the cut changes what is read");
    for frame in whole {
        let mut written = BytesMut::new();
        // JSON can grow by being written: `\u0000` for a byte of a name.
        if frame.encode(&mut written).is_ok() {
            assert_eq!(decode(&written, written.len()), [frame]);
        }
    }
});

/// The frames at the start of some bytes that come in pieces of one size.
fn decode(bytes: &[u8], piece: usize) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.decode() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
        assert!(decoder.buffer().capacity() <= 2 * (MAX_PAYLOAD + (1 << 16)));
    }
    frames
}
