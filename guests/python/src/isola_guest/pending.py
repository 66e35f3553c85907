"""What the guest has under way at the host: hostcalls and HTTP requests.

Each has a number. The event loop takes the host's news and settles the future
that waits for that number.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import asyncio
import contextlib
from asyncio.tasks import _eager_tasks
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

# Number of a request -> the future that waits until a piece of its body is taken.
_uploads = {}

_numbers = count(1)


async def hostcall(call_type, payload=None):
    """Calls the function that the host registered as `call_type`.

    Returns what the host returned. Raises `HostcallError`, a `RuntimeError`,
    with the host's message if it refuses or fails.
    """
    if not isinstance(call_type, str):
        raise TypeError(f"a hostcall's name is a str, not {type(call_type).__name__}")
    number = next(_numbers)
    loop = asyncio.get_running_loop()
    _start(HostcallError, host.hostcall, number, call_type, values.encode(payload))
    try:
        return await _news(loop, number, HostcallError)
    except BaseException:
        # Given up while it was under way: the host need not go on.
        if waiting.pop(number, None) is not None:
            host.abandon(number)
        raise


class Exchange:
    """An HTTP request and its response.

    A blocking one never suspends whoever awaits it: synchronous code may run
    its coroutines to their end with `run_blocking`, also while a loop runs.
    """

    def __init__(self, request, pieces, blocking):
        self._number = next(_numbers)
        self._blocking = blocking
        self._over = False
        # The pieces of the request's body, if it comes in pieces; then the
        # task that sends them, and what went wrong there.
        self._pieces = pieces
        self._upload = None
        self._upload_error = None
        _start(RequestError, host.fetch, self._number, request)

    @property
    def is_over(self):
        """Whether nothing more comes, not even an error."""
        return self._over and self._upload_error is None

    async def head(self):
        """Sends the body, if it comes in pieces. The response without its body."""
        try:
            if self._pieces is None:
                head = await self._next_news()
            else:
                head = await self._send_and_wait()
        except BaseException:
            self.close()
            raise
        self._over = head.complete
        return head

    async def next(self):
        """Some bytes of the body, or `b""` at its end."""
        if self._over:
            if self._upload_error is not None:
                raise self._upload_error
            return b""
        _start(RequestError, host.read, self._number)
        try:
            data = await self._next_news()
        except BaseException:
            self.close()
            raise
        self._over = not data
        return data

    def close(self):
        """Closes the connection, wherever the request is."""
        if self._upload is not None:
            self._upload.cancel()
        if not self._over:
            self._over = True
            host.abandon(self._number)

    async def _next_news(self):
        if self._blocking:
            return _block(_box(self._number, RequestError))
        return await _news(asyncio.get_running_loop(), self._number, RequestError)

    async def _send_and_wait(self):
        # What waits is there first: the response may come at any time.
        if self._blocking:
            news = _box(self._number, RequestError)
            await self._send()
            return _block(news)
        news = _future(asyncio.get_running_loop(), self._number, RequestError)
        self._upload = asyncio.ensure_future(self._send())
        self._upload.add_done_callback(self._uploaded)
        return await news

    async def _send(self):
        async with contextlib.aclosing(self._pieces) as pieces:
            async for piece in pieces:
                if not await self._write(piece):
                    return
        if not self._over:
            try:
                host.finish(self._number)
            except Err:
                # The request is over.
                return

    async def _write(self, piece):
        """Sends one piece. Whether more is wanted."""
        number = self._number
        if self._over:
            return False
        loop = asyncio.get_running_loop
        taken = _uploads[number] = _Box() if self._blocking else loop().create_future()
        try:
            host.write(number, piece)
            return _block(taken) if self._blocking else await taken
        except Err as refusal:
            # If the request is over, its end says more than this.
            if (known := waiting.get(number)) is None or known[0].done():
                return False
            raise RequestError(refusal.value) from None
        finally:
            _uploads.pop(number, None)

    def _uploaded(self, task):
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._upload_error = error
        future, _ = waiting.pop(self._number, (None, None))
        self.close()
        if future is not None and not future.done():
            future.set_exception(error)


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
        number, outcome = completion.id, completion.outcome
        if isinstance(outcome, host.Outcome_Value):
            future, _ = waiting.pop(number, (None, None))
            if future is not None and not future.done():
                future.set_result(values.decode(outcome.value))
            continue
        if isinstance(outcome, host.Outcome_Taken):
            _taken(number, outcome.value)
            continue
        future, failure = waiting.pop(number, (None, None))
        if isinstance(outcome, (host.Outcome_Failed, host.Outcome_End)):
            _taken(number, False)
        if future is None or future.done():
            continue
        if isinstance(outcome, host.Outcome_Failed):
            future.set_exception(failure(outcome.value))
        elif isinstance(outcome, host.Outcome_End):
            future.set_result(b"")
        else:
            future.set_result(outcome.value)


def _taken(number, more):
    future = _uploads.pop(number, None)
    if future is not None and not future.done():
        future.set_result(more)


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


def _box(number, failure):
    box = _Box()
    waiting[number] = (box, failure)
    return box


def _block(box):
    """Waits here and now. News for others is passed on to their futures."""
    stdio.flush()
    while not box.settled:
        settle(host.wait(None))
    return _opened(box)


def _opened(box):
    if box.error is not None:
        raise box.error
    return box.result


async def _news(loop, number, failure):
    """Waits for the news of what was started."""
    if _is_alone(loop):
        # Nothing could run before there is news: waiting here saves the way
        # through the loop, which is a third of the time of a hostcall.
        box = _box(number, failure)
        stdio.flush()
        settle(host.wait(None))
        if box.settled:
            return _opened(box)
        # It was for others.
    return await _future(loop, number, failure)


def _is_alone(loop):
    """Whether a loop has nothing to do but for its current task.

    (Code that drives a coroutine by hand, and counts on it to be suspended, is
    not seen. It waits.)
    """
    return not (
        loop._ready
        or loop._scheduled
        or loop._selector.pollables
        # Whoever runs the loop has what it waits for.
        or loop._stopping
        # A task that is started eagerly is waited for by the code around it.
        or _eager_tasks
        or asyncio.current_task(loop) is None
    )


def _future(loop, number, failure):
    future = loop.create_future()
    waiting[number] = (future, failure)
    future.add_done_callback(lambda future: _forget(number, future))
    return future


def _forget(number, future):
    # Cancelled while it was under way: the host need not go on.
    if future.cancelled() and waiting.pop(number, None) is not None:
        host.abandon(number)
