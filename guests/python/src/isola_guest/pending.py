"""Pending operations of the guest at the host: hostcalls and HTTP requests.

Each has a number. The event loop receives completions from the host and settles the
future that waits for that number.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import asyncio
import contextlib
import time
from asyncio.tasks import _eager_tasks
from itertools import count

from componentize_py_types import Err
from wit_world.imports import host

from . import stdio, values


class HostcallError(RuntimeError):
    """A hostcall was refused or failed. The message is the host's."""

    __module__ = "sandbox.asyncio"


class RequestError(OSError):
    """An HTTP request failed. The message is the host's."""

    __module__ = "sandbox.http"


# Maps a number to the future that waits for its next completion, and the type of a failure.
waiting = {}

# Maps a request's number to the future that waits until a chunk of its body is accepted.
_uploads = {}

_numbers = count(1)


async def hostcall(call_type, payload=None):
    """Calls the function that the host registered as `call_type`.

    Returns the host's result. Raises `HostcallError`, a `RuntimeError`,
    with the host's message if it refuses or fails.
    """
    if not isinstance(call_type, str):
        raise TypeError(f"a hostcall's name must be a str, not {type(call_type).__name__}")
    number = next(_numbers)
    loop = asyncio.get_running_loop()
    _start(HostcallError, host.hostcall, number, call_type, values.encode(payload))
    try:
        return await _completion(loop, number, HostcallError)
    except BaseException:
        # Cancelled while it was pending: the host need not continue.
        if waiting.pop(number, None) is not None:
            host.abandon(number)
        raise


class Exchange:
    """An HTTP request and its response.

    The coroutines of a blocking one never suspend: synchronous code can run them to
    their end with `run_blocking`, even while a loop is running.
    """

    # The time limit of each wait in seconds. After a `TimeoutError` the exchange is over.
    timeout = None

    def __init__(self, request, chunks, blocking):
        self._number = next(_numbers)
        self._blocking = blocking
        self._over = False
        # The chunks of the request's body if it is streamed, the task that sends
        # them, and the error of that task.
        self._chunks = chunks
        self._upload = None
        self._upload_error = None
        _start(RequestError, host.fetch, self._number, request)

    @property
    def is_over(self):
        """True if nothing more arrives, not even an error."""
        return self._over and self._upload_error is None

    async def head(self):
        """Sends a streamed body, and returns the response without its body."""
        try:
            if self._chunks is None:
                head = await self._next_completion()
            else:
                head = await self._send_and_wait()
        except BaseException:
            self.close()
            raise
        self._over = head.complete
        return head

    async def next(self):
        """Returns the next bytes of the body, or `b""` at its end."""
        if self._over:
            if self._upload_error is not None:
                raise self._upload_error
            return b""
        _start(RequestError, host.read, self._number)
        try:
            data = await self._next_completion()
        except BaseException:
            waiting.pop(self._number, None)
            self.close()
            raise
        self._over = not data
        return data

    def close(self):
        """Closes the connection, in any state of the request."""
        if self._upload is not None:
            self._upload.cancel()
        if not self._over:
            self._over = True
            host.abandon(self._number)

    async def _next_completion(self):
        if self._blocking:
            return _block(_sync_future(self._number, RequestError), self.timeout)
        loop = asyncio.get_running_loop()
        if self.timeout is None:
            return await _completion(loop, self._number, RequestError)
        return await self._waited(_future(loop, self._number, RequestError))

    async def _waited(self, future):
        """Waits for a future within the time limit."""
        if self._blocking:
            return _block(future, self.timeout)
        async with asyncio.timeout(self.timeout):
            return await future

    async def _send_and_wait(self):
        # The future is created first, since the response may arrive at any time.
        if self._blocking:
            head = _sync_future(self._number, RequestError)
            await self._send()
            return _block(head)
        head = _future(asyncio.get_running_loop(), self._number, RequestError)
        self._upload = asyncio.ensure_future(self._send())
        self._upload.add_done_callback(self._uploaded)
        return await head

    async def _send(self):
        async with contextlib.aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                if not await self._write(chunk):
                    return
        self._finish()

    def _finish(self):
        """Ends the request's body."""
        if not self._over:
            try:
                host.finish(self._number)
            except Err:
                # The request has ended.
                return

    async def _write(self, chunk):
        """Sends one chunk. Returns whether the host accepts more."""
        number = self._number
        if self._over:
            return False
        loop = asyncio.get_running_loop
        accepted = _uploads[number] = _SyncFuture() if self._blocking else loop().create_future()
        try:
            host.write(number, chunk)
            return await self._waited(accepted)
        except Err as refusal:
            # If the request has ended, its completion has the more specific error.
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


