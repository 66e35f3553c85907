"""What the tests of adapters to frameworks share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from isorun import Sandbox

# A program that imports an adapter where its framework is not installed.
IMPORT_WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
try:
    import {module}
except ImportError as error:
    print(error)
"""


class LiveSandboxes:
    """Looks at the sandboxes on the server, without an adapter."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}

    def ids(self) -> set[str]:
        """Returns the ids of the sandboxes that exist."""
        runs = self._get("/v1/runs")["runs"]
        return {run["id"] for run in runs if run["status"] != "destroyed"}

    def status(self, sandbox_id: str) -> str:
        """Returns `running` or `hibernated`."""
        return str(self._get(f"/v1/runs/{sandbox_id}")["status"])

    def destroy(self, sandbox_id: str) -> None:
        """Destroys a sandbox without the adapter that uses it."""
        Sandbox.connect(sandbox_id).destroy()

    def _get(self, path: str) -> Any:
        return httpx.get(f"{self._url}{path}", headers=self._headers).json()


class Relay:
    """A TCP relay in front of a server, which can fail as a server or a network does."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def stop(self) -> None:
        """Refuses new connections, and breaks those that exist."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers |= {writer, back}
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


@asynccontextmanager
async def relayed(target: str) -> AsyncIterator[Relay]:
    """Starts a relay in this event loop."""
    relay = Relay(target)
    relay._server = await asyncio.start_server(relay._serve, "127.0.0.1", 0)
    port = relay._server.sockets[0].getsockname()[1]
    relay.url = f"http://127.0.0.1:{port}"
    try:
        yield relay
    finally:
        await relay.stop()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
