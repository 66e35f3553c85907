"""What the guest has under way at the host: hostcalls and HTTP requests.

Each has a number. The event loop takes the host's news and settles the future
that waits for that number.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import asyncio
from itertools import count

from componentize_py_types import Err
from wit_world.imports import host

from . import values


class HostcallError(RuntimeError):
    """The host refused or failed. The message is the host's."""

    __module__ = "sandbox.asyncio"


class RequestError(OSError):
    """An HTTP request failed. The message is the host's."""

    __module__ = "sandbox.http"


# Number -> the future that waits for its next news, and the type of a failure.
waiting = {}

_numbers = count(1)


def hostcall(name, payload):
    """Starts a hostcall and returns the future of its result."""
    if not isinstance(name, str):
        raise TypeError(f"a hostcall's name is a str, not {type(name).__name__}")
    number = next(_numbers)
    _start(HostcallError, host.hostcall, number, name, values.encode(payload))
    return _future(number, HostcallError)


class Exchange:
    """An HTTP request and its response."""

    def __init__(self, request):
        self._number = next(_numbers)
        self._over = False
        _start(RequestError, host.fetch, self._number, request)

    async def head(self):
        """The response without its body."""
        try:
            return await _future(self._number, RequestError)
        except BaseException:
            self.close()
            raise

    async def next(self):
        """Some bytes of the body, or `b""` at its end."""
        if self._over:
            return b""
        _start(RequestError, host.read, self._number)
        try:
            data = await _future(self._number, RequestError)
        except BaseException:
            self.close()
            raise
        self._over = not data
        return data

    def close(self):
        """Closes the connection, wherever the response is."""
        if not self._over:
            self._over = True
            host.abandon(self._number)


def settle(completions):
    """Settles the futures that there is news for."""
    for completion in completions:
        future, failure = waiting.pop(completion.id, (None, None))
        if future is None or future.done():
            continue
        outcome = completion.outcome
        if isinstance(outcome, host.Outcome_Value):
            future.set_result(values.decode(outcome.value))
        elif isinstance(outcome, host.Outcome_Failed):
            future.set_exception(failure(outcome.value))
        elif isinstance(outcome, host.Outcome_End):
            future.set_result(b"")
        else:
            future.set_result(outcome.value)


def _start(failure, start, *arguments):
    try:
        start(*arguments)
    except Err as refusal:
        raise failure(refusal.value) from None


def _future(number, failure):
    future = asyncio.get_running_loop().create_future()
    waiting[number] = (future, failure)
    future.add_done_callback(lambda future: _forget(number, future))
    return future


def _forget(number, future):
    # Cancelled while it was under way: the host need not go on.
    if future.cancelled() and waiting.pop(number, None) is not None:
        host.abandon(number)
