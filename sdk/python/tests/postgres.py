"""A PostgreSQL server of the tests' own, as `crates/test-support` starts it."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# The user that the server runs as if the tests run as root, which PostgreSQL refuses.
UNPRIVILEGED_USER = 65534
# Where Debian's packages have the programs of each version, below the root.
VERSIONS = "usr/lib/postgresql"
# Shows the unpacked packages in a directory that every user can reach: the checkout may be one
# that only root can enter. Only the program and its children have the mount.
MOUNTED = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


@contextmanager
def postgres() -> Iterator[str]:
    """Starts a server without passwords, and yields the URL of its database. It is killed at
    the end, also at that of this process."""
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        (directory / "files").mkdir()
        if os.geteuid() == 0:
            os.chown(directory, UNPRIVILEGED_USER, UNPRIVILEGED_USER)
        with (directory / "log").open("w+") as log:
            yield from _serve(directory, log)
    finally:
        shutil.rmtree(directory)


def _serve(directory: Path, log: IO[str]) -> Iterator[str]:
    files = ["-D", str(directory / "data")]
    options = ["-U", "isorun", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
    subprocess.run(
        [*_program("initdb", directory), *files, *options],
        env=_environment(),
        cwd=directory,
        check=True,
        stdout=log,
        stderr=log,
        timeout=120,
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = ["listen_addresses=127.0.0.1", "max_connections=300", "fsync=off"]
    options = [word for setting in settings for word in ("-c", setting)]
    process = subprocess.Popen(
        [*_program("postgres", directory), *files, *options]
        + ["-p", str(port), "-k", str(directory)],
        env=_environment(),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        _wait(process, port, directory / "log")
        yield f"postgres://isorun@127.0.0.1:{port}/postgres"
    finally:
        # It stops at once, as in a crash.
        process.send_signal(signal.SIGQUIT)
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Waits until the server accepts connections."""
    program, unpacked = _find("psql")
    psql = [*_with_libraries(unpacked), program, "-h", "127.0.0.1", "-p", str(port)]
    psql += ["-U", "isorun", "-XAtq", "-c", "SELECT 1", "postgres"]
    environment = _environment() | {"PGCONNECT_TIMEOUT": "5"}
    end = time.monotonic() + 60
    while subprocess.run(psql, env=environment, capture_output=True, timeout=60).returncode != 0:
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def _program(name: str, directory: Path) -> list[str]:
    """Returns a command of the server that runs as an unprivileged user and ends with this
    process."""
    program, unpacked = _find(name)
    command = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() != 0:
        return [*command, "--", *_with_libraries(unpacked), program]
    user = str(UNPRIVILEGED_USER)
    command += ["--reuid", user, "--regid", user, "--clear-groups", "--"]
    if unpacked is None:
        return [*command, program]
    mounted = directory / "files"
    own = str(mounted / Path(program).relative_to(unpacked))
    namespace = ["unshare", "--mount", "--", "sh", "-c", MOUNTED, "sh"]
    return [*namespace, str(unpacked), str(mounted), *command, *_with_libraries(mounted), own]


def _with_libraries(unpacked: Path | None) -> list[str]:
    """Returns the beginning of a command that finds the libraries of unpacked packages."""
    if unpacked is None:
        return []
    return ["env", f"LD_LIBRARY_PATH={unpacked}/usr/lib/{platform.machine()}-linux-gnu"]


def _find(name: str) -> tuple[str, Path | None]:
    """Finds a program of the newest version on this machine, or else among the packages that
    `cargo xtask test` has unpacked. Returns the directory of these packages, too."""
    found = sorted(Path("/", VERSIONS).glob(f"*/bin/{name}"))
    if found:
        return str(found[-1]), None
    if on_path := shutil.which(name):
        return on_path, None
    unpacked = Path(os.environ["ISORUN_POSTGRES_DIR"])
    found = sorted((unpacked / VERSIONS).glob(f"*/bin/{name}"))
    assert found, f"there is no {name}: `cargo xtask test sdk` installs it"
    return str(found[-1]), unpacked


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PGDATA"}
    return environment | {"LC_ALL": "C"}
