# Generated from the asynchronous package by `cargo xtask generate`: do not edit.
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

from contextlib import contextmanager
from typing import TYPE_CHECKING

import isola as _isola

from . import _blocking
from ._arguments import Arg, JsonValue, StreamArg
from ._code import Context, Execution, ExecutionError, Logs, Result
from ._errors import (
    BusyError,
    ClosedError,
    CrashError,
    DownloadError,
    FileError,
    GuestError,
    GuestException,
    HostcallError,
    InternalError,
    InvalidArgumentError,
    IsolaError,
    LimitError,
    NotPendingError,
    NotRunningError,
    SandboxClosedError,
    SnapshotError,
    StreamClosedError,
    StreamFullError,
)
from ._events import EndEvent, ErrorEvent, Event, LogEvent, ResultEvent, StderrEvent, StdoutEvent
from ._executor import Evaluation
from ._files import FileEntry, FileKind, FileStat
from ._http import Headers, HttpRequest, HttpResponse
from ._native import __version__
from ._options import Limits, MountConfig, Permission, Progress, RuntimeName
from ._template import RuntimeConfig

if TYPE_CHECKING:
    import builtins
    import os
    from collections.abc import Callable, Generator, Iterator, Mapping
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self, Unpack

    from ._options import SyncSandboxOptions, TemplateOptions

__all__ = [
    "Arg",
    "BusyError",
    "ClosedError",
    "Context",
    "Contexts",
    "CrashError",
    "DownloadError",
    "EndEvent",
    "ErrorEvent",
    "Evaluation",
    "Event",
    "Execution",
    "ExecutionError",
    "Executor",
    "FileEntry",
    "FileError",
    "FileKind",
    "FileStat",
    "Files",
    "GuestError",
    "GuestException",
    "Headers",
    "HostcallError",
    "HttpRequest",
    "HttpResponse",
    "InternalError",
    "InvalidArgumentError",
    "IsolaError",
    "JsonValue",
    "LimitError",
    "Limits",
    "LogEvent",
    "Logs",
    "MountConfig",
    "NotPendingError",
    "NotRunningError",
    "Permission",
    "Progress",
    "Result",
    "ResultEvent",
    "RuntimeConfig",
    "RuntimeName",
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
    "evaluate",
    "resolve_runtime",
]


class Contexts:
    """The contexts of a sandbox, as `Sandbox.contexts`.

    A context has its own globals and working directory. The context `default` exists in
    each sandbox: scripts and `Sandbox.run` use its globals as well. Contexts are part of
    the interpreter, so forks and snapshots have them, too.
    """

    def __init__(self, inner: _isola.Contexts) -> None:
        self._inner = inner

    def create(self, language: str | None = None, *, cwd: str | None = None) -> Context:
        """Creates a context.

        `language` is that of the sandbox, and `cwd` an existing directory of the sandbox.
        A JavaScript sandbox has no working directories.
        """
        return _blocking.run(self._inner.create(language, cwd=cwd))

    def list(self) -> builtins.list[Context]:
        """Returns the contexts."""
        return _blocking.run(self._inner.list())

    def restart(self, context: str | Context) -> Context:
        """Removes everything that code has defined in a context, and counts from 1 again."""
        return _blocking.run(self._inner.restart(context))

    def interrupt(self, context: str | Context) -> bool:
        """Interrupts the code of a context, and reports whether any runs.

        `Sandbox.interrupt` describes what happens to it.
        """
        return _blocking.run(self._inner.interrupt(context))

    def remove(self, context: str | Context) -> None:
        """Removes a context. The context `default` cannot be removed."""
        _blocking.run(self._inner.remove(context))


