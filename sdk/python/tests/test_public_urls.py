"""Attacks of a sandbox's page on the server's origin and on the pages of another
sandbox, in a real browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from chromium import Tab, chromium
from servers import serving

from isorun import Sandbox

HOSTILE = r"""
import http.server

HEADERS = {
    "Service-Worker-Allowed": "/",
    "Clear-Site-Data": '"*"',
    "Strict-Transport-Security": "max-age=1000; includeSubDomains",
    "Referrer-Policy": "unsafe-url",
}
COOKIES = [
    "parent=1; Domain=sandboxes.test; Path=/",
    "local=1; Domain=localhost; Path=/",
    "wide=1; Path=/",
    "plain=1",
]
PAGE = b"<!doctype html><title>page</title><p>the secret of this page</p>"

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        said = self.rfile.read(length)
        kind, body = "text/html", PAGE
        if self.path == "/sw.js":
            kind, body = "text/javascript", b"self.onfetch = (e) => e.respondWith(new Response('mine'))"
        if self.path == "/api":
            kind, body = "application/json", b'{"said": "' + said.replace(b'"', b"'") + b'"}'
        self.send_response(200)
        for name, value in HEADERS.items(): self.send_header(name, value)
        for cookie in COOKIES: self.send_header("Set-Cookie", cookie)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *_): pass

http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""

ATTEMPTS = {
    "worker for the whole origin": "navigator.serviceWorker.register('sw.js', {scope: '/'})",
    "worker for the API": "navigator.serviceWorker.register('sw.js', {scope: '/v1/'})",
    "worker for the other run": "navigator.serviceWorker.register('sw.js', {scope: OTHER_PATH})",
    "the other's page": "fetch(OTHER).then((answer) => answer.text())",
    "the other's page, without a referrer": "fetch(OTHER, {referrerPolicy: 'no-referrer'}).then((answer) => answer.text())",
    "the other's page, as the other": "fetch(OTHER, {referrer: OTHER, referrerPolicy: 'unsafe-url'})"
    ".then((answer) => answer.text())",
    "the other's page, by its address": "(history.replaceState(null, '', OTHER), fetch(OTHER)).then((answer) => answer.text())",
    "the other's page in a frame": "new Promise((done, fail) => { const frame = document.createElement('iframe');"
    " frame.onload = () => frame.contentDocument"
    " ? done(frame.contentDocument.body.textContent) : fail(new Error('apart'));"
    " frame.src = OTHER; document.body.append(frame); })",
    "runs of the API": "fetch('/v1/runs').then((answer) => answer.text())",
}


def attempt(tab: Tab, script: str, other: str) -> str:
    """Returns the outcome of an attempt of a page: `done ...` or the error."""
    values = f"const OTHER = {json.dumps(other)}, OTHER_PATH = {json.dumps(urlsplit(other).path)};"
    tried = f"(async () => {{ {values} try {{ return 'done ' + String(await ({script})); }}"
    outcome = tab.run(f"{tried} catch (error) {{ return String(error.name); }} }})()")
    assert isinstance(outcome, str), (script, outcome)
    return outcome


