//! Plain bytes out of what layers and archives are compressed with.
//!
//! What it is, is read off the content: media types in the wild lie.

use std::io::{self, BufReader, Read};

/// More than the windows that encoders use by default, and what a frame may
/// make the decoder allocate: 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A reader of the plain content of gzip, zstd, or plain data.
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
    let whole = BufReader::with_capacity(128 << 10, start.chain(reader));
    Ok(match magic {
        // Several members one after another are common: parallel compressors
        // and lazily pulled layers consist of them.
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}
