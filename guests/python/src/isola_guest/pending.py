"""What the guest has under way at the host: hostcalls and HTTP requests.

Each has a number. The event loop takes the host's news and settles the future
that waits for that number.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import asyncio
from itertools import count

from componentize_py_types import Err
from wit_world.imports import host

from . import stdio, values


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
    """An HTTP request and its response.

    A blocking one never suspends whoever awaits it: synchronous code may run
    its coroutines to their end with `run_blocking`, also while a loop runs.
    """

    def __init__(self, request, blocking):
        self._number = next(_numbers)
        self._blocking = blocking
        self._over = False
        _start(RequestError, host.fetch, self._number, request)

    async def head(self):
        """The response without its body."""
        return await self._news()

    async def next(self):
        """Some bytes of the body, or `b""` at its end."""
        if self._over:
            return b""
        _start(RequestError, host.read, self._number)
        data = await self._news()
        self._over = not data
        return data

    async def _news(self):
        try:
            if self._blocking:
                return _block(self._number, RequestError)
            return await _future(self._number, RequestError)
        except BaseException:
            self.close()
            raise

    def close(self):
        """Closes the connection, wherever the response is."""
        if not self._over:
            self._over = True
            host.abandon(self._number)


def run_blocking(coroutine):
    """Runs a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a blocking request was suspended")


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


class _Box:
    """What a future is to `settle`, for who waits without a loop."""

    result = error = None
    settled = False

    def done(self):
        return self.settled

    def set_result(self, result):
        self.result, self.settled = result, True

    def set_exception(self, error):
        self.error, self.settled = error, True


def _block(number, failure):
    """Waits here and now. News for others is passed on to their futures."""
    box = _Box()
    waiting[number] = (box, failure)
    stdio.flush()
    while not box.settled:
        settle(host.wait(None))
    if box.error is not None:
        raise box.error
    return box.result


def _future(number, failure):
    future = asyncio.get_running_loop().create_future()
    waiting[number] = (future, failure)
    future.add_done_callback(lambda future: _forget(number, future))
    return future


def _forget(number, future):
    # Cancelled while it was under way: the host need not go on.
    if future.cancelled() and waiting.pop(number, None) is not None:
        host.abandon(number)