def cookies(tab: Tab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tab.call("Storage.getCookies")["cookies"]
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rules = "MAP *.sandboxes.test 127.0.0.1, MAP *.localhost 127.0.0.1, MAP * ~NOTFOUND"
    with chromium(tmp_path_factory.mktemp("profile"), f"{rules}, EXCLUDE 127.0.0.1") as address:
        yield address


def serve(sandbox: Sandbox) -> str:
    """Starts the hostile server and returns the path form of its URL."""
    sandbox.write_text("/srv/hostile.py", HOSTILE)
    sandbox.exec("nohup setsid python3 /srv/hostile.py >/srv/log 2>&1 &")
    url = sandbox.url(port=8000)
    end = time.monotonic() + 30
    while httpx.get(url).status_code != 200:
        assert time.monotonic() < end, sandbox.exec("cat /srv/log").stdout
        time.sleep(0.1)
    return url


def local(url: str) -> str:
    """Returns the URL of the same port at the sandbox's own name below `localhost`."""
    parts = urlsplit(url)
    _, _, run, rest = parts.path.split("/", 3)
    return f"http://{run}.localhost:{parts.port}/sb/{rest}"


def test_pages_on_the_shared_origin_are_isolated(browser: str) -> None:
    with Sandbox("host") as one, Sandbox("host") as two:
        own, other = serve(one), serve(two)
        origin = "http://" + urlsplit(own).netloc
        with Tab.open(browser, own) as tab:
            tab.until("document.title", "page")
            # A cookie of the server's own that must not be removed.
            tab.call("Network.setCookie", name="kept", value="1", url=origin, path="/")
            tab.call("Page.reload")
            tab.until("document.title", "page")
            for name, script in ATTEMPTS.items():
                outcome = attempt(tab, script, other)
                # Anyone who knows the other's id can read its pages without a browser, too.
                known = "fetch(OTHER" in script and outcome.startswith("done <!doctype")
                assert known or not outcome.startswith("done"), (name, outcome)
            for script in (
                "localStorage.x = 1",
                "indexedDB.open('x')",
                "document.cookie = 'x=1'",
                "caches.open('x')",
            ):
                outcome = attempt(tab, script, other)
                assert outcome == "SecurityError", (script, outcome)
            # One of the attempts has set the page's address to that of the other.
            tab.call("Page.navigate", url=own)
            tab.until("document.title + location.href", f"page{own}")
            # It can use its own port, including with requests that need a preflight.
            assert attempt(tab, "fetch('api').then((a) => a.text())", other) == 'done {"said": ""}'
            posted = (
                "fetch('api', {method: 'POST', body: '{}',"
                " headers: {'content-type': 'application/json'}}).then((a) => a.text())"
            )
            assert attempt(tab, posted, other) == 'done {"said": "{}"}'
            found = cookies(tab)
            assert [cookie["name"] for cookie in found if cookie["path"] == "/"] == ["kept"]
            prefixes = {urlsplit(url).path for url in (own, other)}
            assert {cookie["path"] for cookie in found} <= {"/", *prefixes}, found
            assert {cookie["domain"] for cookie in found} == {"127.0.0.1"}, found
            tab.call("Storage.clearCookies")


def test_each_sandbox_has_its_own_origin_below_localhost(browser: str) -> None:
    with Sandbox("host") as one, Sandbox("host") as two:
        own, other = local(serve(one)), local(serve(two))
        with Tab.open(browser, other) as tab:
            tab.until("document.title", "page")
            tab.run("localStorage.secret = 'of the other'")
        with Tab.open(browser, own) as tab:
            tab.until("document.title", "page")
            assert tab.run("isSecureContext") is True
            for name, script in ATTEMPTS.items():
                if "OTHER_PATH" in script:
                    continue
                outcome = attempt(tab, script, other)
                if script.startswith("fetch('/v1/runs')"):
                    # At its own name no key is accepted either.
                    assert "unauthorized" in outcome, outcome
                    continue
                assert not outcome.startswith("done"), (name, outcome)
            # Its own storage, cookies, and a worker for its own port work.
            assert (
                attempt(tab, "(localStorage.x = 1, localStorage.secret)", other) == "done undefined"
            )
            assert attempt(tab, "(document.cookie = 'x=1', 1)", other) == "done 1"
            worker = "navigator.serviceWorker.register('sw.js').then((worker) => worker.scope)"
            assert attempt(tab, worker, other) == f"done {own}"
            assert not [c for c in cookies(tab) if c["domain"].startswith(".")], cookies(tab)
        with Tab.open(browser, other) as tab:
            tab.until("document.title", "page")
            assert tab.run("localStorage.secret") == "of the other", "it was cleared"
            tab.call("Storage.clearCookies")


def test_cookies_are_not_set_for_the_parent_domain(browser: str, tmp_path: Path) -> None:
    with serving(tmp_path, "--domain", "http://sandboxes.test") as server:
        address, key = server.url, server.key
        port = urlsplit(address).port
        with (
            Sandbox("host", api_url=address, api_key=key) as one,
            Sandbox("host", api_url=address, api_key=key) as two,
        ):
            urls = []
            for sandbox in (one, two):
                sandbox.write_text("/srv/hostile.py", HOSTILE)
                sandbox.exec("nohup setsid python3 /srv/hostile.py >/srv/log 2>&1 &")
                host = urlsplit(sandbox.url(port=8000)).hostname
                end = time.monotonic() + 30
                headers = {"host": f"{host}:{port}"}
                while httpx.get(f"{address}/sb/p/8000/", headers=headers).status_code != 200:
                    assert time.monotonic() < end
                    time.sleep(0.1)
                urls.append(f"http://{host}:{port}/sb/p/8000/")
            own, other = urls
            with Tab.open(browser, other) as tab:
                tab.until("document.title", "page")
                tab.run("localStorage.secret = 'of the other'")
            with Tab.open(browser, own) as tab:
                tab.until("document.title", "page")
                host = urlsplit(own).hostname
                assert not [
                    c
                    for c in cookies(tab)
                    if c["domain"].endswith(".sandboxes.test")
                    and c["domain"] not in {urlsplit(url).hostname for url in urls}
                ]
                found = [c for c in cookies(tab) if c["domain"] == host]
                assert found and not [c for c in found if c["domain"].startswith(".")], found
                assert {c["path"] for c in found} == {"/sb/p/8000/"}, found
                outcome = attempt(tab, "fetch(OTHER).then((answer) => answer.text())", other)
                assert outcome == "TypeError", outcome
                # The id is not sent to other origins, nor to the other sandbox.
                script = "fetch(OTHER, {mode: 'no-cors', referrerPolicy: 'same-origin'})"
                assert attempt(tab, f"{script}.then(() => document.referrer)", other) == "done "
            with Tab.open(browser, other) as tab:
                tab.until("document.title", "page")
                assert tab.run("localStorage.secret") == "of the other", "it was cleared"
