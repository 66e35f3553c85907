"""Connections to a sandbox from any event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .._async_sandbox import AsyncSandbox
from .._errors import IsorunError

# The errors of a sandbox that will never answer again.
GONE = frozenset({"run_destroyed", "run_not_found", "sandbox_died"})

# The timeout of an adapter's own commands, such as the removal of a directory, in seconds.
SCRIPT_TIMEOUT = 120.0


@asynccontextmanager
async def attached(
    sandbox_id: str, api_url: str | None, api_key: str | None
) -> AsyncIterator[AsyncSandbox]:
    """Returns a context manager of a client for an existing sandbox, which is not asked for.

    Frameworks use one adapter from several event loops, one after the other, and do not tell it
    when the last one ends. A client belongs to one event loop: this one is closed at the end of
    the block.
    """
    sandbox = AsyncSandbox("", timeout=SCRIPT_TIMEOUT, api_url=api_url, api_key=api_key)
    sandbox.id = sandbox_id
    try:
        yield sandbox
    finally:
        await sandbox.close()


def is_gone(error: IsorunError) -> bool:
    """True if the sandbox does not exist any more, so that another attempt cannot succeed."""
    return error.kind in GONE
