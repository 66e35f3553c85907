"""Sockets for clients that speak HTTP/1.1 over one: `http.client` and `urllib3`.

What a client writes is read as a request and sent by the host; the response is given as
the bytes that a server would have sent. TLS is the host's, too.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import errno
import io
import os
import socket

from wit_world.imports import host as _host

from isola_guest.http import wire
from isola_guest.pending import PushedExchange, RequestError, run_blocking

# The maximum size in bytes of a body that is sent at once, and of a piece of a longer one.
_MAX_PIECE_BYTES = 256 * 1024

_BUFFER_BYTES = 64 * 1024


def create_connection(address, timeout=socket._GLOBAL_DEFAULT_TIMEOUT, source_address=None):
    """Returns a socket for HTTP, in place of `socket.create_connection`.

    Nothing is connected yet: the host connects when it has the request.
    """
    return HostSocket(address, timeout, waits_for_response=True)


def with_host_tls(create):
    """Returns `SSLSocket._create` for a library whose sockets can be those of the host."""
    create = create.__func__

    def _create(cls, sock, *args, server_hostname=None, **kwargs):
        if isinstance(sock, HostSocket):
            sock.start_tls(server_hostname)
            return sock
        return create(cls, sock, *args, server_hostname=server_hostname, **kwargs)

    return classmethod(_create)


def change_connecting(module):
    """Changes `urllib3.util.connection`."""
    default = module._DEFAULT_TIMEOUT

    def create_connection(address, timeout=default, source_address=None, socket_options=None):
        """Returns a socket for HTTP. The host connects when it has the request."""
        if timeout is default:
            timeout = socket._GLOBAL_DEFAULT_TIMEOUT
        # The client sets the limit for reading after it has sent the request.
        return HostSocket(address, timeout, waits_for_response=False)

    module.create_connection = create_connection


def change_waiting(module):
    """Changes `urllib3.util.wait`, which asks whether a response has begun."""
    real = module.wait_for_read

    def wait_for_read(sock, timeout=None):
        """Waits for reading to be available on a given socket."""
        return sock.has_response if isinstance(sock, HostSocket) else real(sock, timeout)

    module.wait_for_read = wait_for_read


class HostSocket:
    """A socket for one request of HTTP/1.1, which the host sends."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = 0

    _exchange = None

    def __init__(self, address, timeout, waits_for_response):
        self._host, self._port = address[0].strip("[]"), int(address[1])
        if timeout is socket._GLOBAL_DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        self._scheme = "http"
        self._reader = wire.RequestReader()
        self._fields = self._url = None
        # The part of the body that was not passed to the host yet.
        self._body = bytearray()
        self._is_streamed = False
        # False once the host reads no more of the body.
        self._is_body_wanted = True
        # Whether the client's own error for a failed request is the one for sending.
        self._waits_for_response = waits_for_response
        # The bytes that the client reads next, or the error in their place.
        self._ready = memoryview(b"")
        self._error = None
        self._has_head = self._is_chunked = self._is_at_end = False
        self._is_closed = False
        self._files = 0
        self.settimeout(timeout)

    # Sending.

    def sendall(self, data, flags=0, /):
        """Takes some more bytes of the request."""
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            pieces = self._reader.feed(memoryview(data).cast("B"))
            head = self._reader.head
            if head is not None and self._url is None:
                self._url, self._fields = wire.url_and_fields(
                    head, self._scheme, self._host, self._port
                )
                self._is_streamed = head.is_chunked or (head.length or 0) > _MAX_PIECE_BYTES
        except ValueError as error:
            raise ConnectionError(str(error)) from None
        if head is None:
            return
        if self._exchange is None and self._is_streamed:
            self._start(_host.RequestBody_Pieces(head.length))
        for piece in pieces:
            self._take(piece)
        if self._reader.is_complete:
            self._finish()

    def send(self, data, flags=0, /):
        """Takes some more bytes of the request. Returns their number."""
        self.sendall(data, flags)
        return memoryview(data).nbytes

    def _take(self, piece):
        while piece:
            room = _MAX_PIECE_BYTES - len(self._body)
            self._body += piece[:room]
            piece = piece[room:]
            # Chunks are sent as they come: another part of the program may wait for them.
            if self._is_streamed and (piece or self._reader.head.is_chunked):
                self._send_piece()

    def _send_piece(self):
        piece, self._body = bytes(self._body), bytearray()
        if not piece or not self._is_body_wanted:
            return
        try:
            self._exchange.timeout = self._timeout
            self._is_body_wanted = run_blocking(self._exchange.send(piece))
        except TimeoutError:
            self._end()
            raise
        except RequestError as error:
            self._end()
            raise ConnectionError(str(error)) from None

    def _finish(self):
        if self._is_streamed:
            self._send_piece()
            self._exchange.finish()
        elif self._reader.head.length is None:
            self._start(_host.RequestBody_None_())
        else:
            self._start(_host.RequestBody_Whole(bytes(self._body)))
            self._body = bytearray()
        if self._waits_for_response:
            try:
                self._read_head()
            except TimeoutError as error:
                # Clients expect it from reading.
                self._error = error

    def _start(self, body):
        method = self._reader.head.method
        request = _host.Request(method, self._url, self._fields, body, None)
        try:
            self._exchange = PushedExchange(request, blocking=True)
        except RequestError as error:
            raise ConnectionError(str(error)) from None

    # Receiving.

    @property
    def has_response(self):
        """Whether the response, or the error in its place, has arrived."""
        return self._exchange is not None and self._exchange.has_response

    def _read_head(self):
        head = self._received(self._exchange.head)
        method = self._reader.head.method
        has_body = method != "HEAD" and head.status not in (204, 304)
        data, self._is_chunked = wire.response_head(head.status, head.headers, has_body)
        self._has_head = True
        self._is_at_end = not has_body
        body = self._framed(head.body) if has_body else b""
        if has_body and head.complete and self._is_chunked:
            body += b"0\r\n\r\n"
            self._is_at_end = True
        self._ready = memoryview(data + body)

    def _framed(self, data):
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self._is_chunked else data

    def _fill(self):
        """Waits for bytes to read, unless there are some, or none will come."""
        if self._error is not None:
            raise self._error
        if not self._has_head:
            if self._exchange is None:
                raise ConnectionError("there is no response before a complete request")
            self._read_head()
        while not self._ready and not self._is_at_end:
            data = self._received(self._exchange.next)
            self._is_at_end = not data
            if data:
                self._ready = memoryview(self._framed(data))
            elif self._is_chunked:
                self._ready = memoryview(b"0\r\n\r\n")

    def _received(self, receive):
        self._exchange.timeout = self._timeout
        try:
            return run_blocking(receive())
        except TimeoutError as error:
            self._error = error
            raise
        except RequestError as error:
            self._error = ConnectionError(str(error))
            raise self._error from None

    def recv_into(self, buffer, nbytes=0, flags=0, /):
        """Receives bytes of the response into a buffer. Returns their number."""
        self._fill()
        target = memoryview(buffer).cast("B")
        size = min(nbytes or len(target), len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def recv(self, bufsize, flags=0, /):
        """Receives bytes of the response."""
        self._fill()
        data, self._ready = bytes(self._ready[:bufsize]), self._ready[bufsize:]
        return data

    def makefile(self, mode="r", buffering=None, *, encoding=None, errors=None, newline=None):
        """Returns a file that reads the response."""
        if not set(mode) <= set("rb"):
            raise ValueError(f"invalid mode {mode!r}: the file of an HTTP connection is read")
        raw = _File(self)
        if buffering == 0:
            return raw
        size = _BUFFER_BYTES if buffering is None or buffering < 0 else buffering
        file = io.BufferedReader(raw, size)
        return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)

    # Its state.

    def start_tls(self, server_hostname):
        """Makes it a connection of HTTPS. The host checks the server's certificate."""
        if server_hostname is not None and server_hostname.lower() != self._host.lower().rstrip(
            "."
        ):
            raise ConnectionError(
                f"the server's name {server_hostname!r} is not that of the URL, {self._host!r}:"
                " a sandbox's host takes it from the URL"
            )
        self._scheme = "https"
        self.server_hostname = server_hostname

    def settimeout(self, value, /):
        """Sets the limit of each wait in seconds."""
        if value is not None and not value >= 0:
            raise ValueError("Timeout value out of range")
        self._timeout = None if value == float("inf") else value

    def gettimeout(self):
        """Returns the limit of each wait in seconds."""
        return self._timeout

    def setblocking(self, flag, /):
        """Sets whether it waits."""
        self.settimeout(None if flag else 0.0)

    def setsockopt(self, *args):
        """Does nothing: the host's connection is not that of the client."""

    def getsockopt(self, level, option, buflen=0, /):
        """Returns the type of the socket, and 0 for every other option."""
        is_type = (level, option) == (socket.SOL_SOCKET, socket.SO_TYPE)
        return int(self.type) if is_type else 0

    def getpeername(self):
        """Returns the host and port. Its address is not known in a sandbox."""
        return self._host, self._port

    def getsockname(self):
        """Returns no address: the sandbox has none."""
        return "", 0

    def getpeercert(self, binary_form=False):
        """Raises an error: only the host sees the certificate, and checks it."""
        raise OSError(errno.ENOTSUP, "a sandbox does not see certificates: its host checks them")

    def selected_alpn_protocol(self):
        """Returns None: the host chooses the version of HTTP."""

    def version(self):
        """Returns None: the host chooses the version of TLS."""

    def fileno(self):
        """Returns -1, as a closed socket does: it has no file descriptor."""
        return -1

    def shutdown(self, how, /):
        """Ends reading or writing."""
        if how != socket.SHUT_WR:
            self._end()

    def close(self):
        """Closes it. A file that reads the response can still be used."""
        self._is_closed = True
        if not self._files:
            self._end()

    def _end(self):
        if self._exchange is not None:
            self._exchange.close()
        self._is_at_end = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self._end()

    def __repr__(self):
        return f"<HTTP connection of the host to {self._host}:{self._port}>"


class _File(io.RawIOBase):
    """The bytes of a response."""

    def __init__(self, connection):
        super().__init__()
        self._connection = connection
        connection._files += 1

    def readable(self):
        return True

    def readinto(self, buffer):
        self._checkClosed()
        return self._connection.recv_into(buffer)

    def fileno(self):
        raise io.UnsupportedOperation("the connection has no file descriptor")

    @property
    def name(self):
        return self._connection.fileno()

    @property
    def mode(self):
        return "rb"

    def close(self):
        if not self.closed:
            super().close()
            connection, self._connection = self._connection, None
            connection._files -= 1
            if connection._is_closed:
                connection.close()
