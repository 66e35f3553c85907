"""`isorun mcp`, with the client of the PyPI package mcp, on pipes and over HTTP."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import httpx2
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from servers import Server

TOOLS = [
    "run_command",
    "run_code",
    "read_file",
    "write_file",
    "list_files",
    "fork",
    "checkpoint",
    "go_back",
    "port_url",
    "list_sessions",
    "end_session",
]


@asynccontextmanager
async def on_pipes(server: Server, *options: str) -> AsyncIterator[ClientSession]:
    """Starts `isorun mcp` as a client does, and connects to it."""
    command = StdioServerParameters(
        command=os.environ["ISORUN_COMMAND"],
        args=["mcp", *(options or ("python:3.12",))],
        env={"XDG_CONFIG_HOME": str(server.config)},
    )
    async with stdio_client(command) as (read, write), ClientSession(read, write) as session:
        started = await session.initialize()
        assert started.server_info.name == "isorun"
        assert "checkpoint" in (started.instructions or "")
        yield session


@contextmanager
def listening(server: Server, *options: str) -> Iterator[str]:
    """Starts `isorun mcp` over HTTP. Returns its URL."""
    process = subprocess.Popen(
        [
            os.environ["ISORUN_COMMAND"],
            *("mcp", "python:3.12", "--listen", "127.0.0.1:0"),
            *options,
        ],
        env=os.environ | {"XDG_CONFIG_HOME": str(server.config)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "listens on http://127.0.0.1:" in line, line
        yield line.split()[-1]
    finally:
        process.terminate()
        process.stderr.close()
        # Interrupted, as other commands that a signal ends.
        assert process.wait(30) == 0


@asynccontextmanager
async def over_http(url: str, key: str) -> AsyncIterator[ClientSession]:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        streamable_http_client(url, http_client=http) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


async def call(client: ClientSession, tool: str, /, **arguments: Any) -> tuple[str, Any]:
    """Calls a tool, which has to succeed. Returns the text and the fields of its result."""
    result: Any = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.content[0].text, result.structured_content


async def failure(client: ClientSession, tool: str, /, **arguments: Any) -> tuple[str, Any]:
    """Calls a tool, which has to fail."""
    result: Any = await client.call_tool(tool, arguments)
    assert result.is_error, result
    return result.content[0].text, result.structured_content


def sandboxes(server: Server) -> set[str]:
    response = httpx.get(f"{server.url}/v1/runs", headers={"authorization": f"Bearer {server.key}"})
    return {run["id"] for run in response.json()["runs"]}


def png() -> bytes:
    """Returns a red picture of 2 x 2 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = zlib.compress((b"\0" + b"\xff\0\0" * 2) * 2)
    head = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


async def test_commands_code_and_files(server: Server) -> None:
    before = sandboxes(server)
    async with on_pipes(server) as client:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == TOOLS

        text, fields = await call(
            client,
            "run_command",
            command="read line; echo $line; echo no >&2; pwd; exit 3",
            stdin="in\n",
            cwd="/tmp",
        )
        assert text == "in\n/tmp\nno\n[exit code 3]\n"
        assert fields == {"stdout": "in\n/tmp\n", "stderr": "no\n", "exit_code": 3}

        assert (await call(client, "run_code", code="x = 20\nprint('hi')\nx + 1"))[0] == "hi\n21\n"
        assert (await call(client, "run_code", code="await __import__('asyncio').sleep(0, x)"))[
            0
        ] == "20\n"
        text, fields = await failure(client, "run_code", code="1 / 0")
        assert "ZeroDivisionError" in text and fields["error"]["name"] == "ZeroDivisionError"

        await call(client, "write_file", path="/data/notes.txt", content="gr\u00fc\u00dfe\n" * 3)
        assert (await call(client, "read_file", path="/data/notes.txt"))[
            0
        ] == "gr\u00fc\u00dfe\n" * 3
        text, fields = await call(client, "read_file", path="/data/notes.txt", offset=8, limit=3)
        # The limit is inside of a character, which is left for the next call.
        assert fields["content"] == "gr" and fields["next_offset"] == 10
        assert text == "[bytes 8 to 10; the file continues]\ngr"
        await call(
            client,
            "write_file",
            path="/data/raw",
            content=base64.b64encode(b"\xff\0").decode(),
            encoding="base64",
        )
        text, _ = await failure(client, "read_file", path="/data/raw")
        assert "byte 0" in text and "base64" in text
        text, _ = await call(client, "read_file", path="/data/raw", encoding="base64")
        assert base64.b64decode(text) == b"\xff\0"
        assert (await call(client, "list_files", path="/data"))[1]["entries"] == [
            "notes.txt",
            "raw",
        ]
        text, fields = await failure(client, "read_file", path="/data/missing")
        assert "/data/missing" in text and fields["code"] == "file_not_found"
        assert len(sandboxes(server) - before) == 1
    # The end of the client is the end of its sandboxes.
    assert sandboxes(server) <= before


