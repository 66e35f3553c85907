"""Downloads of runtimes: the archives of a release, from a real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import isola

VERSION = "9.9.9"
ARCHIVE = f"/v{VERSION}/isola-js.tar.gz"


class Releases:
    """A server of one release, which serves a directory."""

    def __init__(self, root: Path) -> None:
        self.directory = root / f"v{VERSION}"
        self.directory.mkdir(parents=True)
        for name in ("isola-js.tar.gz", "isola-js.tar.gz.sha256"):
            (self.directory / name).write_bytes(
                Path(os.environ["ISOLA_ARCHIVES"], name).read_bytes()
            )
        self.requested: list[str] = []
        releases = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *_: object) -> None:
                releases.requested.append(self.path)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    running = Releases(tmp_path / "releases")
    yield running
    running.close()


async def test_a_release_is_downloaded_once_and_runs(releases: Releases, tmp_path: Path) -> None:
    seen: list[isola.Progress] = []
    template = await isola.build_template(
        "js",
        version=VERSION,
        runtimes_dir=tmp_path / "runtimes",
        download_url=releases.url,
        on_progress=seen.append,
    )
    async with template.create() as sandbox:
        await sandbox.load_script("const f = () => 42;")
        assert await sandbox.run("f") == 42
    size = (releases.directory / "isola-js.tar.gz").stat().st_size
    downloads = [progress for progress in seen if progress.phase == "download"]
    assert downloads[-1] == isola.Progress("download", size, size)
    assert releases.requested == [f"{ARCHIVE}.sha256", ARCHIVE]

    found = await isola.resolve_runtime(
        "js", version=f"v{VERSION}", runtimes_dir=tmp_path / "runtimes", download_url=releases.url
    )
    component = tmp_path / "runtimes" / VERSION / "js" / "js.wasm"
    assert found == isola.RuntimeConfig("js", VERSION, component)
    assert len(releases.requested) == 2


async def test_missing_or_invalid_releases_are_refused(releases: Releases, tmp_path: Path) -> None:
    runtimes_dir = tmp_path / "runtimes"
    resolve = partial(
        isola.resolve_runtime, "js", runtimes_dir=runtimes_dir, download_url=releases.url
    )
    with pytest.raises(isola.DownloadError, match=r"v8\.8\.8/isola-js\.tar\.gz.*404") as caught:
        await resolve(version="8.8.8")
    assert caught.value.code == "download_failed"
    with pytest.raises(isola.DownloadError, match="and not 0{64}") as caught:
        await resolve(version=VERSION, runtime_sha256="0" * 64)
    assert caught.value.code == "download_refused"
    (releases.directory / "isola-js.tar.gz").write_bytes(b"something else")
    with pytest.raises(isola.DownloadError, match="SHA-256 digest is") as caught:
        await resolve(version=VERSION)
    assert caught.value.code == "download_refused"
    digest = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(isola.DownloadError, match="damaged"):
        await resolve(version=VERSION, runtime_sha256=digest)
    left = [path for path in runtimes_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


async def test_a_download_can_be_cancelled(tmp_path: Path) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        # Reads until the end of the connection.
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        resolving = asyncio.create_task(
            isola.resolve_runtime(
                "js",
                version=VERSION,
                runtimes_dir=tmp_path,
                download_url=f"http://127.0.0.1:{port}",
            )
        )
        await asked.wait()
        resolving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resolving
        await gone.wait()


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_cache_directory_of_the_user_is_the_default(
    releases: Releases, tmp_path: Path, variable: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    program = (
        "import isola.sync as isola\n"
        f"isola.build_template('js', version={VERSION!r}, download_url={releases.url!r})\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, variable: str(home)},
        check=True,
        timeout=120,
    )
    cache = home / ".cache" if variable == "HOME" else home
    assert (cache / "isola" / "runtimes" / VERSION / "js" / "js.wasm").is_file()
    assert list((cache / "isola" / "compiled").glob("*.cwasm"))


async def test_invalid_options_are_named(tmp_path: Path) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"version": "../1"}, "is not the version of a release"),
        ({"version": 1}, "version is 1: give a string"),
        ({"version": VERSION, "download_url": "ftp://a.test"}, "use https"),
        (
            {"version": VERSION, "download_url": "http://a.test"},
            "use https, or give the SHA-256 digest",
        ),
        ({"download_url": 1}, "download_url is 1"),
        ({"runtime_sha256": 1}, "runtime_sha256 is 1"),
        ({"version": VERSION, "runtime_sha256": "abc"}, '"abc" is not a SHA-256 digest'),
        ({"runtimes_dir": 1}, "runtimes_dir is 1: give a path"),
        ({"runtime_path": 1}, "runtime_path is 1: give a path"),
        ({"on_progress": 1}, "on_progress is 1: give a function"),
    ]
    for options, why in bad:
        given: dict[str, Any] = {"runtimes_dir": tmp_path, **options}
        with pytest.raises(isola.InvalidArgumentError, match=why):
            await isola.resolve_runtime("js", **given)