class Executor:
    """A session: pieces of source code that share their state and files.

        with isola.Executor() as executor:
            executor.evaluate("x = 20")
            done = executor.evaluate("x + 1")
            print(done.value)

    An exception leaves the session unchanged. A fatal error, such as a time limit,
    closes the sandbox and is in `Evaluation.error`; the next piece of code runs in a
    new sandbox, with the files but without the variables.
    """

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
        self._inner = _isola.Executor(
            template._inner if isinstance(template, SandboxTemplate) else template,
            runtime=runtime,
            timeout=timeout,
            cpu_timeout=cpu_timeout,
            max_file_bytes=max_file_bytes,
            **_blocking.handlers(sandbox_config),
        )

    def evaluate(
        self, source: str, *, files: Mapping[str, bytes | str] | None = None
    ) -> Evaluation:
        """Writes `files` into `/files` and runs source code."""
        return _blocking.run(self._inner.evaluate(source, files=files))

    def reset(self) -> None:
        """Discards the variables and the files."""
        _blocking.run(self._inner.reset())

    def close(self) -> None:
        """Closes the session."""
        _blocking.run(self._inner.aclose())

    def __enter__(self) -> Self:
        _blocking.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _blocking.run(self._inner.__aexit__(kind, error, trace))


def evaluate(
    source: str,
    *,
    files: Mapping[str, bytes | str] | None = None,
    template: SandboxTemplate | None = None,
    runtime: RuntimeName = "python",
    timeout: float | None = 60.0,
    cpu_timeout: float | None = 10.0,
    **sandbox_config: Unpack[SyncSandboxOptions],
) -> Evaluation:
    """Runs source code in its own sandbox and returns its value, output and files.

    Without a `template` one is built. A program that calls this often should build
    it once and pass it.
    """
    return _blocking.run(
        _isola.evaluate(
            source,
            files=files,
            template=template._inner if isinstance(template, SandboxTemplate) else template,
            runtime=runtime,
            timeout=timeout,
            cpu_timeout=cpu_timeout,
            **_blocking.handlers(sandbox_config),
        )
    )


class Files:
    """The files of a sandbox, as `Sandbox.files`.

    They are in memory, limited by `max_storage`. Relative paths start in the sandbox's
    home, `/root`, where its code starts as well. Symbolic links never lead out of the
    sandbox. Mounted directories are not part of them.

    The operations may be used while the sandbox runs code, and also after a limit or a
    crash has closed it; `Sandbox.close` removes the files. They raise a `FileError`, which
    is an `OSError`: a missing file is also a `FileNotFoundError`.
    """

    def __init__(self, inner: _isola.Files) -> None:
        self._inner = inner

    def read(self, path: str) -> bytes:
        """Returns the content of a file."""
        return _blocking.run(self._inner.read(path))

    def read_text(self, path: str) -> str:
        """Returns the content of a text file, in UTF-8."""
        return _blocking.run(self._inner.read_text(path))

    def write(self, path: str, content: bytes | bytearray | memoryview | str) -> None:
        """Writes a file: creates it and its missing directories, or replaces its content.

        Text is written in UTF-8. If there is not enough space, the old content is kept.
        """
        _blocking.run(self._inner.write(path, content))

    def list(self, path: str = ".") -> builtins.list[FileEntry]:
        """Returns the entries of a directory, sorted by name."""
        return _blocking.run(self._inner.list(path))

    def stat(self, path: str) -> FileStat:
        """Returns the metadata of a file. Symbolic links are followed."""
        return _blocking.run(self._inner.stat(path))

    def exists(self, path: str) -> bool:
        """Reports whether a file or directory exists."""
        return _blocking.run(self._inner.exists(path))

    def make_dir(self, path: str) -> None:
        """Creates a directory and its missing parents. Succeeds if it exists."""
        _blocking.run(self._inner.make_dir(path))

    def remove(self, path: str) -> None:
        """Removes a file, or a directory with everything in it.

        A symbolic link is removed itself.
        """
        _blocking.run(self._inner.remove(path))

    def rename(self, old: str, new: str) -> None:
        """Moves a file or directory.

        An existing file is replaced, and missing directories are created.
        """
        _blocking.run(self._inner.rename(old, new))


