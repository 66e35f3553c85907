//! Reads a tar archive entry by entry, in bounded memory.
//!
//! The formats of header blocks are the `tar` crate's. Its own iteration reads the content of extension headers into memory whatever
//! size they claim, which a hostile layer turns into any amount of memory; so
//! the walk from one header to the next is done here, with a limit.

use std::io::{self, Read};

use super::super::limits::Limits;

const BLOCK: u64 = 512;
/// Extension headers before one entry.
const MAX_EXTENSION_HEADERS: u32 = 64;
/// Bytes of the names of one entry's extended attributes: as many as Linux lists.
const MAX_XATTR_NAMES: usize = 64 << 10;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    Directory,
    Fifo,
    /// A character or a block device.
    Device,
}

/// A header with everything that extension headers said about it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    /// Where a link points to.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What is wrong with an archive.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Reading failed: the stream below has an error, or ended too early.
    Read(io::Error),
    /// The archive is broken, or asks for what is not supported.
    Format(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Read(error)
    }
}

/// The walk over an archive.
pub(crate) struct Archive<R> {
    reader: R,
    limits: Limits,
    /// Of the current entry: content, and zeroes up to a whole block.
    content: u64,
    padding: u64,
    done: bool,
}

/// What extension headers say about the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the names and of the values of extended attributes.
    xattr_names: usize,
    xattr_values: u64,
    /// How many headers there were.
    count: u32,
}