class PushedExchange(Exchange):
    """An exchange whose owner sends the body itself, piece by piece."""

    def __init__(self, request, blocking):
        super().__init__(request, None, blocking)
        # Created first, since the response may arrive at any time.
        if blocking:
            self._head = _sync_future(self._number, RequestError)
        else:
            self._head = _future(asyncio.get_running_loop(), self._number, RequestError)

    @property
    def has_response(self):
        """True if the response, or the error in its place, has arrived."""
        return self._head.done()

    async def send(self, piece):
        """Sends a piece of the body. Returns whether the host accepts more."""
        return await self._write(piece)

    def finish(self):
        """Ends the body, of which all pieces were sent."""
        self._finish()

    async def head(self):
        """Returns the response without its body."""
        try:
            head = await self._waited(self._head)
        except BaseException:
            self.close()
            raise
        self._over = head.complete
        return head

    def close(self):
        """Closes the connection, in any state of the request."""
        if not self._head.done():
            waiting.pop(self._number, None)
            if not self._blocking:
                self._head.cancel()
        super().close()


def run_blocking(coroutine):
    """Runs a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a blocking request was suspended")


def settle(completions):
    """Settles the futures of completed operations."""
    for completion in completions:
        number, outcome = completion.id, completion.outcome
        if isinstance(outcome, host.Outcome_Value):
            future, _ = waiting.pop(number, (None, None))
            if future is not None and not future.done():
                future.set_result(values.decode(outcome.value))
            continue
        if isinstance(outcome, host.Outcome_Taken):
            _accepted(number, outcome.value)
            continue
        future, failure = waiting.pop(number, (None, None))
        if isinstance(outcome, (host.Outcome_Failed, host.Outcome_End)):
            _accepted(number, False)
        if future is None or future.done():
            continue
        if isinstance(outcome, host.Outcome_Failed):
            future.set_exception(failure(outcome.value))
        elif isinstance(outcome, host.Outcome_End):
            future.set_result(b"")
        else:
            future.set_result(outcome.value)


def _accepted(number, more):
    future = _uploads.pop(number, None)
    if future is not None and not future.done():
        future.set_result(more)


def _start(failure, start, *arguments):
    try:
        start(*arguments)
    except Err as refusal:
        raise failure(refusal.value) from None


class _SyncFuture:
    """A minimal future for `settle`, for code that waits without an event loop."""

    result = error = None
    settled = False

    def done(self):
        return self.settled

    def set_result(self, result):
        self.result, self.settled = result, True

    def set_exception(self, error):
        self.error, self.settled = error, True


def _sync_future(number, failure):
    future = _SyncFuture()
    waiting[number] = (future, failure)
    return future


def _block(future, timeout=None):
    """Blocks until a future is settled. Other completions settle their own futures."""
    stdio.flush()
    if timeout is None:
        while not future.settled:
            settle(host.wait(None))
        return _result(future)
    end = time.monotonic() + timeout
    while not future.settled:
        rest = end - time.monotonic()
        if rest <= 0:
            raise TimeoutError("timed out")
        settle(host.wait(int(rest * 1e9) + 1))
    return _result(future)


def _result(future):
    if future.error is not None:
        raise future.error
    return future.result


async def _completion(loop, number, failure):
    """Waits for the completion of an operation that was started."""
    if _is_idle(loop):
        # Nothing could run before a completion arrives. Waiting here avoids a pass
        # through the loop, which takes a third of the time of a hostcall.
        future = _sync_future(number, failure)
        stdio.flush()
        settle(host.wait(None))
        if future.settled:
            return _result(future)
        # The completions were of other operations.
    return await _future(loop, number, failure)


def _is_idle(loop):
    """Returns whether a loop has nothing to run except its current task.

    Code that drives a coroutine by hand and relies on its suspension cannot be
    detected: it blocks.
    """
    return not (
        loop._ready
        or loop._scheduled
        or loop._selector.pollables
        # The code that runs the loop has the result that it waits for.
        or loop._stopping
        # Code that starts a task eagerly waits for its first suspension.
        or _eager_tasks
        or asyncio.current_task(loop) is None
    )


def _future(loop, number, failure):
    future = loop.create_future()
    waiting[number] = (future, failure)
    future.add_done_callback(lambda future: _forget(number, future))
    return future


def _forget(number, future):
    # Cancelled while it was pending: the host need not continue.
    if future.cancelled() and waiting.pop(number, None) is not None:
        host.abandon(number)
