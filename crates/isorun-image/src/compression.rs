//! Decompresses layers and archives.
//!
//! The format is detected from the content, since media types are often wrong.

use std::io::{self, BufReader, Read};

/// The largest zstd window, as the base-2 logarithm of bytes: 128 MiB. It exceeds
/// the defaults of encoders, and bounds the decoder's allocation.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Returns a reader of the uncompressed content of gzip, zstd, or plain data.
pub(crate) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match reader.read(&mut magic[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let start = io::Cursor::new(magic).take(filled as u64);
    let complete = BufReader::with_capacity(128 << 10, start.chain(reader));
    Ok(match magic {
        // Several members one after another are common: parallel compressors
        // and lazily pulled layers consist of them.
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(complete)),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(complete)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => Box::new(complete),
    })
}
