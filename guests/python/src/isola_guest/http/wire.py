"""Requests as the bytes that an HTTP/1.1 client sends (RFC 9112), and heads of responses."""

from http import HTTPStatus

# The maximum size of a request's head in bytes. The host allows fields of 256 KiB.
_MAX_HEAD_BYTES = 512 * 1024

# The maximum length in bytes of a line between the chunks of a body.
_MAX_LINE_BYTES = 4096

# Fields that concern one connection. A client sets them for the connection that it
# believes to have; the host has one of its own.
_OF_CONNECTION = {
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
}


class RequestHead:
    """The method, target and fields of a request."""

    __slots__ = ("method", "target", "fields", "length", "is_chunked")

    def __init__(self, method, target, fields):
        self.method = method
        self.target = target
        self.fields = fields
        self.is_chunked = any(name.lower() == "transfer-encoding" for name, _ in fields)
        lengths = {value for name, value in fields if name.lower() == "content-length"}
        if len(lengths) > 1 or (lengths and self.is_chunked):
            raise ValueError("the length of the request's body is given twice")
        self.length = _length(lengths.pop()) if lengths else None

    @classmethod
    def parse(cls, data):
        """Reads a head without the empty line at its end."""
        line, *lines = data.decode("latin-1").split("\r\n")
        try:
            method, target, _ = line.split(" ")
        except ValueError:
            raise ValueError(f"{line[:100]!r} does not begin a request of HTTP/1.1") from None
        fields = []
        for text in lines:
            name, colon, value = text.partition(":")
            if not colon:
                raise ValueError(f"{text[:100]!r} is not a header field")
            fields.append((name, value.strip()))
        return cls(method, target, fields)


def url_and_fields(head, scheme, host, port):
    """Returns the URL of a request, and the fields that the host sends.

    Raises a `ValueError` for a request that the host cannot send: to a proxy, with another
    `Host` than that of the URL, or with a change of the protocol.
    """
    if head.method == "CONNECT" or not head.target.startswith(("/", "?")):
        raise ValueError(
            "a sandbox sends no requests to proxies: its host sends them, and may use one;"
            " remove the proxy from the client's settings and from HTTP_PROXY and HTTPS_PROXY"
        )
    authority = authority_of(host, port, scheme)
    fields = []
    for name, value in head.fields:
        folded = name.lower()
        if folded == "host":
            check_host(value, scheme, host, port)
        elif folded == "upgrade":
            raise ValueError(f"a sandbox speaks only HTTP: a change to {value!r} is not possible")
        elif folded not in _OF_CONNECTION:
            fields.append((name, value))
    target = head.target if head.target.startswith("/") else f"/{head.target}"
    return f"{scheme}://{authority}{target}", fields


def authority_of(host, port, scheme):
    """Returns the host and port as in a URL, without the scheme's usual port."""
    name = f"[{host}]" if ":" in host else host
    if not name.isascii():
        name = name.encode("idna").decode()
    return name if port == default_port(scheme) else f"{name}:{port}"


def default_port(scheme):
    """Returns the port of `http` or `https`."""
    return 443 if scheme == "https" else 80


def check_host(value, scheme, host, port):
    """Raises a `ValueError` if the field `Host` names another host than the URL."""
    authority = authority_of(host, port, scheme).lower()
    given = value.lower().rstrip(".")
    usual = f":{default_port(scheme)}"
    if given.removesuffix(usual) != authority.removesuffix(usual).rstrip("."):
        raise ValueError(
            f"the field Host is {value[:200]!r}, but the request goes to {authority!r}:"
            " a sandbox's host sets that field"
        )


def is_of_connection(name):
    """Returns whether a field concerns one connection, and not the message."""
    return name.lower() in _OF_CONNECTION or name.lower() == "upgrade"


def reason_of(status):
    """Returns the reason phrase of a status, which the host does not pass on."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def response_head(status, fields, has_body):
    """Returns the head of a response as bytes, and whether its body is to be chunked.

    The body has the length that the server gave, or is chunked, so that a client can
    read its pieces as they arrive. The connection is never used again.
    """
    lines = [f"HTTP/1.1 {status} {reason_of(status)}"]
    lines += (f"{name}: {value}" for name, value in fields if not is_of_connection(name))
    is_chunked = has_body and all(name.lower() != "content-length" for name, _ in fields)
    if is_chunked:
        lines.append("transfer-encoding: chunked")
    lines.append("connection: close\r\n\r\n")
    return "\r\n".join(lines).encode("latin-1"), is_chunked


class RequestReader:
    """Reads one request from bytes that arrive in any pieces."""

    def __init__(self):
        self.head = None
        self.is_complete = False
        # The bytes that were not read yet, the rest of an unfinished line.
        self._data = b""
        # The number of bytes that are missing of the body, or of the current chunk.
        self._missing = 0
        # What is expected next in a chunked body.
        self._read_next = self._read_chunk_line

    def feed(self, data):
        """Takes some more bytes of the request. Returns the pieces of the body in them."""
        data = self._data + data if self._data else bytes(data)
        self._data = b""
        if self.is_complete:
            if data:
                raise ValueError("a connection is used for one request")
            return []
        if self.head is None:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._keep(data, _MAX_HEAD_BYTES, "the request's head")
                return []
            self.head = RequestHead.parse(data[:end])
            self._missing = self.head.length or 0
            data = data[end + 4 :]
        return self._pieces(data)

    def _pieces(self, data):
        pieces = []
        view = memoryview(data)
        while not self.is_complete:
            if self._missing:
                piece = view[: self._missing]
                if not piece:
                    break
                pieces.append(piece)
                self._missing -= len(piece)
                view = view[len(piece) :]
            elif not self.head.is_chunked:
                self.is_complete = True
            else:
                line, end, _ = bytes(view[: _MAX_LINE_BYTES + 2]).partition(b"\r\n")
                if not end:
                    self._keep(bytes(view), _MAX_LINE_BYTES, "a line of the chunked body")
                    return pieces
                view = view[len(line) + 2 :]
                self._read_next(line)
        if view:
            raise ValueError("a connection is used for one request")
        return pieces

    def _keep(self, data, limit, what):
        if len(data) > limit:
            raise ValueError(f"{what} exceeds {limit} bytes")
        self._data = data

    def _read_chunk_line(self, line):
        size = line.partition(b";")[0].strip()
        try:
            self._missing = int(size, 16) if size.isalnum() else -1
        except ValueError:
            self._missing = -1
        if self._missing < 0:
            raise ValueError(f"{line[:100]!r} is not the size of a chunk")
        self._read_next = self._read_chunk_end if self._missing else self._read_trailer

    def _read_chunk_end(self, line):
        if line:
            raise ValueError("a chunk is longer than its size")
        self._read_next = self._read_chunk_line

    def _read_trailer(self, line):
        if line:
            raise ValueError("a sandbox sends no trailers after a body")
        self.is_complete = True


def _length(text):
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise ValueError("content-length must be one number of bytes below 2**63")
    return int(text)
