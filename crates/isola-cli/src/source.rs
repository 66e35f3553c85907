//! Reads the source files that are given on the command line.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::failure::Failure;

/// The maximum size of a script or prelude in bytes, which is the limit of guests.
const MAX_SOURCE_BYTES: u64 = 16 << 20;

/// The file name that stands for standard input.
const STDIN: &str = "-";

/// Source code, and its name in tracebacks.
pub struct Script {
    pub name: String,
    pub source: String,
}

impl Script {
    /// Reads a file, or standard input.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let (name, bytes) = if path == Path::new(STDIN) {
            ("<stdin>".to_owned(), read_limited(io::stdin().lock()))
        } else {
            // The directory on the host is not revealed to the guest.
            let name = path.file_name().unwrap_or(path.as_os_str());
            (name.to_string_lossy().into_owned(), open(path).and_then(read_limited))
        };
        let bytes = bytes.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::usage(format!("there is no file {shown}"))
                .hint("give the path of a script, or - for standard input"),
            io::ErrorKind::IsADirectory => Failure::usage(format!("{shown} is a directory")).hint(
                "give the path of a script; to give a script access to a directory, use --mount",
            ),
            io::ErrorKind::FileTooLarge => Failure::usage(format!(
                "{shown} is longer than {MAX_SOURCE_BYTES} bytes"
            ))
            .hint("let the script read its data from a directory that is mounted with --mount"),
            _ => Failure::usage(format!("cannot read {shown}: {error}")),
        })?;
        let source = String::from_utf8(bytes).map_err(|error| {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            Failure::usage(format!("{shown} is not UTF-8 text: see line {line}"))
                .hint("save the script in the encoding UTF-8")
        })?;
        Ok(Self { name, source })
    }
}

/// Opens a file, or a pipe with a writer, such as a shell creates for
/// `<(command)`. Devices are rejected, since they may be endless, and so is a FIFO
/// without a writer, which would block.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    // NONBLOCK: do not wait for a writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() && !kind.is_fifo() {
        return Err(io::Error::other("it is neither a file nor a pipe"));
    }
    // Reading may block: the content may arrive slowly.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    if kind.is_file() {
        return Ok(Box::new(file));
    }
    let mut first = [0];
    if file.read(&mut first)? == 0 {
        return Err(io::Error::other("nothing writes to this pipe"));
    }
    Ok(Box::new(io::Cursor::new(first).chain(file)))
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(Box::new(file))
}

fn read_limited(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_SOURCE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SOURCE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}
