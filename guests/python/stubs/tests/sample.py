"""Valid uses of the package `sandbox`, in which mypy must find no error.

Every function, parameter, method and attribute is used. `assert_type` has the exact
type that a checker must infer.
"""

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from datetime import date
from typing import Any, Literal, TypedDict, assert_type

from sandbox import asyncio as sandbox_asyncio
from sandbox import http as sandbox_http
from sandbox import importlib as sandbox_importlib
from sandbox import logging as sandbox_logging
from sandbox import serde as sandbox_serde
from sandbox.asyncio import DeadlockError, HostcallError, hostcall, run, subscribe
from sandbox.http import (
    AsyncResponse,
    Headers,
    Request,
    RequestError,
    Response,
    ServerSentEvent,
    fetch,
)
from sandbox.importlib import http
from sandbox.logging import debug, error, info, warning
from sandbox.serde import dumps, loads

URL = "https://example.com/"


class User(TypedDict):
    id: int
    name: str


class Timer:
    def ready(self) -> bool:
        return True

    def block(self) -> None:
        pass


# sandbox.asyncio


async def hostcalls(user: User) -> str:
    assert_type(await hostcall("lookup_user"), Any)
    await hostcall("lookup_user", {"id": 7, "tags": ["a", None], "more": (1, 2.5, True)})
    await hostcall(call_type="lookup_user", payload=user)
    for payload in (None, "text", 1, 1.5, False, [1], (1,)):
        await hostcall("lookup_user", payload)
    first, second = await asyncio.gather(hostcall("a"), hostcall("b"))
    assert_type(await subscribe(Timer()), None)
    await subscribe(pollable=Timer())
    try:
        name: str = (await hostcall("lookup_user", 7))["name"]
    except HostcallError as refusal:
        as_runtime_error: RuntimeError = refusal
        return str(as_runtime_error)
    return name


async def numbers() -> AsyncIterator[int]:
    yield 1


def plain(user: User) -> str:
    assert_type(run(numbers()), None)
    assert_type(run(main=hostcalls(user)), str)
    try:
        return run(hostcalls(user))
    except DeadlockError as deadlock:
        as_runtime_error: RuntimeError = deadlock
        return str(as_runtime_error)


# sandbox.http


def pieces() -> Iterator[bytes]:
    yield b"piece"


async def later_pieces() -> AsyncIterator[bytes | memoryview]:
    yield b"piece"


class Source:
    def read(self, size: int) -> bytes:
        return b""


def requests(user: User) -> None:
    assert_type(fetch("GET", URL), Request)
    request = fetch(method="GET", url=URL, timeout=2, proxy="http://proxy.test:3128")
    method, url = request.method, request.url
    assert_type((method, url), tuple[str, str])
    fetch("GET", URL, timeout=0.5, proxy=None, params=None, headers=None, files=None, body=None)
    Request("GET", URL, None, None, None, None, None, None)

    fetch("GET", URL, params={"q": "hello", "n": [1, 2], "x": 1.5, "raw": b"\xff"})
    fetch("GET", URL, params=[("q", "a"), ("q", "b"), ("n", (1, 2))])
    strings: dict[str, str] = {"a": "b"}
    fetch("GET", URL, params=strings, headers=strings)
    fetch("GET", URL, headers={"a": "b", "c": ["d", "e"], "f": 1, "g": b"h", "i": ("j", 2)})
    lists: dict[str, list[str]] = {"a": ["b"]}
    fetch("GET", URL, headers=lists)
    fetch("GET", URL, headers=[("a", "b"), ("a", "c")])
    fetch("GET", URL, headers=((name, name) for name in "abc"))

    fetch("PUT", URL, body=b"bytes")
    fetch("PUT", URL, body=bytearray(1))
    fetch("PUT", URL, body=memoryview(b"1"))
    fetch("PUT", URL, body=user)
    fetch("PUT", URL, body={"a": [1, None, {"b": 2.5}]})
    fetch("PUT", URL, body=[user, user])
    fetch("PUT", URL, body="text")
    fetch("PUT", URL, body=5)
    fetch("PUT", URL, body=io.BytesIO(b"file"))
    fetch("PUT", URL, body=io.StringIO("file"))
    fetch("PUT", URL, body=Source())
    fetch("PUT", URL, body=pieces())
    fetch("PUT", URL, body=iter([b"a", b"b"]))
    fetch("PUT", URL, body=later_pieces())
    with open("/data/file", "rb") as file:
        fetch("PUT", URL, body=file)
        fetch("POST", URL, files={"a": file, "b": ("name", file, "text/plain")})
    fetch("POST", URL, files={"a": b"x", "b": "y", "c": ("d", b"z", None), "e": Source()})


