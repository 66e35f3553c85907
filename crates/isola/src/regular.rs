//! Reads complete regular files, up to a maximum size.
//!
//! A path may lead to a FIFO, on which `open` blocks indefinitely, to a device
//! such as `/dev/zero`, which has no end, or to a sparse file of any length.
//! None of them is read.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    path::Path,
};

/// Opens a regular file and returns it with its metadata. Fails for any other kind
/// of file.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        use rustix::fs::OFlags;
        // A FIFO without a writer is opened without blocking, and refused below.
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

/// Reads the rest of a file whose metadata has the size `length`. Fails if it is
/// longer than `max` bytes.
pub(crate) fn read_rest(file: &File, length: u64, max: u64) -> io::Result<Vec<u8>> {
    let too_long =
        |length| io::Error::other(format!("it has {length} bytes: at most {max} are read"));
    if length > max {
        return Err(too_long(length));
    }
    let mut bytes = Vec::new();
    // The file may have grown since its size was read.
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
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert!(read(&file, 4).unwrap_err().to_string().contains("at most 4"));

        let sparse = directory.path().join("sparse");
        File::create(&sparse).unwrap().set_len(8 << 30).unwrap();
        let error = read(&sparse, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("8589934592 bytes"), "{error}");

        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [&fifo, &link, Path::new("/dev/zero"), Path::new("/dev/null"), directory.path()]
        {
            let error = read(path, 1 << 20).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{}: {error}", path.display());
        }
    }
}
