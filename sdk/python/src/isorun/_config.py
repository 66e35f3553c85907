"""The address of the server, and the API key.

The sources, in this order: the arguments, the environment, the file that
`isorun serve` wrote for its own user, the default address. The command `isorun`
uses the same.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ._errors import IsorunError

DEFAULT_URL = "http://127.0.0.1:7676"


@dataclass(frozen=True)
class Target:
    """The address and the API key of a server."""

    url: str
    key: str | None

    @property
    def is_local(self) -> bool:
        return is_loopback(self.url)


def find(
    api_url: str | None, api_key: str | None, environ: Mapping[str, str] | None = None
) -> Target:
    """Returns the server for these arguments."""
    environ = os.environ if environ is None else environ
    url = api_url or environ.get("ISORUN_API_URL")
    key = api_key or environ.get("ISORUN_API_KEY")
    local_url, local_key = (None, None) if url and key else _local(environ)
    # The key of this machine's server is never sent to another machine.
    if (
        not key
        and local_url
        and (not url or url == local_url or (is_loopback(url) and is_loopback(local_url)))
    ):
        key = local_key
    url = (url or local_url or DEFAULT_URL).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise IsorunError(f"{url!r} is not an http or https URL")
    if key is not None and not key.isascii():
        raise IsorunError("the API key contains non-ASCII characters: copy it again")
    return Target(url, key)


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _local(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    path = Path(base) / "isorun" / "client.json"
    try:
        with path.open(encoding="utf-8") as file:
            _restrict(file.fileno(), path)
            text = file.read()
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise IsorunError(f"cannot read {path}: {error}") from error
    try:
        content = json.loads(text)
        url, key = content["api_url"], content["api_key"]
        if not isinstance(url, str) or not isinstance(key, str):
            raise TypeError("api_url and api_key must be strings")
    except (ValueError, KeyError, TypeError) as error:
        raise IsorunError(
            f"{path} is damaged: remove it, and start the server again ({error})"
        ) from error
    return url, key


def _restrict(descriptor: int, path: Path) -> None:
    """Rejects a file that another user could have written, and removes the permissions
    of other users to read it."""
    if not hasattr(os, "geteuid"):  # Windows has access lists instead of modes.
        return
    status = os.fstat(descriptor)
    mode, own = stat.S_IMODE(status.st_mode), status.st_uid == os.geteuid()
    if mode & 0o022 or not (own or status.st_uid == 0):
        raise IsorunError(
            f"{path} can be written by other users (mode {mode:04o}, owner {status.st_uid}), "
            "who could have changed the address or the key in it: "
            f"check it, then run `chmod 600 {path}` as its owner"
        )
    if mode & 0o077 and own:
        # The mode cannot be changed on a read-only file system.
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode & 0o700)
