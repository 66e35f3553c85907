//! Files that are read as a whole: regular ones, up to a size.
//!
//! A path may lead to a FIFO, which keeps whoever opens it waiting for ever, to
//! a device such as `/dev/zero`, which has no end, or to a sparse file of any
//! length. None of them is read.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    path::Path,
};

/// Opens a regular file, and says how long it is. Anything else is an error.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        use rustix::fs::OFlags;
        // A FIFO without a writer is opened at once, and then refused.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, metadata))
}

/// Reads a regular file of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    read_rest(&file, metadata.len(), max)
}

/// Reads what is left of a file that is said to have `length` bytes, unless
/// that is more than `max`.
pub(crate) fn read_rest(file: &File, length: u64, max: u64) -> io::Result<Vec<u8>> {
    let too_long =
        |length| io::Error::other(format!("it has {length} bytes: at most {max} are read"));
    if length > max {
        return Err(too_long(length));
    }
    let mut bytes = Vec::new();
    // It may have grown since.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        length if length > max => Err(too_long(length)),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_a_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert!(read(&file, 4).unwrap_err().to_string().contains("at most 4"));

        let sparse = folder.path().join("sparse");
        File::create(&sparse).unwrap().set_len(8 << 30).unwrap();
        let error = read(&sparse, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("8589934592 bytes"), "{error}");

        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [&fifo, &link, Path::new("/dev/zero"), Path::new("/dev/null"), folder.path()] {
            let error = read(path, 1 << 20).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{}: {error}", path.display());
        }
    }
}
