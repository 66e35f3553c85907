//! Reads a tar archive entry by entry, in bounded memory.
//!
//! The `tar` crate parses header blocks. Its iteration is not used, because it reads
//! extension headers of any claimed size into memory, so that a malicious layer can
//! exhaust memory. The iteration here has a limit.

use std::io::{self, Read};

use super::super::limits::Limits;

/// The size of a tar block, in bytes.
const BLOCK_BYTES: u64 = 512;
/// The largest number of extension headers before one entry.
const MAX_EXTENSION_HEADERS: u32 = 64;
/// The largest size of the names of one entry's extended attributes, in bytes: the
/// limit of Linux.
const MAX_XATTR_NAME_BYTES: usize = 64 << 10;

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Hardlink,
    Symlink,
    Directory,
    Fifo,
    /// A character or a block device.
    Device,
}

/// An entry: its header, with the values of extension headers applied.
#[derive(Debug)]
pub(crate) struct ArchiveEntry {
    pub(crate) kind: EntryKind,
    pub(crate) path: Vec<u8>,
    /// The target of a link.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An error of reading an archive.
#[derive(Debug)]
pub(crate) enum ArchiveError {
    /// Reading failed: the underlying stream has an error, or is truncated.
    Read(io::Error),
    /// The archive is corrupt, or uses an unsupported feature.
    Format(String),
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        ArchiveError::Read(error)
    }
}

/// An iterator over the entries of an archive.
pub(crate) struct Archive<R> {
    reader: R,
    limits: Limits,
    /// The remaining content of the current entry, in bytes.
    content: u64,
    /// The bytes from the end of the content to the end of its block.
    padding: u64,
    done: bool,
}

/// The values of extension headers for the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The bytes of the names of extended attributes.
    xattr_names: usize,
    /// The bytes of the values of extended attributes.
    xattr_values: u64,
    /// The number of extension headers.
    count: u32,
}

impl Extensions {
    /// Adds an extended attribute. The limit of one header applies to all of an entry's
    /// headers together.
    fn add_xattr(&mut self, name: &[u8], value: &[u8], limit: u64) -> Result<(), ArchiveError> {
        self.xattr_names += name.len() + 1;
        self.xattr_values += value.len() as u64;
        if self.xattr_names > MAX_XATTR_NAME_BYTES || self.xattr_values > limit {
            return Err(ArchiveError::Format(format!(
                "its extended attributes are over the limit of {MAX_XATTR_NAME_BYTES} bytes of names \
                 and {limit} bytes of values"
            )));
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R, limits: &Limits) -> Self {
        Self { reader, limits: limits.clone(), content: 0, padding: 0, done: false }
    }

    /// Returns the next entry, skipping the unread content of the last one.
    pub(crate) fn next_entry(&mut self) -> Result<Option<ArchiveEntry>, ArchiveError> {
        let mut extensions = Extensions::default();
        while !self.done {
            self.skip_content()?;
            let Some(header) = self.read_header()? else {
                self.done = true;
                break;
            };
            let size = header.entry_size().map_err(|_| format_error("its size is not a number"))?;
            match header.entry_type().as_byte() {
                b'L' => extensions.path = Some(self.read_long_name(size)?),
                b'K' => extensions.link = Some(self.read_long_name(size)?),
                b'x' => self.read_pax(size, &mut extensions)?,
                // Global pax records are ignored: images do not use them.
                b'g' => drop(self.read_extension(size)?),
                _ => return self.parse_entry(&header, size, extensions).map(Some),
            }
            extensions.count += 1;
            if extensions.count > MAX_EXTENSION_HEADERS {
                return Err(format_error("too many extension headers for one entry"));
            }
        }
        if extensions.count > 0 {
            return Err(format_error("the archive ends after an extension header"));
        }
        Ok(None)
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.reader
    }

    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// Reads the rest of the stream after the last entry, so that it is hashed.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        self.skip_content()?;
        io::copy(&mut self.reader, &mut io::sink()).map(drop)
    }

