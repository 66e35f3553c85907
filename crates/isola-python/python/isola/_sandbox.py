"""Sandboxes: isolated interpreters, each with its own state."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, AsyncGenerator

from . import _native
from ._arguments import PreparedCall, prepare
from ._bridge import call, callback, settled
from ._code import Context, Execution, ExecutionBuilder, ExecutionError, Result
from ._contexts import Contexts, context_id
from ._errors import InvalidArgumentError, IsolaError
from ._events import Event, from_native
from ._files import Files
from ._json import decode
from ._options import Limits, seconds
from ._snapshot import Snapshot

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ._arguments import JsonValue
    from ._dispatch import Dispatcher
    from ._options import RuntimeName


class Sandbox:
    """An isolated interpreter, from `SandboxTemplate.create` or `instantiate`.

    It runs one operation at a time: a second one fails with `sandbox is busy`. Its files
    can be used at any time.
    Cancelling the task that awaits an operation stops the guest and closes the
    sandbox.
    """

    def __init__(
        self, native: _native.Sandbox, runtime: RuntimeName, dispatcher: Dispatcher
    ) -> None:
        self._native = native
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._streams_ready = False
        # A sandbox that continues from a snapshot has been started.
        self._started = False

    @property
    def runtime(self) -> RuntimeName:
        """The name of the runtime, such as `"python"`."""
        return self._runtime

    @property
    def closed(self) -> bool:
        """True if it was closed by its owner, a cancelled call, a limit or a crash."""
        return self._native.is_closed()

    @property
    def files(self) -> Files:
        """The files of the sandbox."""
        return Files(_native.files_of(self._native))

    @property
    def contexts(self) -> Contexts:
        """The contexts of the sandbox, in which `run_code` runs code."""
        return Contexts(self._native, self._runtime)

    async def start(
        self, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> None:
        """Prepares the interpreter and runs the template's prelude. Must be called once, first."""
        limits = _limits(timeout, cpu_timeout)
        self._dispatcher.enter_call()
        await call(lambda loop, done: self._native.start(limits, loop, done))

    async def load_script(
        self,
        code: str,
        *,
        name: str | None = None,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
    ) -> None:
        """Runs source code at the top level. `name` appears in tracebacks.

        `timeout` limits the wall time of this operation and `cpu_timeout` its
        CPU time, both in seconds.
        """
        limits = _limits(timeout, cpu_timeout)
        self._dispatcher.enter_call()
        await call(lambda loop, done: self._native.load(code, name, limits, loop, done))

    async def run(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
        **kwargs: Any,
    ) -> JsonValue:
        """Calls a function that a script defined, and returns its result.

        Arguments are JSON values, `Arg` or `StreamArg`. `timeout` and
        `cpu_timeout` are this call's limits, in seconds; an argument of the
        guest's function with such a name is passed as `Arg(value, "timeout")`.
        """
        limits = _limits(timeout, cpu_timeout)
        prepared = prepare(function, args, kwargs)
        async with _OpenStreams(self, prepared):
            self._dispatcher.enter_call()
            text = await call(
                lambda loop, done: self._native.run(
                    prepared.function, prepared.arguments, limits, loop, done
                )
            )
        return decode(text)

    async def run_stream(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[Event, None]:
        """Does the same as `run` and yields the events as they happen.

        The last event is an `EndEvent` or an `ErrorEvent`. Leaving the loop
        early stops the guest and closes the sandbox; use `contextlib.aclosing`
        to make that happen immediately.
        """
        limits = _limits(timeout, cpu_timeout)
        prepared = prepare(function, args, kwargs)
        loop = asyncio.get_running_loop()
        async with _OpenStreams(self, prepared):
            self._dispatcher.enter_call()
            stream = self._native.run_stream(prepared.function, prepared.arguments, limits, loop)
            async with aclosing(_follow(stream, loop)) as events:
                async for event in events:
                    yield event

    async def evaluate(
        self,
        source: str,
        *,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
    ) -> JsonValue:
        """Runs source code at the top level, and returns the value of its last expression.

        That is `None` if the code does not end in an expression. A value that JSON
        cannot represent is returned as text: its `repr`, or `String(value)` in
        JavaScript. All evaluated code and all scripts share their globals. `timeout`
        and `cpu_timeout` are the limits of this operation, in seconds.
        """
        limits = _limits(timeout, cpu_timeout)
        code = _source(source)
        self._dispatcher.enter_call()
        text = await call(lambda loop, done: self._native.evaluate(code, limits, loop, done))
        return decode(text)

    async def evaluate_stream(
        self,
        source: str,
        *,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Does the same as `evaluate` and yields the events, like `run_stream`."""
        limits = _limits(timeout, cpu_timeout)
        code = _source(source)
        loop = asyncio.get_running_loop()
        self._dispatcher.enter_call()
        stream = self._native.evaluate_stream(code, limits, loop)
        async with aclosing(_follow(stream, loop)) as events:
            async for event in events:
                yield event

    async def run_code(
        self,
        code: str,
        *,
        language: str | None = None,
        context: str | Context | None = None,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        on_result: Callable[[Result], object] | None = None,
        on_error: Callable[[ExecutionError], object] | None = None,
    ) -> Execution:
        """Runs code as in a notebook, and returns what it shows.

        That is the value of its last expression, other results, output, and the exception
        that ended it, which is not raised here. Code knows what earlier code in the same
        `context` has defined; by default that is the context `default`. `language` is that
        of the sandbox.

        `timeout` limits the wall time, in seconds. Python code that exceeds it is
        interrupted, and `error` is named `TimeoutError`; code that does not end then, and
        JavaScript, is stopped, which closes the sandbox, as `cpu_timeout` does.

        The functions `on_...` receive output, results and the exception as they happen.
        They may be coroutine functions. If one raises, the code is interrupted, and
        `run_code` raises the same exception.
        """
        listeners: dict[str, Callable[[Any], object] | None] = {
            "stdout": on_stdout,
            "stderr": on_stderr,
            "result": on_result,
            "error": on_error,
        }
        for kind, listener in listeners.items():
            if listener is not None and not callable(listener):
                raise InvalidArgumentError(f"on_{kind} is {listener!r}: give a function")
        limits = _limits(timeout, cpu_timeout)
        source = _source(code, "code")
        name = None if context is None else context_id(context)
        if language is not None and not isinstance(language, str):
            raise InvalidArgumentError(f"language is {language!r}: give a string")
        loop = asyncio.get_running_loop()
        self._dispatcher.enter_call()
        stream = _native.run_code(self._native, source, language, name, limits, loop)
        builder = ExecutionBuilder()
        raised: Exception | None = None
        async with aclosing(_records(stream, loop)) as records:
            async for kind, text, detail in records:
                if kind != "code":
                    assert isinstance(detail, IsolaError)
                    raise raised or detail
                kind, value = builder.add(text)
                listener = listeners.get(kind)
                if listener is None or raised is not None:
                    continue
                try:
                    done = listener(value)
                    if inspect.isawaitable(done):
                        await done
                except Exception as error:
                    raised = error
                    self.interrupt()
        if raised is not None:
            raise raised
        return builder.execution()

    def interrupt(self) -> bool:
        """Interrupts the code that `run_code` runs, and reports whether there is any.

        Python code gets a `KeyboardInterrupt`, as from Ctrl-C, also in a loop or in a wait;
        its context keeps its state. JavaScript is interrupted only while it waits. Code
        that does not end within two seconds is stopped, which closes the sandbox.
        """
        return _native.interrupt(self._native, None)

    async def finish(
        self, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> None:
        """Shuts the interpreter down in order and closes the sandbox.

        A Python guest runs its `atexit` handlers, finalizers and `__del__` methods,
        as `python3` does when it exits. `close` runs no code of the guest.
        """
        limits = _limits(timeout, cpu_timeout)
        self._dispatcher.enter_call()
        await call(lambda loop, done: self._native.finish(limits, loop, done))

    async def finish_stream(
        self, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Does the same as `finish` and yields the events, like `run_stream`."""
        limits = _limits(timeout, cpu_timeout)
        loop = asyncio.get_running_loop()
        self._dispatcher.enter_call()
        stream = self._native.finish_stream(limits, loop)
        async with aclosing(_follow(stream, loop)) as events:
            async for event in events:
                yield event

    async def snapshot(self) -> Snapshot:
        """Takes a snapshot of the interpreter; the sandbox remains usable.

        Raises `SnapshotError` if the guest has a file open. While a call is running
        the sandbox is busy, as for any operation.
        """
        native = await call(lambda loop, done: _native.take_snapshot(self._native, loop, done))
        return Snapshot(native, self._streams_ready)

    async def fork(self, count: int = 1) -> list[Sandbox]:
        """Creates independent sandboxes that continue from the state of this one.

        They have its limits, mounts, environment and handlers, and are started.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidArgumentError(f"count is {count!r}: give a number, 0 or more")
        snapshot = await self.snapshot()
        children: list[Sandbox] = []
        try:
            for _ in range(count):
                dispatcher = self._dispatcher.copy()
                children.append(await resume(snapshot, dispatcher))
        except BaseException:
            for child in children:
                child.close()
            raise
        return children

    def close(self) -> None:
        """Closes the sandbox and stops the running operation. Closing again has no effect."""
        self._native.close()

    async def aclose(self) -> None:
        """Does the same without blocking the event loop while memory is freed."""
        await self._dispatcher.aclose()
        await asyncio.get_running_loop().run_in_executor(None, self._native.close)

    async def __aenter__(self) -> Self:
        try:
            if not self._started:
                await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        await self._dispatcher.aclose()

    def __repr__(self) -> str:
        return f"<Sandbox {self._runtime}{', closed' if self.closed else ''}>"


async def resume(
    snapshot: Snapshot,
    dispatcher: Dispatcher,
    *,
    limits: Limits | None = None,
    mounts: list[tuple[str, str, str, str]] | None = None,
    env: list[tuple[str, str]] | None = None,
    arguments: list[str] | None = None,
) -> Sandbox:
    """Creates a sandbox that continues from a snapshot."""
    native = await call(
        lambda loop, done: snapshot._native.create(
            limits=limits or Limits(),
            mounts=mounts or [],
            env=env or [],
            arguments=arguments,
            host=dispatcher,
            event_loop=loop,
            done=done,
        )
    )
    sandbox = Sandbox(native, snapshot.runtime, dispatcher)
    sandbox._started = True
    sandbox._streams_ready = snapshot._streams_ready
    return sandbox


def _limits(timeout: object, cpu_timeout: object) -> tuple[float | None, float | None]:
    return seconds("timeout", timeout), seconds("cpu_timeout", cpu_timeout)


def _source(source: object, option: str = "source") -> str:
    if isinstance(source, str):
        return source
    raise InvalidArgumentError(
        f"{option} is a {type(source).__name__}: give the source code as a string"
    )


async def _follow(
    stream: _native.EventStream, loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[Event, None]:
    async with aclosing(_records(stream, loop)) as records:
        async for record in records:
            yield from_native(*record)


async def _records(
    stream: _native.EventStream, loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[tuple[str, str, object], None]:
    ended = False
    try:
        while True:
            taken = stream.take()
            if taken is None:
                future = loop.create_future()
                stream.wait(callback(future))
                await future
            elif taken is False:
                ended = True
                return
            else:
                yield taken
    finally:
        if not ended:
            stopped = loop.create_future()
            stream.cancel(callback(stopped))
            await settled(stopped)


class _OpenStreams:
    """A context in which the stream arguments of a call are open."""

    def __init__(self, sandbox: Sandbox, prepared: PreparedCall) -> None:
        self._sandbox = sandbox
        self._prepared = prepared

    async def __aenter__(self) -> None:
        if not self._prepared.streams:
            return
        sandbox = self._sandbox
        if not sandbox._streams_ready:
            source, file = _native.stream_helper(sandbox._runtime)
            await sandbox.load_script(source, name=file)
            sandbox._streams_ready = True
        limit = sandbox._native.max_value_size()
        sandbox._dispatcher.open_streams(self._prepared.streams, limit)

    async def __aexit__(self, *_: object) -> None:
        if self._prepared.streams:
            self._sandbox._dispatcher.close_streams(self._prepared.streams)
