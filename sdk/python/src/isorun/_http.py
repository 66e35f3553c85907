"""The configuration and the exceptions of httpx, the same for both halves of the package."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from ._config import Target
from ._errors import IsorunConnectionError, IsorunTimeoutError
from ._protocol import CONNECT_TIMEOUT

# The size of the chunks in which a file is uploaded.
CHUNK_BYTES = 1 << 20


def client_options(target: Target) -> dict[str, Any]:
    """Returns the arguments of the constructor of a client."""
    headers = {"user-agent": "isorun-python/0.1.0"}
    if target.key:
        headers["authorization"] = f"Bearer {target.key}"
    return {
        "base_url": target.url,
        "headers": headers,
        "verify": _certificates() if target.url.startswith("https:") else _no_certificates(),
        # Proxy settings of the environment do not apply to a server on this machine.
        "trust_env": not target.is_local,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


# Cached, because loading the system's certificates takes longer than creating a sandbox.
@functools.lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@functools.lru_cache(maxsize=1)
def _no_certificates() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def timeouts(read: float | None) -> httpx.Timeout:
    """Returns the timeouts of a request, of which only the one for reading differs."""
    return httpx.Timeout(read, connect=CONNECT_TIMEOUT, pool=CONNECT_TIMEOUT)


@contextmanager
def map_errors(url: str) -> Iterator[None]:
    """Converts exceptions of httpx to those of this package."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise IsorunConnectionError(
            f"cannot connect to an isorun server at {url}: {error}"
        ) from error
    except httpx.TimeoutException as error:
        raise IsorunTimeoutError(
            f"the server at {url} did not answer in time ({type(error).__name__})"
        ) from error
    except httpx.ConnectError as error:
        raise IsorunConnectionError(
            f"cannot connect to an isorun server at {url}: {error}. Start one with `isorun serve`"
        ) from error
    except httpx.TransportError as error:
        raise IsorunConnectionError(f"the connection to {url} failed: {error}") from error
