"""Hostcalls and HTTP requests of a guest."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

import pytest

import isola

if TYPE_CHECKING:
    from conftest import Server

HOSTCALLS = """
import asyncio
from sandbox.asyncio import hostcall

async def call(name, payload=None):
    return await hostcall(name, payload)

async def caught(name):
    try:
        await hostcall(name, None)
    except RuntimeError as error:
        return str(error)

async def many(n):
    return await asyncio.gather(*(hostcall('double', i) for i in range(n)))

async def leave():
    asyncio.create_task(hostcall('forever', None))
    await asyncio.sleep(0.01)
"""

REQUESTS = """
from sandbox.http import fetch

def get(url):
    with fetch('GET', url, headers=[('X-A', '1'), ('X-A', '2')]) as response:
        return [response.status, response.text(), response.headers.get_all('set-cookie')]

def post(url, body):
    with fetch('POST', url, body=body.encode()) as response:
        return response.text()

def lines(url):
    with fetch('GET', url) as response:
        for line in response.iter_lines():
            yield line

def upload(url, wait=None):
    def pieces():
        yield b'one'
        if wait:
            from sandbox.asyncio import hostcall, run
            run(hostcall(wait, None))
        yield b'two'
    with fetch('PUT', url, body=pieces()) as response:
        return response.text()

def broken_upload(url):
    def pieces():
        yield b'one'
        raise KeyError('changed my mind')
    try:
        with fetch('PUT', url, body=pieces()) as response:
            return response.text()
    except KeyError as error:
        return 'KeyError'

def first(url):
    with fetch('GET', url) as response:
        return len(response.read(1))

def failure(url):
    try:
        with fetch('GET', url) as response:
            return response.text()
    except OSError as error:
        return str(error)