impl Extensions {
    /// Adds an extended attribute. All of them together have the size of one
    /// header at most, however many headers there are.
    fn xattr(&mut self, name: &[u8], value: &[u8], limit: u64) -> Result<(), Fault> {
        self.xattr_names += name.len() + 1;
        self.xattr_values += value.len() as u64;
        if self.xattr_names > MAX_XATTR_NAMES || self.xattr_values > limit {
            return Err(Fault::Format(format!(
                "its extended attributes are over the limit of {MAX_XATTR_NAMES} bytes of names \
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

    /// The next entry; what was not read of the last one is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extensions = Extensions::default();
        while !self.done {
            self.skip()?;
            let Some(header) = self.header()? else {
                self.done = true;
                break;
            };
            let size = header.entry_size().map_err(|_| format_fault("its size is no number"))?;
            match header.entry_type().as_byte() {
                b'L' => extensions.path = Some(self.text(size)?),
                b'K' => extensions.link = Some(self.text(size)?),
                b'x' => self.pax(size, &mut extensions)?,
                // Global records of pax: nothing in images relies on them.
                b'g' => drop(self.extension(size)?),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
            extensions.count += 1;
            if extensions.count > MAX_EXTENSION_HEADERS {
                return Err(format_fault("too many extension headers for one entry"));
            }
        }
        if extensions.count > 0 {
            return Err(format_fault("the archive ends after an extension header"));
        }
        Ok(None)
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.reader
    }

    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// Reads all that follows the last entry, so that a digest sees it.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        self.skip()?;
        io::copy(&mut self.reader, &mut io::sink()).map(drop)
    }

    /// The next header, or `None` at the end.
    fn header(&mut self) -> Result<Option<tar::Header>, Fault> {
        let mut block = [0_u8; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                // Some writers leave out the blocks of zeroes at the end.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Fault::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        // The checksum counts its own eight bytes as spaces.
        let sum = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum::<u32>();
        if header.cksum().ok() != Some(sum) {
            return Err(format_fault("this is no tar archive, or its header is damaged"));
        }
        Ok(Some(header))
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, Fault> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type().as_byte() {
            // Before POSIX a folder was a file whose name ends in a slash.
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(format_fault("sparse files are not supported")),
            other => {
                return Err(format_fault(&format!(
                    "entries of type {:?} are not supported",
                    char::from(other)
                )));
            }
        };
        // Whatever a link or a folder claims as its size, nothing follows it.
        let size = if kind == Kind::File { extensions.size.unwrap_or(size) } else { 0 };
        self.expect(size);
        let number = |field: io::Result<u64>, name: &str| {
            field.map_err(|_| format_fault(&format!("its {name} is no number")))
        };
        let id = |value: u64, name: &str| {
            // The largest one means "unchanged" to chown.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| format_fault(&format!("its {name} {value} is out of range")))
        };
        let uid = match extensions.uid {
            Some(uid) => uid,
            None => number(header.uid(), "user")?,
        };
        let gid = match extensions.gid {
            Some(gid) => gid,
            None => number(header.gid(), "group")?,
        };
        Ok(Entry {
            kind,
            path,
            link: extensions
                .link
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default(),
            mode: header.mode().map_err(|_| format_fault("its mode is no number"))? & 0o7777,
            uid: id(uid, "user")?,
            gid: id(gid, "group")?,
            mtime: match extensions.mtime {
                Some(time) => time,
                // A time that is no number is a time that nobody needs.
                None => (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0),
            },
            size,
            xattrs: extensions.xattrs,
        })
    }

    fn pax(&mut self, size: u64, extensions: &mut Extensions) -> Result<(), Fault> {
        let records = self.extension(size)?;
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (key, value, following) =
                record(rest).ok_or_else(|| format_fault("a damaged pax record"))?;
            rest = following;
            match key {
                b"path" => extensions.path = Some(whole(value)?),
                b"linkpath" => extensions.link = Some(whole(value)?),
                b"size" => extensions.size = Some(decimal(value, "size")?),
                b"uid" => extensions.uid = Some(decimal(value, "user")?),
                b"gid" => extensions.gid = Some(decimal(value, "group")?),
                b"mtime" => extensions.mtime = Some(time(value)?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(format_fault("sparse files are not supported"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extensions.xattr(name, value, self.limits.extension)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The content of a GNU header for a long name.
    fn text(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        let mut text = self.extension(size)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    /// The content of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        if size > self.limits.extension {
            return Err(Fault::Format(format!(
                "an extension header of {size} bytes is over the limit of {}",
                self.limits.extension
            )));
        }
        self.expect(size);
        let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read_exact(&mut content)?;
        Ok(content)
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self.content.saturating_add(self.padding);
        (self.content, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.reader).take(rest), &mut io::sink())?;
        if skipped < rest { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// The content of the current entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

fn format_fault(reason: &str) -> Fault {
    Fault::Format(reason.to_owned())
}

/// The first pax record, `LENGTH KEY=VALUE\n`, and what follows it. Values may
/// have anything in them, so only the length tells where one ends; the `tar`
/// crate looks for the line break.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let content = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = content.iter().position(|byte| *byte == b'=')?;
    Some((&content[..equals], &content[equals + 1..], &records[length..]))
}

/// A name out of a pax record, in which a NUL would end it too early.
fn whole(value: &[u8]) -> Result<Vec<u8>, Fault> {
    if value.contains(&0) {
        return Err(format_fault("a name with a NUL in it"));
    }
    Ok(value.to_vec())
}

fn decimal(value: &[u8], name: &str) -> Result<u64, Fault> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format_fault(&format!("its {name} is no number")))
}

/// Seconds since the epoch, with a fraction.
fn time(value: &[u8]) -> Result<(i64, u32), Fault> {
    let fault = || format_fault("its time is no number");
    let text = std::str::from_utf8(value).map_err(|_| fault())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| fault())?;
    let mut nanos = 0_u32;
    for position in 0..9 {
        let digit = match fraction.as_bytes().get(position) {
            Some(byte) => char::from(*byte).to_digit(10).ok_or_else(fault)?,
            None => 0,
        };
        nanos = nanos * 10 + digit;
    }
    // The fraction counts away from zero, the system's counts forward.
    if whole.starts_with('-') && nanos > 0 {
        return Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, expected) in [
            ("0", (0, 0)),
            ("1700000000.25", (1_700_000_000, 250_000_000)),
            ("1.0000000019", (1, 1)),
            ("-1.5", (-2, 500_000_000)),
            ("-3", (-3, 0)),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in ["", "x", "1.x", "1e9"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn records_end_where_their_length_says() {
        assert_eq!(record(b"8 a=b=\n\nrest"), Some((&b"a"[..], &b"b=\n"[..], &b"rest"[..])));
        assert_eq!(record(b"6 a=b\n"), Some((&b"a"[..], &b"b"[..], &b""[..])));
        for damaged in [
            "", "a", "6", "6 a=b", "5 a=b\n", "99 a=b\n", "2 a=b\n", "6 aab\n", "-1 a=b\n",
            "0 a=b\n",
        ] {
            assert_eq!(record(damaged.as_bytes()), None, "{damaged:?}");
        }
    }

    #[test]
    fn a_header_must_have_its_checksum() {
        let mut archive = Archive::new(&[7_u8; 1024][..], &Limits::default());
        assert!(matches!(archive.next_entry(), Err(Fault::Format(_))));
    }

    #[test]
    fn extension_headers_are_bounded() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut archive = Archive::new(&header.as_bytes()[..], &Limits::default());
        match archive.next_entry() {
            Err(Fault::Format(reason)) => assert!(reason.contains("over the limit"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}