async def test_pictures(server: Server) -> None:
    async with on_pipes(server) as client:
        content = base64.b64encode(png()).decode()
        await call(client, "write_file", path="/p.png", content=content, encoding="base64")
        code = "class P:\n def _repr_png_(self): return open('/p.png', 'rb').read()\nP()"
        for tool, arguments in [("read_file", {"path": "/p.png"}), ("run_code", {"code": code})]:
            result: Any = await client.call_tool(tool, arguments)
            pictures = [block for block in result.content if block.type == "image"]
            assert [picture.mime_type for picture in pictures] == ["image/png"]
            assert base64.b64decode(pictures[0].data) == png()
        text, _ = await call(client, "read_file", path="/p.png", encoding="base64")
        assert base64.b64decode(text) == png()


async def test_copies_and_checkpoints(server: Server) -> None:
    async with on_pipes(server) as client:
        await call(client, "run_code", code="x = 1")
        await call(client, "run_command", command="echo 1 > /state")
        await call(client, "checkpoint", name="one")
        await call(client, "fork", new_session="copy")
        await call(client, "run_code", code="x = 2")
        await call(client, "run_command", command="echo 2 > /state")
        # A copy has the memory of its original, and is independent of it.
        assert (await call(client, "run_code", code="x", session="copy"))[0] == "1\n"
        assert (await call(client, "read_file", path="/state", session="copy"))[0] == "1\n"
        for _ in range(2):
            await call(client, "go_back", name="one")
            assert (await call(client, "run_code", code="x"))[0] == "1\n"
            await call(client, "run_code", code="x = 3")
        _, fields = await call(client, "list_sessions")
        listed = {item["session"]: item["checkpoints"] for item in fields["sessions"]}
        assert listed == {"default": ["one"], "copy": []}
        assert len({item["sandbox"] for item in fields["sessions"]}) == 2

        text, _ = await failure(client, "go_back", name="two")
        assert '"two"' in text and "one" in text
        text, _ = await failure(client, "fork", new_session="copy")
        assert "exists already" in text
        await call(client, "end_session", session="copy")
        text, _ = await failure(client, "end_session", session="copy")
        assert "there is no session" in text
        listed_sessions = (await call(client, "list_sessions"))[1]["sessions"]
        assert [item["session"] for item in listed_sessions] == ["default"]
    headers = {"authorization": f"Bearer {server.key}"}
    snapshots = httpx.get(f"{server.url}/v1/snapshots", headers=headers).json()["snapshots"]
    assert snapshots == []


async def test_url_of_a_port(server: Server) -> None:
    async with on_pipes(server) as client:
        await call(client, "write_file", path="/site/index.html", content="hello")
        await call(
            client,
            "run_command",
            command="cd /site && setsid python3 -m http.server 8000 >/dev/null 2>&1 &",
        )
        url = (await call(client, "port_url", port=8000))[0]
        ready = "import socket, time\n" + (
            "while socket.socket().connect_ex(('127.0.0.1', 8000)): time.sleep(0.05)"
        )
        await call(client, "run_code", code=ready)
        assert httpx.get(url).text == "hello"


