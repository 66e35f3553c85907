"""The synchronous API, with the names of `isola`, for scripts and notebooks.

    import isola.sync as isola

    template = isola.build_template("python")
    with template.create() as sandbox:
        sandbox.load_script("def add(a, b): return a + b")
        print(sandbox.run("add", 2, 3))

All operations run on one event loop in a dedicated thread, so this also works where
an event loop is running already, as in a notebook. Handlers may be plain functions;
those run on threads, several at a time. Interrupting a call stops its guest and
closes its sandbox.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import isola as _isola

from ._arguments import Arg, JsonValue, StreamArg
from ._errors import (
    DownloadError,
    GuestError,
    GuestException,
    InternalError,
    InvalidArgumentError,
    IsolaError,
    LimitError,
    SandboxClosedError,
    SnapshotError,
    StreamClosedError,
    StreamFullError,
)
from ._events import (
    EndEvent,
    ErrorEvent,
    Event,
    LogEvent,
    ResultEvent,
    StderrEvent,
    StdoutEvent,
)
from ._executor import Execution
from ._http import Headers, HttpRequest, HttpResponse
from ._native import __version__, check_process
from ._options import Limits, MountConfig, Progress
from ._template import RuntimeConfig

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ._options import (
        RuntimeName,
        SandboxOptions,
        SourceOptions,
        SyncSandboxOptions,
        TemplateOptions,
    )

__all__ = [
    "Arg",
    "DownloadError",
    "EndEvent",
    "ErrorEvent",
    "Event",
    "Execution",
    "Executor",
    "GuestError",
    "GuestException",
    "Headers",
    "HttpRequest",
    "HttpResponse",
    "InternalError",
    "InvalidArgumentError",
    "IsolaError",
    "JsonValue",
    "LimitError",
    "Limits",
    "LogEvent",
    "MountConfig",
    "Progress",
    "ResultEvent",
    "RuntimeConfig",
    "Sandbox",
    "SandboxClosedError",
    "SandboxContext",
    "SandboxPool",
    "SandboxTemplate",
    "Snapshot",
    "SnapshotError",
    "StderrEvent",
    "StdoutEvent",
    "StreamArg",
    "StreamClosedError",
    "StreamFullError",
    "__version__",
    "build_template",
    "execute",
    "resolve_runtime",
]

_T = TypeVar("_T")


class _Loop:
    """The event loop of this module, and its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def get(self) -> asyncio.AbstractEventLoop:
        # Fails in a forked process, which has the lock and the loop, but not the thread.
        check_process()
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._loop = asyncio.new_event_loop()
                self._process = os.getpid()
                threading.Thread(
                    target=self._loop.run_forever, name="isola-sync", daemon=True
                ).start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            loop = self.get()
        except BaseException:
            work.close()
            raise
        context = contextvars.copy_context()

        async def within() -> _T:
            return await context.run(asyncio.ensure_future, work)

        future = asyncio.run_coroutine_threadsafe(within(), loop)
        try:
            return future.result()
        except BaseException:
            # Stops the guest on Ctrl-C.
            future.cancel()
            raise


_LOOP = _Loop()


def _handlers(given: SyncSandboxOptions) -> SandboxOptions:
    """Wraps handlers that are plain functions, so that they run on threads."""
    config = cast("dict[str, Any]", dict(given))
    hostcalls = config.get("hostcalls")
    if isinstance(hostcalls, Mapping):
        config["hostcalls"] = {
            name: _asynchronous(handler) if callable(handler) else handler
            for name, handler in hostcalls.items()
        }
    for option in ("http", "http_handler"):
        if callable(config.get(option)):
            config[option] = _asynchronous(config[option])
    return cast("SandboxOptions", config)


