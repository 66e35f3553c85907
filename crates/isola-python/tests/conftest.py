"""Shared fixtures: asynchronous tests, templates, a real HTTP server."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import isola
import isola.sync


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an asynchronous test in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    # A test that hangs fails instead of blocking the others forever.
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 120))
    return True


@pytest.fixture(scope="session")
def python() -> isola.SandboxTemplate:
    return asyncio.run(isola.build_template("python"))


@pytest.fixture(scope="session")
def javascript() -> isola.SandboxTemplate:
    return asyncio.run(isola.build_template("js"))


class Server:
    """A server on the loopback interface that records its requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, list[str]], bytes]] = []
        # Set by a test to release the second half of `/slow`.
        self.go = threading.Event()
        # Set when the client of `/endless` has disconnected.
        self.gone = threading.Event()
        # Set when the first chunk of an upload has arrived.
        self.arrived = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.handle(self)

            do_POST = do_GET
            do_PUT = do_GET

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        body = self._body(request)
        self.requests.append((request.command, request.path, headers, body))
        if request.path == "/slow":
            self._chunked(request)
            self._chunk(request, b"first\n")
            assert self.go.wait(60)
            self._chunk(request, b"second\n")
            self._chunk(request, b"")
        elif request.path == "/endless":
            self._chunked(request)
            try:
                while True:
                    self._chunk(request, b"x" * 4096)
            except OSError:
                self.gone.set()
                request.close_connection = True
        elif request.path == "/moved":
            request.send_response(302)
            request.send_header("location", f"{self.url}/hello")
            request.send_header("content-length", "0")
            request.end_headers()
        elif request.path == "/broken":
            request.send_response(200)
            request.send_header("content-length", "10")
            request.end_headers()
            request.wfile.write(b"short")
            request.close_connection = True
        else:
            request.send_response(200)
            request.send_header("set-cookie", "a=1")
            request.send_header("set-cookie", "b=2")
            answer = b"hello " + body
            request.send_header("content-length", str(len(answer)))
            request.end_headers()
            request.wfile.write(answer)

    def _body(self, request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("transfer-encoding") != "chunked":
            return request.rfile.read(int(request.headers.get("content-length", 0)))
        chunks = []
        while size := int(request.rfile.readline(), 16):
            chunks.append(request.rfile.read(size))
            request.rfile.readline()
            self.arrived.set()
        request.rfile.readline()
        return b"".join(chunks)

    @staticmethod
    def _chunked(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()

    @staticmethod
    def _chunk(request: BaseHTTPRequestHandler, data: bytes) -> None:
        request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        request.wfile.flush()

    def close(self) -> None:
        self.go.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()
