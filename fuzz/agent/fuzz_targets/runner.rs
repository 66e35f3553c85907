//! The frames of an interpreter, of any bytes in chunks of any size: each is passed on in
//! parts of bounded size, or refused.
#![no_main]

use isorun_agent::runner::{MAX_PAYLOAD_BYTES, Part, PartDecoder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else { return };
    let mut decoder = PartDecoder::default();
    let mut open = None;
    let mut length = 0;
    for chunk in bytes.chunks(usize::from(*size).max(1)) {
        decoder.buffer().extend_from_slice(chunk);
        loop {
            match decoder.decode() {
                Ok(None) => break,
                Err(error) => return assert!(!error.to_string().is_empty()),
                Ok(Some(Part::Start(kind))) => {
                    assert!(open.replace(kind).is_none(), "a frame starts within another");
                    length = 0;
                }
                Ok(Some(Part::Data(data))) => {
                    assert!(open.is_some() && !data.is_empty());
                    length += data.len();
                    assert!(length <= MAX_PAYLOAD_BYTES);
                }
                Ok(Some(Part::End(kind))) => assert_eq!(open.take(), Some(kind)),
            }
        }
    }
});
