"""Invalid uses of the package `sandbox`, in each of which mypy must find an error.

Each has the code of the expected error. Where mypy finds none, the comment is unused,
which is an error.
"""

from collections.abc import AsyncIterator
from datetime import date

import sandbox.asyncio
import sandbox.http
from sandbox.asyncio import Pollable  # type: ignore[attr-defined]
from sandbox.asyncio import hostcall, run, subscribe
from sandbox.http import AsyncResponse, Headers, Response, ServerSentEvent, fetch
from sandbox.importlib import http
from sandbox.logging import critical  # type: ignore[attr-defined]
from sandbox.logging import info
from sandbox.serde import dumps, loads

URL = "https://example.com/"


async def number() -> int:
    return 1


async def later_pieces() -> AsyncIterator[bytes]:
    yield b""


async def hostcalls() -> None:
    await hostcall()  # type: ignore[call-arg]
    await hostcall(5)  # type: ignore[arg-type]
    await hostcall("a", {1, 2})  # type: ignore[arg-type]
    await hostcall("a", b"bytes")  # type: ignore[arg-type]
    await hostcall("a", 1, 2)  # type: ignore[call-arg]
    await hostcall("a", payload=date(2024, 2, 29))  # type: ignore[arg-type]
    hostcall("a")  # type: ignore[unused-coroutine]
    await subscribe(5)  # type: ignore[arg-type]
    await subscribe(number())  # type: ignore[arg-type]
    sandbox.asyncio.spawn  # type: ignore[attr-defined]


def runs() -> None:
    run(number)  # type: ignore[call-overload]
    run(5)  # type: ignore[call-overload]
    run()  # type: ignore[call-overload]
    text: str = run(number())  # type: ignore[assignment]


def requests() -> None:
    fetch("GET")  # type: ignore[call-arg]
    fetch(5, URL)  # type: ignore[arg-type]
    fetch("GET", None)  # type: ignore[arg-type]
    fetch("GET", URL, {"q": "a"})  # type: ignore[call-arg]
    fetch("GET", URL, data=b"")  # type: ignore[call-arg]
    fetch("GET", URL, params="q=a")  # type: ignore[arg-type]
    fetch("GET", URL, params={"q": None})  # type: ignore[dict-item]
    fetch("GET", URL, headers="a: b")  # type: ignore[arg-type]
    fetch("GET", URL, headers={"a": None})  # type: ignore[dict-item]
    fetch("GET", URL, headers={1: "b"})  # type: ignore[dict-item]
    fetch("GET", URL, headers={"a": {"b"}})  # type: ignore[dict-item]
    fetch("GET", URL, headers=["a"])  # type: ignore[list-item]
    fetch("GET", URL, timeout="5")  # type: ignore[arg-type]
    fetch("GET", URL, proxy=3128)  # type: ignore[arg-type]
    fetch("PUT", URL, body={1, 2})  # type: ignore[arg-type]
    fetch("PUT", URL, body=date(2024, 2, 29))  # type: ignore[arg-type]
    fetch("PUT", URL, body=iter(["text"]))  # type: ignore[arg-type]
    fetch("PUT", URL, body=later_pieces)  # type: ignore[arg-type]
    fetch("POST", URL, files={"a": 5})  # type: ignore[dict-item]
    fetch("POST", URL, files={"a": ("b", b"")})  # type: ignore[dict-item]
    fetch("POST", URL, files=[("a", b"")])  # type: ignore[arg-type]
    fetch("GET", URL).status  # type: ignore[attr-defined]
    fetch("GET", URL).text()  # type: ignore[attr-defined]
    fetch("GET", URL)["a"]  # type: ignore[index]
    sandbox.http.get(URL)  # type: ignore[attr-defined]


def responses(response: Response, headers: Headers, event: ServerSentEvent) -> None:
    Response()  # type: ignore[call-arg]
    AsyncResponse(200, {})  # type: ignore[call-arg, arg-type]
    response.read("5")  # type: ignore[arg-type]
    response.text(1)  # type: ignore[call-arg]
    response.aread()  # type: ignore[attr-defined]
    response.status_code  # type: ignore[attr-defined]
    text: str = response.read()  # type: ignore[assignment]
    number: int = response.headers["a"]  # type: ignore[assignment]
    async_response: AsyncResponse = response  # type: ignore[assignment]
    with response:  # type: ignore[attr-defined]
        pass
    headers.get(1)  # type: ignore[call-overload]
    headers[1]  # type: ignore[index]
    some: str = headers.get("a")  # type: ignore[assignment]
    event.retry  # type: ignore[attr-defined]
    event.data = "frozen"  # type: ignore[misc]
    ServerSentEvent()  # type: ignore[call-arg]


async def later_responses() -> None:
    async with fetch("GET", URL) as response:
        response.atext()  # type: ignore[unused-coroutine]
        response.text()  # type: ignore[attr-defined]
        text: str = response.atext()  # type: ignore[assignment]
        for line in response.aiter_lines():  # type: ignore[attr-defined]
            pass
        await response.aiter_bytes()  # type: ignore[misc]


def modules() -> None:
    http()  # type: ignore[call-arg]
    http(5)  # type: ignore[arg-type]
    async_with = http(URL).__aenter__  # type: ignore[attr-defined]


def logs() -> None:
    info()  # type: ignore[call-arg]
    info(message="by position only")  # type: ignore[call-arg]
    info("failed", exc_info="yes")  # type: ignore[arg-type]


def formats() -> None:
    dumps(1)  # type: ignore[call-overload]
    dumps(1, "xml")  # type: ignore[call-overload]
    dumps({1, 2}, "json")  # type: ignore[call-overload]
    dumps(date(2024, 2, 29), "json")  # type: ignore[call-overload]
    text: str = dumps(1, "cbor")  # type: ignore[assignment]
    data: bytes = dumps(1, "yaml")  # type: ignore[assignment]
    loads("text", "cbor")  # type: ignore[call-overload]
    loads(memoryview(b""), "json")  # type: ignore[call-overload]
    loads(5, "yaml")  # type: ignore[call-overload]