def _asynchronous(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if inspect.iscoroutinefunction(handler):
        return handler

    async def on_a_thread(payload: Any) -> Any:
        result = await asyncio.to_thread(handler, payload)
        return await result if inspect.isawaitable(result) else result

    return on_a_thread


def resolve_runtime(runtime: RuntimeName, **config: Unpack[SourceOptions]) -> RuntimeConfig:
    """See `isola.resolve_runtime`."""
    return _LOOP.run(_isola.resolve_runtime(runtime, **config))


def build_template(
    runtime: RuntimeName, **template_config: Unpack[TemplateOptions]
) -> SandboxTemplate:
    """See `isola.build_template`."""
    return SandboxTemplate(_LOOP.run(_isola.build_template(runtime, **template_config)))


def execute(
    source: str,
    *,
    files: Mapping[str, bytes | str] | None = None,
    template: SandboxTemplate | None = None,
    runtime: RuntimeName = "python",
    timeout: float | None = 60.0,
    cpu_timeout: float | None = 10.0,
    **sandbox_config: Unpack[SyncSandboxOptions],
) -> Execution:
    """See `isola.execute`."""
    inner = None if template is None else template._inner
    return _LOOP.run(
        _isola.execute(
            source,
            files=files,
            template=inner,
            runtime=runtime,
            timeout=timeout,
            cpu_timeout=cpu_timeout,
            **_handlers(sandbox_config),
        )
    )


class SandboxContext:
    """See `isola.SandboxContext`."""

    def __init__(self) -> None:
        self._inner = _isola.SandboxContext()

    def build_template(
        self, runtime: RuntimeName, **template_config: Unpack[TemplateOptions]
    ) -> SandboxTemplate:
        """See `isola.build_template`."""
        return SandboxTemplate(
            _LOOP.run(self._inner.build_template(runtime, **template_config))
        )

    def close(self) -> None:
        """Closes the context and its templates."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SandboxTemplate:
    """See `isola.SandboxTemplate`."""

    def __init__(self, inner: _isola.SandboxTemplate) -> None:
        self._inner = inner

    @property
    def runtime(self) -> RuntimeName:
        """`"python"` or `"js"`."""
        return self._inner.runtime

    @contextmanager
    def create(self, **sandbox_config: Unpack[SyncSandboxOptions]) -> Iterator[Sandbox]:
        """Creates a started sandbox, closed at the end of the `with` block."""
        with self.instantiate(**sandbox_config) as sandbox:
            yield sandbox

    def instantiate(self, **sandbox_config: Unpack[SyncSandboxOptions]) -> Sandbox:
        """Creates a sandbox that has not been started; entering it starts it."""
        return Sandbox(_LOOP.run(self._inner.instantiate(**_handlers(sandbox_config))))

    def load_snapshot(self, path: str | os.PathLike[str]) -> Snapshot:
        """See `isola.SandboxTemplate.load_snapshot`."""
        return Snapshot(_LOOP.run(self._inner.load_snapshot(path)))

    def restore(
        self,
        snapshot: Snapshot | str | os.PathLike[str],
        **sandbox_config: Unpack[SyncSandboxOptions],
    ) -> Sandbox:
        """See `isola.SandboxTemplate.restore`."""
        inner = snapshot._inner if isinstance(snapshot, Snapshot) else snapshot
        return Sandbox(_LOOP.run(self._inner.restore(inner, **_handlers(sandbox_config))))


class Snapshot:
    """See `isola.Snapshot`."""

    def __init__(self, inner: _isola.Snapshot) -> None:
        self._inner = inner

    @property
    def runtime(self) -> RuntimeName:
        """`"python"` or `"js"`."""
        return self._inner.runtime

    @property
    def memory_size(self) -> int:
        """The size of the interpreter's memory, in bytes."""
        return self._inner.memory_size

    @property
    def resident_size(self) -> int:
        """The memory that the snapshot itself uses, in bytes."""
        return self._inner.resident_size

    def save(self, path: str | os.PathLike[str]) -> int:
        """See `isola.Snapshot.save`."""
        return _LOOP.run(self._inner.save(path))


class Sandbox:
    """See `isola.Sandbox`."""

    def __init__(self, inner: _isola.Sandbox) -> None:
        self._inner = inner

    @property
    def runtime(self) -> RuntimeName:
        """`"python"` or `"js"`."""
        return self._inner.runtime

    @property
    def closed(self) -> bool:
        """True if the sandbox is closed."""
        return self._inner.closed

    def start(
        self, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> None:
        """See `isola.Sandbox.start`."""
        _LOOP.run(self._inner.start(timeout=timeout, cpu_timeout=cpu_timeout))

    def load_script(
        self,
        code: str,
        *,
        name: str | None = None,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
    ) -> None:
        """See `isola.Sandbox.load_script`."""
        _LOOP.run(
            self._inner.load_script(code, name=name, timeout=timeout, cpu_timeout=cpu_timeout)
        )

    def run(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
        **kwargs: Any,
    ) -> JsonValue:
        """See `isola.Sandbox.run`."""
        return _LOOP.run(
            self._inner.run(
                function, *args, timeout=timeout, cpu_timeout=cpu_timeout, **kwargs
            )
        )

    def run_stream(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
        **kwargs: Any,
    ) -> Iterator[Event]:
        """See `isola.Sandbox.run_stream`."""
        return _iterate(
            self._inner.run_stream(
                function, *args, timeout=timeout, cpu_timeout=cpu_timeout, **kwargs
            )
        )

    def finish(
        self, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> None:
        """See `isola.Sandbox.finish`."""
        _LOOP.run(self._inner.finish(timeout=timeout, cpu_timeout=cpu_timeout))

    def finish_stream(
        self, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> Iterator[Event]:
        """See `isola.Sandbox.finish_stream`."""
        return _iterate(self._inner.finish_stream(timeout=timeout, cpu_timeout=cpu_timeout))

    def snapshot(self) -> Snapshot:
        """See `isola.Sandbox.snapshot`."""
        return Snapshot(_LOOP.run(self._inner.snapshot()))

    def fork(self, count: int = 1) -> list[Sandbox]:
        """See `isola.Sandbox.fork`."""
        return [Sandbox(child) for child in _LOOP.run(self._inner.fork(count))]

    def close(self) -> None:
        """Closes the sandbox and stops the running operation."""
        self._inner.close()

    def __enter__(self) -> Self:
        _LOOP.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _LOOP.run(self._inner.__aexit__(kind, error, trace))


class SandboxPool:
    """See `isola.SandboxPool`."""

    def __init__(
        self,
        template: SandboxTemplate,
        size: int,
        *,
        script: str | None = None,
        **sandbox_config: Unpack[SyncSandboxOptions],
    ) -> None:
        self._inner = _isola.SandboxPool(
            template._inner, size, script=script, **_handlers(sandbox_config)
        )

    @property
    def ready(self) -> int:
        """The number of sandboxes that are available immediately."""
        return self._inner.ready

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """Returns a started sandbox for one use, closed at the end of the block."""
        manager = self._inner.sandbox()
        sandbox = _LOOP.run(manager.__aenter__())
        try:
            yield Sandbox(sandbox)
        finally:
            _LOOP.run(manager.__aexit__(None, None, None))

    def close(self) -> None:
        """Closes the pool and its unused sandboxes."""
        _LOOP.run(self._inner.aclose())

    def __enter__(self) -> Self:
        _LOOP.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Executor:
    """See `isola.Executor`."""

    def __init__(
        self,
        template: SandboxTemplate | None = None,
        *,
        runtime: RuntimeName = "python",
        timeout: float | None = 60.0,
        cpu_timeout: float | None = 10.0,
        max_file_bytes: int = 16 << 20,
        **sandbox_config: Unpack[SyncSandboxOptions],
    ) -> None:
        inner = None if template is None else template._inner
        self._inner = _isola.Executor(
            inner,
            runtime=runtime,
            timeout=timeout,
            cpu_timeout=cpu_timeout,
            max_file_bytes=max_file_bytes,
            **_handlers(sandbox_config),
        )

    def execute(
        self, source: str, *, files: Mapping[str, bytes | str] | None = None
    ) -> Execution:
        """See `isola.Executor.execute`."""
        return _LOOP.run(self._inner.execute(source, files=files))

    def reset(self) -> None:
        """Discards the variables and the files."""
        _LOOP.run(self._inner.reset())

    def close(self) -> None:
        """Closes the session."""
        _LOOP.run(self._inner.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _iterate(events: AsyncIterator[Event]) -> Iterator[Event]:
    async def following() -> Event | None:
        return await anext(events, None)

    try:
        while (event := _LOOP.run(following())) is not None:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            _LOOP.run(close())