async def test_limits(server: Server) -> None:
    options = ("python:3.12", "--max-sessions", "2", "--max-output", "1024", "--timeout", "2s")
    async with on_pipes(server, *options) as client:
        text, _ = await call(client, "run_code", code="print('a' * 10_000_000)")
        assert len(text) < 1200 and "bytes are left out" in text
        text, _ = await failure(client, "run_command", command="echo begun; sleep 60")
        assert text == "begun\n[killed after its timeout of 2 seconds]\n"
        text, fields = await failure(client, "run_code", code="while True: pass", timeout=0.5)
        assert fields["error"]["name"] in {"KeyboardInterrupt", "TimeoutError"}, fields
        await call(client, "run_command", command="true", session="second")
        text, fields = await failure(client, "run_command", command="true", session="third")
        assert "default, second" in text and fields["code"] == "refused"
        # Arguments that are wrong are errors of the protocol, which names them.
        for arguments, word in [({}, "command"), ({"command": "", "x": 1}, "`x`")]:
            with pytest.raises(Exception, match=word):
                await client.call_tool("run_command", arguments)


async def test_a_sandbox_that_is_gone_is_replaced(server: Server) -> None:
    async with on_pipes(server) as client:
        await call(client, "run_command", command="echo > /kept")
        sandbox = (await call(client, "list_sessions"))[1]["sessions"][0]["sandbox"]
        headers = {"authorization": f"Bearer {server.key}"}
        httpx.delete(f"{server.url}/v1/runs/{sandbox}", headers=headers).raise_for_status()
        text, fields = await call(client, "run_command", command="test -e /kept || echo missing")
        assert text.startswith("[the sandbox of this session was gone")
        assert len(fields["notes"]) == 1 and fields["stdout"] == "missing\n"
        assert (await call(client, "run_command", command="true"))[0] == ""
        # There is nothing to remember or to copy, which is said once.
        for tool, arguments in [("checkpoint", {"name": "a"}), ("fork", {"new_session": "b"})]:
            sandbox = (await call(client, "list_sessions"))[1]["sessions"][0]["sandbox"]
            httpx.delete(f"{server.url}/v1/runs/{sandbox}", headers=headers).raise_for_status()
            _, fields = await failure(client, tool, **arguments)
            assert fields["code"] == "run_destroyed"
            await call(client, tool, **arguments)


async def test_an_interpreter_as_image(server: Server) -> None:
    async with on_pipes(server, "isola:python") as client:
        await call(client, "run_code", code="open('/tmp/a.txt', 'w').write('hi')")
        assert (await call(client, "read_file", path="/tmp/a.txt"))[0] == "hi"
        text, fields = await failure(client, "run_command", command="true")
        assert fields["code"] == "image_lacks_feature" and "isola:python" in text


async def test_over_http_each_key_has_its_own_sessions(server: Server) -> None:
    other = server.create_key("other")
    before = sandboxes(server)
    with listening(server) as url:
        async with over_http(url, server.key) as first, over_http(url, other) as second:
            await call(first, "run_code", code="x = 'first'")
            await call(second, "run_code", code="x = 'second'")
            assert (await call(first, "run_code", code="x"))[0] == "'first'\n"
            assert (await call(second, "run_code", code="x"))[0] == "'second'\n"
        # Sessions are names: they do not end with a connection.
        async with over_http(url, server.key) as again:
            assert (await call(again, "run_code", code="x"))[0] == "'first'\n"
        for key, status in [(None, 401), ("wrong", 401), (server.key, 200)]:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            assert post(url, headers).status_code == status
        known = {"authorization": f"Bearer {server.key}"}
        assert post(url, known | {"origin": "https://example.com"}).status_code == 403
        assert post(url, known | {"host": "example.com"}).status_code == 403
        assert post(url.replace("/mcp", "/other"), known).status_code == 404
    assert sandboxes(server) <= before


def post(url: str, headers: dict[str, str]) -> httpx.Response:
    """Asks for the tools without a client of the protocol."""
    headers = headers | {"accept": "application/json, text/event-stream"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    return httpx.post(url, json=body, headers=headers)
