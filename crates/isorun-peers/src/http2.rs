//! The limits of headers, and the sizes of buffers of HTTP/2 connections, which are the same
//! at both ends.

/// The maximum size of the header of a request, in bytes, as HTTP/2 counts it (RFC 9113,
/// 6.5.2): each field is 32 bytes more than its name and its value.
pub const MAX_REQUEST_HEADER_BYTES: u32 = 96 << 10;

/// The maximum size of the header of a response, in bytes, as HTTP/2 counts it.
pub const MAX_RESPONSE_HEADER_BYTES: u32 = 640 << 10;

/// The maximum number of fields in the header of a request for a WebSocket, and of its
/// response, which HTTP/1.1 carries.
pub(crate) const MAX_HEADER_FIELDS: usize = 1 << 10;

/// The maximum number of bytes of one stream that have been received and not been read.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 128 << 10;

/// The maximum number of bytes of all streams of a connection that have been received and
/// not been read. It is the sum for 1,024 streams, so that streams that are not read do not
/// delay others.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 1024 * STREAM_WINDOW_BYTES;

/// The maximum number of bytes of one stream that wait to be sent.
pub(crate) const MAX_SEND_BUFFER_BYTES: usize = 64 << 10;