"""


async def test_hostcalls(python: isola.SandboxTemplate) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    async def who(_: object) -> str:
        return variable.get()

    async def refuse(_: object) -> None:
        raise PermissionError("not for you")

    async def silent(_: object) -> None:
        raise RuntimeError

    async def unsendable(_: object) -> object:
        return {1, 2}

    def plain(payload: object) -> object:
        return [payload]

    handlers = {
        "double": double,
        "who": who,
        "refuse": refuse,
        "silent": silent,
        "unsendable": unsendable,
        "plain": plain,
    }
    async with python.create(hostcalls=handlers) as sandbox:  # type: ignore[arg-type]
        await sandbox.load_script(HOSTCALLS)
        assert await sandbox.run("call", "double", 21) == 42
        assert await sandbox.run("many", 500) == [2 * i for i in range(500)]
        assert await sandbox.run("call", "plain", {"a": 1}) == [{"a": 1}]
        # A handler has the context variables of the running call.
        for name in ("one", "two"):
            variable.set(name)
            assert await sandbox.run("call", "who") == name
        assert await sandbox.run("caught", "refuse") == "not for you"
        assert await sandbox.run("caught", "silent") == "RuntimeError"
        assert "at $: set is not a JSON value" in str(await sandbox.run("caught", "unsendable"))
        assert await sandbox.run("caught", "nope") == 'the host has no function "nope"'
        with pytest.raises(isola.HostcallError) as caught:
            await sandbox.run("call", "refuse")
        assert isinstance(caught.value, isola.GuestError)
        assert caught.value.code == "hostcall_failed"
        # Only the message, without the host's traceback.
        assert "not for you" in str(caught.value)
        assert "test_host.py" not in str(caught.value)
        assert "PermissionError" not in str(caught.value)


async def test_a_handler_ends_with_its_call(python: isola.SandboxTemplate) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def forever(_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with python.create(hostcalls={"forever": forever}) as sandbox:
        await sandbox.load_script(HOSTCALLS)
        await sandbox.run("leave")
        await stopped.wait()
        begun.clear()
        stopped.clear()
        running = asyncio.create_task(sandbox.run("call", "forever"))
        await begun.wait()
        running.cancel()
        await stopped.wait()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_http_is_off_by_default(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(REQUESTS)
        text = await sandbox.run("failure", "http://example.test/")
        assert text == "HTTP is disabled for this sandbox"


async def test_http_true_sends_requests_and_returns_responses(
    python: isola.SandboxTemplate, server: Server
) -> None:
    for option in ("http", "http_handler"):
        async with python.create(**{option: True}) as sandbox:  # type: ignore[arg-type]
            await sandbox.load_script(REQUESTS)
            answer = await sandbox.run("get", f"{server.url}/x")
            # Repeated fields are kept apart in both directions.
            assert answer == [200, "hello ", ["a=1", "b=2"]]
            assert server.requests[-1][2]["x-a"] == ["1", "2"]
            assert await sandbox.run("post", f"{server.url}/", "body") == "hello body"
            assert server.requests[-1][2]["content-length"] == ["4"]
            # Cookies of a response are not sent with the next request.
            assert "cookie" not in server.requests[-1][2]
            assert (await sandbox.run("get", f"{server.url}/moved"))[0] == 302  # type: ignore[index]
            assert await sandbox.run("upload", f"{server.url}/") == "hello onetwo"
            assert "incomplete" in str(await sandbox.run("failure", f"{server.url}/broken"))
            refused = await sandbox.run("failure", "http://127.0.0.1:1/")
            assert refused == "the request to 127.0.0.1:1 failed: cannot connect"


async def test_request_and_response_bodies_are_streamed(
    python: isola.SandboxTemplate, server: Server
) -> None:
    async def arrived(_: object) -> None:
        """Waits for the first chunk at the server, before the second is produced."""
        assert await asyncio.to_thread(server.arrived.wait, 60)

    async with python.create(http=True, hostcalls={"arrived": arrived}) as sandbox:
        await sandbox.load_script(REQUESTS)
        seen = []
        async for event in sandbox.run_stream("lines", f"{server.url}/slow"):
            if isinstance(event, isola.ResultEvent):
                seen.append(event.data)
                # Only now does the server send the rest.
                server.go.set()
        assert seen == ["first", "second"]
        assert await sandbox.run("upload", f"{server.url}/", "arrived") == "hello onetwo"
        # A guest that stops reading closes the connection.
        assert await sandbox.run("first", f"{server.url}/endless") == 1
        assert await asyncio.to_thread(server.gone.wait, 60)


async def test_body_is_closed_when_its_task_is_cancelled() -> None:
    from isola import _http

    closing, closed = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closing.set()
            await asyncio.sleep(0.01)
            closed.set()

    class ClosedWriter:
        def send(self, piece: bytes, loop: asyncio.AbstractEventLoop, done: Any) -> None:
            loop.call_soon(done, False, None)

    sending = asyncio.ensure_future(_http._send(cast("Any", ClosedWriter()), pieces()))
    await closing.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await asyncio.wait_for(closed.wait(), 60)


async def test_custom_http_handler_answers_requests(python: isola.SandboxTemplate) -> None:
    seen: list[isola.HttpRequest] = []
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    async def failing() -> AsyncIterator[bytes]:
        yield b"some"
        raise OSError("the source is gone")

    async def http(request: isola.HttpRequest) -> isola.HttpResponse:
        seen.append(request)
        path = request.url.removeprefix("http://host.test")
        if path == "/endless":
            return isola.HttpResponse(200, body=endless())
        if path == "/failing":
            return isola.HttpResponse(200, body=failing())
        if path == "/refused":
            raise PermissionError("not allowed")
        if path == "/status":
            return isola.HttpResponse(9)
        if path == "/body":
            return isola.HttpResponse(200, body="text")  # type: ignore[arg-type]
        if path == "/header":
            return isola.HttpResponse(200, {"a": "b\r\nc: d"})
        if path == "/type":
            return "text"  # type: ignore[return-value]
        if path == "/read":
            return isola.HttpResponse(200, body=b"got " + await request.read())
        return isola.HttpResponse(201, [("Set-Cookie", "a=1"), ("set-cookie", "b=2")], b"mine")

    async with python.create(http=http) as sandbox:
        await sandbox.load_script(REQUESTS)
        assert await sandbox.run("get", "http://host.test/x") == [201, "mine", ["a=1", "b=2"]]
        request = seen[-1]
        assert (request.method, request.url, request.body) == ("GET", "http://host.test/x", None)
        assert request.headers["X-a"] == "1, 2"
        assert request.headers.get_all("x-A") == ["1", "2"]
        assert "x-a" in request.headers and "missing" not in request.headers
        assert await request.read() == b""
        assert await sandbox.run("post", "http://host.test/read", "whole") == "got whole"
        assert seen[-1].body == b"whole"
        assert await sandbox.run("upload", "http://host.test/read") == "got onetwo"
        assert not isinstance(seen[-1].body, bytes)
        assert await sandbox.run("broken_upload", "http://host.test/read") == "KeyError"
        assert await sandbox.run("first", "http://host.test/endless") == 1
        await closed.wait()
        for path, why in [
            ("failing", "the source is gone"),
            ("refused", "not allowed"),
            ("status", "status is 9"),
            ("body", "is a str: use bytes"),
            ("header", "header field a cannot be sent"),
            ("type", "returned a str: use HttpResponse"),
        ]:
            assert why in str(await sandbox.run("failure", f"http://host.test/{path}"))


def test_headers() -> None:
    headers = isola.Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert dict(headers) == {"a": "1, 3", "b": "2"}
    assert len(headers) == 2
    assert headers.multi_items() == [("A", "1"), ("b", "2"), ("a", "3")]
    assert isola.Headers(headers).multi_items() == headers.multi_items()
    assert isola.Headers({"x": "y"})["X"] == "y"
    assert repr(isola.Headers({"x": "y"})) == "Headers([('x', 'y')])"
    with pytest.raises(KeyError):
        headers["c"]
    with pytest.raises(isola.InvalidArgumentError, match="must be strings"):
        isola.Headers({"a": 1})  # type: ignore[arg-type]