    /// Reads the next header. Returns `None` at the end of the archive.
    fn read_header(&mut self) -> Result<Option<tar::Header>, ArchiveError> {
        let mut block = [0_u8; BLOCK_BYTES as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                // Some writers omit the blocks of zeroes at the end.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        // The checksum is computed with its own eight bytes as spaces.
        let sum = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum::<u32>();
        if header.cksum().ok() != Some(sum) {
            return Err(format_error("not a tar archive, or a corrupt header"));
        }
        Ok(Some(header))
    }

    fn parse_entry(
        &mut self,
        header: &tar::Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<ArchiveEntry, ArchiveError> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type().as_byte() {
            // In the format before POSIX, a directory is a file whose name ends in a
            // slash.
            b'0' | 0 if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => EntryKind::File,
            b'1' => EntryKind::Hardlink,
            b'2' => EntryKind::Symlink,
            b'3' | b'4' => EntryKind::Device,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'S' => return Err(format_error("sparse files are not supported")),
            other => {
                return Err(format_error(&format!(
                    "entries of type {:?} are not supported",
                    char::from(other)
                )));
            }
        };
        // Links and directories have no content, whatever size they claim.
        let size = if kind == EntryKind::File { extensions.size.unwrap_or(size) } else { 0 };
        self.start_content(size);
        let number = |field: io::Result<u64>, name: &str| {
            field.map_err(|_| format_error(&format!("its {name} is not a number")))
        };
        let id = |value: u64, name: &str| {
            // The largest value means "unchanged" to chown.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| format_error(&format!("its {name} {value} is out of range")))
        };
        let uid = match extensions.uid {
            Some(uid) => uid,
            None => number(header.uid(), "user")?,
        };
        let gid = match extensions.gid {
            Some(gid) => gid,
            None => number(header.gid(), "group")?,
        };
        Ok(ArchiveEntry {
            kind,
            path,
            link: extensions
                .link
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default(),
            mode: header.mode().map_err(|_| format_error("its mode is not a number"))? & 0o7777,
            uid: id(uid, "user")?,
            gid: id(gid, "group")?,
            mtime: match extensions.mtime {
                Some(time) => time,
                // An invalid time is not an error, and is replaced by 0.
                None => (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0),
            },
            size,
            xattrs: extensions.xattrs,
        })
    }

    fn read_pax(&mut self, size: u64, extensions: &mut Extensions) -> Result<(), ArchiveError> {
        let records = self.read_extension(size)?;
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (key, value, following) =
                parse_record(rest).ok_or_else(|| format_error("a corrupt pax record"))?;
            rest = following;
            match key {
                b"path" => extensions.path = Some(parse_name(value)?),
                b"linkpath" => extensions.link = Some(parse_name(value)?),
                b"size" => extensions.size = Some(parse_decimal(value, "size")?),
                b"uid" => extensions.uid = Some(parse_decimal(value, "user")?),
                b"gid" => extensions.gid = Some(parse_decimal(value, "group")?),
                b"mtime" => extensions.mtime = Some(parse_time(value)?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(format_error("sparse files are not supported"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extensions.add_xattr(name, value, self.limits.extension)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the content of a GNU header for a long name.
    fn read_long_name(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut text = self.read_extension(size)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    /// Reads the content of an extension header.
    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > self.limits.extension {
            return Err(ArchiveError::Format(format!(
                "an extension header of {size} bytes is over the limit of {} bytes",
                self.limits.extension
            )));
        }
        self.start_content(size);
        let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read_exact(&mut content)?;
        Ok(content)
    }

    /// Starts reading content of `size` bytes.
    fn start_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES;
    }

    /// Skips the unread content and the padding of the current entry.
    fn skip_content(&mut self) -> io::Result<()> {
        let rest = self.content.saturating_add(self.padding);
        (self.content, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.reader).take(rest), &mut io::sink())?;
        if skipped < rest { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Reads the content of the current entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let max_bytes = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if max_bytes == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..max_bytes])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

fn format_error(reason: &str) -> ArchiveError {
    ArchiveError::Format(reason.to_owned())
}

/// Parses the first pax record, `LENGTH KEY=VALUE\n`. Returns its key, its value and
/// the following records. Values may contain line breaks, so only the length
/// determines the end of a record; the `tar` crate searches for a line break.
fn parse_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let content = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = content.iter().position(|byte| *byte == b'=')?;
    Some((&content[..equals], &content[equals + 1..], &records[length..]))
}

/// Parses a name in a pax record. A NUL would truncate it, and is refused.
fn parse_name(value: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    if value.contains(&0) {
        return Err(format_error("a name contains a NUL"));
    }
    Ok(value.to_vec())
}

fn parse_decimal(value: &[u8], name: &str) -> Result<u64, ArchiveError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format_error(&format!("its {name} is not a number")))
}

/// Parses seconds since the epoch, with a fraction.
fn parse_time(value: &[u8]) -> Result<(i64, u32), ArchiveError> {
    let invalid = || format_error("its time is not a number");
    let text = std::str::from_utf8(value).map_err(|_| invalid())?;
    let (integer, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = integer.parse().map_err(|_| invalid())?;
    let mut nanos = 0_u32;
    for position in 0..9 {
        let digit = match fraction.as_bytes().get(position) {
            Some(byte) => char::from(*byte).to_digit(10).ok_or_else(invalid)?,
            None => 0,
        };
        nanos = nanos * 10 + digit;
    }
    // The fraction of a negative time counts backward, but nanoseconds of the system
    // count forward.
    if integer.starts_with('-') && nanos > 0 {
        return Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_fractions_and_signs_are_parsed() {
        for (text, expected) in [
            ("0", (0, 0)),
            ("1700000000.25", (1_700_000_000, 250_000_000)),
            ("1.0000000019", (1, 1)),
            ("-1.5", (-2, 500_000_000)),
            ("-3", (-3, 0)),
        ] {
            assert_eq!(parse_time(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in ["", "x", "1.x", "1e9"] {
            assert!(parse_time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn record_lengths_are_respected() {
        assert_eq!(parse_record(b"8 a=b=\n\nrest"), Some((&b"a"[..], &b"b=\n"[..], &b"rest"[..])));
        assert_eq!(parse_record(b"6 a=b\n"), Some((&b"a"[..], &b"b"[..], &b""[..])));
        for damaged in [
            "", "a", "6", "6 a=b", "5 a=b\n", "99 a=b\n", "2 a=b\n", "6 aab\n", "-1 a=b\n",
            "0 a=b\n",
        ] {
            assert_eq!(parse_record(damaged.as_bytes()), None, "{damaged:?}");
        }
    }

    #[test]
    fn header_checksum_is_verified() {
        let mut archive = Archive::new(&[7_u8; 1024][..], &Limits::default());
        assert!(matches!(archive.next_entry(), Err(ArchiveError::Format(_))));
    }

    #[test]
    fn extension_headers_are_bounded() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut archive = Archive::new(&header.as_bytes()[..], &Limits::default());
        match archive.next_entry() {
            Err(ArchiveError::Format(reason)) => {
                assert!(reason.contains("over the limit"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
}