class SandboxPool:
    """A pool of `size` started sandboxes, each with `script` loaded.

        with isola.SandboxPool(template, 4, script=SCRIPT) as pool:
            with pool.sandbox() as sandbox:
                sandbox.run("main")

    The script runs once: the sandboxes are copies of the one in which it ran, unless
    that cannot be copied because it has a file open. A sandbox is used once and
    closed afterwards, so no state passes from one use to the next. Its replacement
    is created in the background. `sandbox_config` are the options of
    `SandboxTemplate.create`.
    """

    def __init__(
        self,
        template: SandboxTemplate,
        size: int,
        *,
        script: str | None = None,
        **sandbox_config: Unpack[SyncSandboxOptions],
    ) -> None:
        self._inner = _isola.SandboxPool(
            template._inner, size, script=script, **_blocking.handlers(sandbox_config)
        )

    @property
    def ready(self) -> int:
        """The number of sandboxes that are available immediately."""
        return self._inner.ready

    def warm(self) -> None:
        """Waits until all sandboxes are started. Fails if one cannot be started."""
        _blocking.run(self._inner.warm())

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """Returns a started sandbox for one use, closed at the end of the block.

        If none is available, this waits for one that is being started.
        """
        with _blocking.enter(self._inner.sandbox()) as inner:
            yield Sandbox(inner)

    def close(self) -> None:
        """Closes the pool and its unused sandboxes. Closing again has no effect."""
        _blocking.run(self._inner.aclose())

    def __enter__(self) -> Self:
        _blocking.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _blocking.run(self._inner.__aexit__(kind, error, trace))


