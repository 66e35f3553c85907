"""Headless Chromium, controlled by the DevTools protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect


class Tab:
    """A page in the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)

    @classmethod
    @contextlib.contextmanager
    def open(cls, browser: str, url: str) -> Iterator[Tab]:
        target = httpx.put(f"{browser}/json/new?{url}", timeout=30).json()
        with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            yield cls(socket)

    def call(self, method: str, **params: Any) -> Any:
        """Calls a method of the DevTools protocol."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv(30))).get("id") != number:
            pass
        # An error response has no result: the page was replaced in the meantime.
        return answer.get("result", {})

    def run(self, script: str) -> Any:
        """Runs a script in the page and returns its value, awaiting a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        return answer.get("result", {}).get("value")

    def until(self, script: str, expected: Any) -> None:
        """Waits until a script returns a value."""
        end = time.monotonic() + 30
        while (found := self.run(script)) != expected:
            assert time.monotonic() < end, (script, found)
            time.sleep(0.05)

    def lines(self, *expected: str) -> None:
        shown = "[...document.querySelectorAll('li')].map((item) => item.textContent)"
        self.until(shown, [*expected])

    def add(self, line: str) -> None:
        self.run(f"document.querySelector('#line').value = {json.dumps(line)}")
        self.run("document.querySelector('button').click()")


@contextlib.contextmanager
def chromium(profile: Path, resolver: str) -> Iterator[str]:
    """Starts headless Chromium and returns the address of its DevTools protocol. All names
    are resolved by the rules `resolver`."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: `cargo xtask test sdk` does that"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    options += [f"--host-resolver-rules={resolver}"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    log = (profile / "log").open("w+")
    process = subprocess.Popen([program, *options], stderr=log, stdout=log)
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"ws://([\d.]+:\d+)/", (profile / "log").read_text())):
            assert process.poll() is None and time.monotonic() < end, (profile / "log").read_text()
            time.sleep(0.05)
        yield f"http://{found[1]}"
    finally:
        process.kill()
        process.wait(30)
        log.close()