def responses() -> None:
    with fetch("GET", URL) as response:
        assert_type(response, Response)
        assert_type(response.status, int)
        assert_type(response.headers, Headers)
        assert_type(response.read(), bytes)
        assert_type(response.read(10), bytes)
        assert_type(response.read(size=10), bytes)
        assert_type(response.text(), str)
        assert_type(response.json(), Any)
        for piece in response.iter_bytes():
            assert_type(piece, bytes)
        with closing(response.iter_lines()) as lines:
            for line in lines:
                assert_type(line, str)
        for event in response.iter_sse():
            assert_type(event, ServerSentEvent)
            assert_type((event.id, event.event, event.data), tuple[str, str, str])
        assert_type(response.close(), None)


async def later_responses() -> int:
    async with fetch("GET", URL) as response:
        assert_type(response, AsyncResponse)
        assert_type(response.status, int)
        assert_type(response.headers, Headers)
        assert_type(await response.aread(), bytes)
        assert_type(await response.aread(10), bytes)
        assert_type(await response.aread(size=10), bytes)
        assert_type(await response.atext(), str)
        assert_type(await response.ajson(), Any)
        async for piece in response.aiter_bytes():
            assert_type(piece, bytes)
        async with aclosing(response.aiter_lines()) as lines:
            async for line in lines:
                assert_type(line, str)
        async for event in response.aiter_sse():
            assert_type(event, ServerSentEvent)
        assert_type(response.close(), None)
        # The block suppresses no exceptions, so this is the only return.
        return response.status


def headers(fields: Headers) -> None:
    as_dict: dict[str, str] = fields
    assert_type(fields["accept"], str)
    assert_type(fields.get("accept"), str | None)
    assert_type(fields.get("accept", "none"), str)
    assert_type(fields.get(name="accept", default=5), str | int)
    assert_type("accept" in fields, bool)
    assert_type(fields.get_all("set-cookie"), list[str])
    assert_type(fields.get_all(name="set-cookie"), list[str])
    assert_type(fields.multi_items(), list[tuple[str, str]])
    for name, value in fields.items():
        assert_type((name, value), tuple[str, str])
    Headers()
    fetch("GET", URL, headers=Headers([("a", "b")]))


def events() -> tuple[ServerSentEvent, ServerSentEvent]:
    return ServerSentEvent("data"), ServerSentEvent(data="data", event="message", id="1")


def failures() -> str:
    try:
        with fetch("GET", URL):
            return ""
    except RequestError as failure:
        as_os_error: OSError = failure
        return str(as_os_error)


# sandbox.importlib


def modules() -> int:
    with http("https://example.com/modules.zip#sha256=0123"):
        pass
    with http(url=URL) as nothing:
        assert_type(nothing, None)
        return 1


# sandbox.logging


def logs() -> None:
    for log in (debug, info, warning, error):
        log("plain")
        log("%s of %d", "one", 2, table="users", rows=3)
        log("%(a)s", {"a": 1})
        log(ValueError("a message may be anything"))
        log("failed", exc_info=True)
        log("failed", exc_info=ValueError())
        log("failed", exc_info=sys.exc_info())
    assert_type(info("nothing comes back"), None)


# sandbox.serde


def formats(user: User, either: Literal["json", "cbor"]) -> None:
    assert_type(dumps(user, "json"), str)
    assert_type(dumps([1, None, {"a": (2.5, True)}], format="json"), str)
    assert_type(dumps(None, "json"), str)
    assert_type(dumps({date(2024, 2, 29), b"bytes"}, "yaml"), str)
    assert_type(dumps(value={1: {2}}, format="cbor"), bytes)
    assert_type(dumps([1], either), str | bytes)
    assert_type(loads("1", "json"), Any)
    assert_type(loads(value=bytearray(b"1"), format="json"), Any)
    assert_type(loads(b"1", "yaml"), Any)
    assert_type(loads(memoryview(b"\x01"), "cbor"), Any)


# The functions by the names of their modules.

MODULES = (
    sandbox_asyncio.run,
    sandbox_http.fetch,
    sandbox_importlib.http,
    sandbox_logging.info,
    sandbox_serde.dumps,
)