class Sandbox:
    """An isolated interpreter, from `SandboxTemplate.create` or `instantiate`.

    It runs one operation at a time: a second one fails with `sandbox is busy`. Its files
    can be used at any time.
    Interrupting an operation with Ctrl-C stops the guest and closes the
    sandbox.
    """

    def __init__(self, inner: _isola.Sandbox) -> None:
        self._inner = inner

    @property
    def runtime(self) -> RuntimeName:
        """The name of the runtime, such as `"python"`."""
        return self._inner.runtime

    @property
    def closed(self) -> bool:
        """True if it was closed by its owner, an interrupted call, a limit or a crash."""
        return self._inner.closed

    @property
    def files(self) -> Files:
        """The files of the sandbox."""
        return Files(self._inner.files)

    @property
    def contexts(self) -> Contexts:
        """The contexts of the sandbox, in which `run_code` runs code."""
        return Contexts(self._inner.contexts)

    def start(self, *, timeout: float | None = None, cpu_timeout: float | None = None) -> None:
        """Prepares the interpreter and runs the template's prelude. Must be called once, first."""
        _blocking.run(self._inner.start(timeout=timeout, cpu_timeout=cpu_timeout))

    def load_script(
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
        _blocking.run(
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
        """Calls a function that a script defined, and returns its result.

        Arguments are JSON values, `Arg` or `StreamArg`. `timeout` and
        `cpu_timeout` are this call's limits, in seconds; an argument of the
        guest's function with such a name is passed as `Arg(value, "timeout")`.
        """
        return _blocking.run(
            self._inner.run(function, *args, timeout=timeout, cpu_timeout=cpu_timeout, **kwargs)
        )

    def run_stream(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float | None = None,
        cpu_timeout: float | None = None,
        **kwargs: Any,
    ) -> Generator[Event, None, None]:
        """Does the same as `run` and yields the events as they happen.

        The last event is an `EndEvent` or an `ErrorEvent`. Leaving the loop
        early stops the guest and closes the sandbox; use `contextlib.closing`
        to make that happen immediately.
        """
        return _blocking.iterate(
            self._inner.run_stream(
                function, *args, timeout=timeout, cpu_timeout=cpu_timeout, **kwargs
            )
        )

    def evaluate(
        self, source: str, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> JsonValue:
        """Runs source code at the top level, and returns the value of its last expression.

        That is `None` if the code does not end in an expression. A value that JSON
        cannot represent is returned as text: its `repr`, or `String(value)` in
        JavaScript. All evaluated code and all scripts share their globals. `timeout`
        and `cpu_timeout` are the limits of this operation, in seconds.
        """
        return _blocking.run(self._inner.evaluate(source, timeout=timeout, cpu_timeout=cpu_timeout))

    def evaluate_stream(
        self, source: str, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> Generator[Event, None, None]:
        """Does the same as `evaluate` and yields the events, like `run_stream`."""
        return _blocking.iterate(
            self._inner.evaluate_stream(source, timeout=timeout, cpu_timeout=cpu_timeout)
        )

    def run_code(
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
        They run on another thread. If one raises, the code is interrupted, and
        `run_code` raises the same exception.
        """
        return _blocking.run(
            self._inner.run_code(
                code,
                language=language,
                context=context,
                timeout=timeout,
                cpu_timeout=cpu_timeout,
                on_stdout=_blocking.listener(on_stdout),
                on_stderr=_blocking.listener(on_stderr),
                on_result=_blocking.listener(on_result),
                on_error=_blocking.listener(on_error),
            )
        )

    def interrupt(self) -> bool:
        """Interrupts the code that `run_code` runs, and reports whether there is any.

        Python code gets a `KeyboardInterrupt`, as from Ctrl-C, also in a loop or in a wait;
        its context keeps its state. JavaScript is interrupted only while it waits. Code
        that does not end within two seconds is stopped, which closes the sandbox.
        """
        return self._inner.interrupt()

    def finish(self, *, timeout: float | None = None, cpu_timeout: float | None = None) -> None:
        """Shuts the interpreter down in order and closes the sandbox.

        A Python guest runs its `atexit` handlers, finalizers and `__del__` methods,
        as `python3` does when it exits. `close` runs no code of the guest.
        """
        _blocking.run(self._inner.finish(timeout=timeout, cpu_timeout=cpu_timeout))

    def finish_stream(
        self, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> Generator[Event, None, None]:
        """Does the same as `finish` and yields the events, like `run_stream`."""
        return _blocking.iterate(
            self._inner.finish_stream(timeout=timeout, cpu_timeout=cpu_timeout)
        )

    def snapshot(self) -> Snapshot:
        """Takes a snapshot of the interpreter; the sandbox remains usable.

        Raises `SnapshotError` if the guest has a file open. While a call is running
        the sandbox is busy, as for any operation.
        """
        return Snapshot(_blocking.run(self._inner.snapshot()))

    def fork(self, count: int = 1) -> list[Sandbox]:
        """Creates independent sandboxes that continue from the state of this one.

        They have its limits, mounts, environment and handlers, and are started.
        """
        return [Sandbox(inner) for inner in _blocking.run(self._inner.fork(count))]

    def close(self) -> None:
        """Closes the sandbox and stops the running operation. Closing again has no effect."""
        self._inner.close()

    def __enter__(self) -> Self:
        _blocking.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _blocking.run(self._inner.__aexit__(kind, error, trace))

    def __repr__(self) -> str:
        return repr(self._inner)


class Snapshot:
    """A copy of an interpreter's state: its imports, globals and generators.

    `Sandbox.snapshot` takes one, and `SandboxTemplate.restore` creates any number
    of sandboxes from it. They share the memory that they do not write.
    """

    def __init__(self, inner: _isola.Snapshot) -> None:
        self._inner = inner

    @property
    def runtime(self) -> RuntimeName:
        """The name of the runtime, such as `"python"`."""
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
        """Writes the snapshot to a file atomically and returns the file's size.

        The file contains all data of the guest, and only its owner can read it.
        `SandboxTemplate.load_snapshot` reads it again, in this process or
        another.
        """
        return _blocking.run(self._inner.save(path))

    def __repr__(self) -> str:
        return repr(self._inner)


class SandboxContext:
    """A context that builds templates until it is closed.

    Its templates and their sandboxes remain usable then.
    """

    def __init__(self) -> None:
        self._inner = _isola.SandboxContext()

    def build_template(
        self, runtime: RuntimeName, **template_config: Unpack[TemplateOptions]
    ) -> SandboxTemplate:
        """Builds a template, as `isola.build_template` does."""
        return SandboxTemplate(
            _blocking.run(self._inner.build_template(runtime, **template_config))
        )

    def close(self) -> None:
        """Closes the context, which then builds no more templates.

        Its templates remain usable. Closing again has no effect.
        """
        self._inner.close()

    def __enter__(self) -> Self:
        _blocking.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _blocking.run(self._inner.__aexit__(kind, error, trace))


class SandboxTemplate:
    """A compiled interpreter, which can be used from several threads."""

    def __init__(self, inner: _isola.SandboxTemplate) -> None:
        self._inner = inner

    @property
    def runtime(self) -> RuntimeName:
        """The name of the runtime, such as `"python"`."""
        return self._inner.runtime

    @contextmanager
    def create(self, **sandbox_config: Unpack[SyncSandboxOptions]) -> Iterator[Sandbox]:
        """Creates a started sandbox, closed at the end of the `with` block.

        `limits` override those of the template. `hostcalls` are the functions that
        the guest can call. `http` is `None` (no HTTP), `True` (every request is sent
        with `httpx`), or a function of an `HttpRequest`. `mounts` and `env` override
        the template's by guest path and by key. `arguments` follow the script's name in
        `sys.argv`, and are `scriptArgs` in JavaScript.
        """
        with _blocking.enter(self._inner.create(**_blocking.handlers(sandbox_config))) as inner:
            yield Sandbox(inner)

    def instantiate(self, **sandbox_config: Unpack[SyncSandboxOptions]) -> Sandbox:
        """Creates a sandbox that has not been started; entering it starts it."""
        return Sandbox(_blocking.run(self._inner.instantiate(**_blocking.handlers(sandbox_config))))

    def load_snapshot(self, path: str | os.PathLike[str]) -> Snapshot:
        """Reads a snapshot that `Snapshot.save` wrote.

        Raises `SnapshotError` if it is damaged, or not of this runtime.
        """
        return Snapshot(_blocking.run(self._inner.load_snapshot(path)))

    def restore(
        self,
        snapshot: Snapshot | str | os.PathLike[str],
        **sandbox_config: Unpack[SyncSandboxOptions],
    ) -> Sandbox:
        """Creates a started sandbox that continues from a snapshot or a snapshot file.

        Options that are not given are those of the sandbox of the snapshot, except
        `hostcalls` and `http`, which are never inherited.
        """
        return Sandbox(
            _blocking.run(
                self._inner.restore(
                    snapshot._inner if isinstance(snapshot, Snapshot) else snapshot,
                    **_blocking.handlers(sandbox_config),
                )
            )
        )

    def __repr__(self) -> str:
        return repr(self._inner)


def build_template(
    runtime: RuntimeName, **template_config: Unpack[TemplateOptions]
) -> SandboxTemplate:
    """Finds a runtime, compiles it if necessary, and loads it.

    `resolve_runtime` describes the search and the download. The first build on a
    machine compiles, which takes seconds, and stores the result in `cache_dir`;
    `None` disables the cache. `on_progress` is called on another thread during the
    download and when compiling starts. `limits` are those of each sandbox;
    `max_memory` and `max_storage`, in bytes, are two of them. `prelude` is code that each sandbox runs
    when it starts. `mounts` and `env` are the mounts and environment of each sandbox.
    `reuse_memory` allows that memory of a sandbox that has ended is used for another one.
    """
    return SandboxTemplate(_blocking.run(_isola.build_template(runtime, **template_config)))


def resolve_runtime(
    runtime: RuntimeName,
    *,
    version: str | None = None,
    runtime_path: str | os.PathLike[str] | None = None,
    runtime_lib_dir: str | os.PathLike[str] | None = None,
    runtimes_dir: str | os.PathLike[str] | None = None,
    download_url: str | None = None,
    runtime_sha256: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> RuntimeConfig:
    """Finds the component of a runtime, and downloads it if it is not installed.

    The sources, in this order: `runtime_path`, the component itself or the
    directory that holds it; the environment variable `ISOLA_RUNTIME_DIR`; the
    runtimes shipped with this package, and `python-data` in the package that
    `isola[data]` installs; `runtimes_dir`, the directory of downloads
    (by default in the user's cache directory); the release of `version` at
    `download_url`. A download must have the digest `runtime_sha256`, or by default
    the one that is published beside it.
    """
    return _blocking.run(
        _isola.resolve_runtime(
            runtime,
            version=version,
            runtime_path=runtime_path,
            runtime_lib_dir=runtime_lib_dir,
            runtimes_dir=runtimes_dir,
            download_url=download_url,
            runtime_sha256=runtime_sha256,
            on_progress=on_progress,
        )
    )
