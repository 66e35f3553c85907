"""Where the server is, and the key for it.

In this order: what the caller gave, the environment, what `isorun serve` wrote
for its own user, the usual address. The command `isorun` does the same.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ._errors import IsorunError

DEFAULT_URL = "http://127.0.0.1:7676"


@dataclass(frozen=True)
class Target:
    """A server to talk to."""

    url: str
    key: str | None

    @property
    def is_local(self) -> bool:
        return is_loopback(self.url)


def find(
    api_url: str | None, api_key: str | None, environ: Mapping[str, str] | None = None
) -> Target:
    """The server that these arguments mean."""
    environ = os.environ if environ is None else environ
    url = api_url or environ.get("ISORUN_API_URL")
    key = api_key or environ.get("ISORUN_API_KEY")
    local_url, local_key = (None, None) if url and key else _local(environ)
    # The key of this machine's server leaves this machine under no address.
    if not key and local_url and (
        not url or url == local_url or (is_loopback(url) and is_loopback(local_url))
    ):
        key = local_key
    url = (url or local_url or DEFAULT_URL).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise IsorunError(f"{url!r} is no http or https URL")
    if key is not None and not key.isascii():
        raise IsorunError("the API key has characters that no key has")
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
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise IsorunError(f"cannot read {path}: {error}") from error
    try:
        content = json.loads(text)
        url, key = content["api_url"], content["api_key"]
        if not isinstance(url, str) or not isinstance(key, str):
            raise TypeError("neither may be anything but text")
    except (ValueError, KeyError, TypeError) as error:
        raise IsorunError(
            f"{path} is damaged: remove it, and start the server again ({error})"
        ) from error
    return url, key
