"""HTTP over `wasi:http`: one request, its response, and the bytes of its body.

Everything here is asynchronous; `sandbox.http` runs it for synchronous code.
"""

import asyncio
from urllib.parse import urlsplit

from componentize_py_types import Err, Ok
from wit_world.imports import outgoing_handler, streams, types

# What is asked for at once, either way.
_CHUNK = 64 * 1024


class RequestError(OSError):
    """A request failed. The message is the host's."""

    __module__ = "sandbox.http"


class Body:
    """The body of a response, as its bytes come in."""

    def __init__(self, response):
        self._response = response
        self._body = response.consume()
        self._stream = self._body.stream()

    async def next(self):
        """Some bytes, or `b""` at the end."""
        while self._stream is not None:
            try:
                data = self._stream.read(_CHUNK)
            except Err as error:
                _, self._stream = self._stream.__exit__(None, None, None), None
                if isinstance(error.value, streams.StreamError_Closed):
                    break
                raise RequestError(error.value.value.to_debug_string()) from None
            if data:
                return data
            await _ready(self._stream)
        return b""

    def close(self):
        """Lets go of the connection, read to its end or not."""
        for part in (self._stream, self._body, self._response):
            if part is not None:
                part.__exit__(None, None, None)
        self._stream = self._body = self._response = None


async def send(method, url, headers, body, timeout):
    """Sends a request; returns the status, the headers and the body."""
    target = urlsplit(url)
    if target.scheme not in ("http", "https") or not target.netloc:
        raise RequestError(f"not an absolute http or https URL: {url!r}")
    try:
        fields = types.Fields.from_list(headers)
    except Err as error:
        raise RequestError(f"a header cannot be sent: {_name(error.value)}") from None
    request = types.OutgoingRequest(fields)
    request.set_method(_method(method))
    https = target.scheme == "https"
    request.set_scheme(types.Scheme_Https() if https else types.Scheme_Http())
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    try:
        request.set_authority(target.netloc)
        request.set_path_with_query(path)
    except Err:
        raise RequestError(f"not a URL: {url!r}") from None
    options = None
    if timeout is not None:
        options = types.RequestOptions()
        options.set_first_byte_timeout(int(timeout * 1e9))
    outgoing = request.body() if body else None
    try:
        future = outgoing_handler.handle(request, options)
    except Err as error:
        raise RequestError(_reason(error.value)) from None
    with future:
        if outgoing is not None:
            await _write(outgoing, body)
        while (answer := future.get()) is None:
            await _ready(future)
    # The outer layer only says that the answer was taken twice.
    answer = answer.value if isinstance(answer, Ok) else answer
    if not isinstance(answer, Ok):
        raise RequestError(_reason(answer.value))
    response = answer.value
    with response.headers() as fields:
        received = [(name, value.decode("latin-1")) for name, value in fields.entries()]
    return response.status(), received, Body(response)


async def _write(outgoing, body):
    stream = outgoing.write()
    try:
        with stream:
            view = memoryview(body)
            while view:
                allowed = stream.check_write()
                if allowed == 0:
                    await _ready(stream)
                    continue
                part, view = view[:allowed], view[allowed:]
                stream.write(bytes(part))
    except Err:
        # The other side is not interested in the rest; its answer says why.
        outgoing.__exit__(None, None, None)
        return
    types.OutgoingBody.finish(outgoing, None)


async def _ready(resource):
    with resource.subscribe() as pollable:
        await asyncio.get_running_loop().wait_for_pollable(pollable)


def _method(name):
    known = getattr(types, f"Method_{name.capitalize()}", None)
    if known is not None and name == name.upper() and name != "OTHER":
        return known()
    return types.Method_Other(name)


def _reason(error):
    if isinstance(error, types.ErrorCode_InternalError) and error.value:
        return error.value
    return _name(error)


def _name(error):
    return type(error).__name__.rpartition("_")[2]
