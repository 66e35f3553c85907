"""A real browser uses a real WebSocket application that runs in a sandbox.

The application is a board that is shared by all open pages, written with the package
`websockets`. The browser is headless Chromium, controlled by the DevTools protocol.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets
from chromium import Tab, chromium

from isorun import Sandbox

BOARD = r'''
import asyncio, http, json, sys
sys.path.insert(0, "/srv/packages")
from websockets.asyncio.server import broadcast, serve
from websockets.datastructures import Headers
from websockets.http11 import Response

PAGE = b"""<!doctype html><title>board</title><script src=app.js></script>
<input id=line><button onclick="add()">Add</button><ol id=lines></ol>"""
SCRIPT = b"""
const url = new URL("live", location.href); url.protocol = url.protocol.replace("http", "ws");
const socket = new WebSocket(url); socket.binaryType = "arraybuffer";
window.state = "connecting";
socket.onopen = () => { state = "open" };
socket.onclose = () => { state = "closed" };
socket.onmessage = ({ data }) => {
  if (typeof data !== "string") { window.bytes = data.byteLength; return; }
  lines.replaceChildren(...JSON.parse(data).map((text) => {
    const item = document.createElement("li"); item.textContent = text; return item;
  }));
};
function add() { socket.send(line.value); line.value = ""; }
"""
lines = []

def page(connection, request):
    found = {"/": (PAGE, "text/html"), "/app.js": (SCRIPT, "text/javascript")}.get(request.path)
    if request.path == "/live":
        return None
    if found is None:
        return connection.respond(http.HTTPStatus.NOT_FOUND, "no such page")
    body, kind = found
    headers = Headers({"content-type": kind, "content-length": str(len(body))})
    return Response(200, "OK", headers, body)

async def talk(connection):
    await connection.send(json.dumps(lines))
    await connection.send(bytes(1 << 20))
    async for line in connection:
        lines.append(line)
        broadcast(server.connections, json.dumps(lines))

async def main():
    global server
    async with serve(talk, "127.0.0.1", 8765, process_request=page) as server:
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
'''


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Chromium's DevTools protocol. It can only connect to the page."""
    profile = tmp_path_factory.mktemp("profile")
    with chromium(profile, "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1") as address:
        yield address


def test_browser_uses_a_websocket_application_in_a_sandbox(browser: str, tmp_path: Path) -> None:
    packed = shutil.make_archive(
        str(tmp_path / "websockets"), "tar", Path(websockets.__file__).parent.parent, "websockets"
    )
    with Sandbox("host") as sb, contextlib.ExitStack() as tabs:
        sb.upload_file(packed, "/srv/websockets.tar")
        sb.exec("mkdir /srv/packages && tar -C /srv/packages -xf /srv/websockets.tar")
        sb.write_text("/srv/board.py", BOARD)
        sb.exec("nohup setsid python3 /srv/board.py >/srv/log 2>&1 &")
        url = sb.url(port=8765)
        end = time.monotonic() + 30
        while httpx.get(url).status_code != 200:
            assert time.monotonic() < end, sb.exec("cat /srv/log").stdout
            time.sleep(0.1)

        first, second = (tabs.enter_context(Tab.open(browser, url)) for _ in range(2))
        for tab in (first, second):
            tab.until("document.title", "board")
            tab.until("window.state", "open")
            tab.until("window.bytes", 1 << 20)
        first.add("hello")
        second.lines("hello")
        second.add("<b>wörld</b>")
        first.lines("hello", "<b>wörld</b>")

        # The application continues after hibernation; open pages are notified.
        sb.hibernate()
        first.until("window.state", "closed")
        sb.resume()
        third = tabs.enter_context(Tab.open(browser, url))
        third.lines("hello", "<b>wörld</b>")
