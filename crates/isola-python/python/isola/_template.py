"""Templates: compiled interpreters, from which sandboxes are created."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, AsyncIterator, Literal

from . import _native
from ._bridge import call
from ._dispatch import Dispatcher
from ._errors import ClosedError, DownloadError, InvalidArgumentError
from ._options import (
    HostcallHandler,
    Limits,
    MountConfig,
    Progress,
    RuntimeName,
    argument_list,
    env_list,
    limits_of,
    mount_list,
    refuse_unknown,
)
from ._runtime import missing, shipped
from ._sandbox import Sandbox, resume
from ._snapshot import Snapshot, path_of

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ._http import HttpHandler
    from ._options import TemplateOptions

_TEMPLATE_OPTIONS = (
    "version",
    "runtime_path",
    "runtime_lib_dir",
    "runtimes_dir",
    "download_url",
    "runtime_sha256",
    "on_progress",
    "cache_dir",
    "max_memory",
    "max_storage",
    "limits",
    "reuse_memory",
    "prelude",
    "mounts",
    "env",
)
_SANDBOX_OPTIONS = (
    "max_memory",
    "max_storage",
    "limits",
    "mounts",
    "env",
    "arguments",
    "hostcalls",
    "http",
)


class _Default:
    """The marker of an argument that was not given, where `None` has its own meaning."""

    def __repr__(self) -> str:
        return "<default>"


_DEFAULT = _Default()


@dataclass(frozen=True)
class RuntimeConfig:
    """A resolved runtime: the one that `build_template` would use."""

    runtime: RuntimeName
    version: str
    runtime_path: Path
    runtime_lib_dir: Path | None = None


async def resolve_runtime(
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
    options = {
        "runtime_path": runtime_path,
        "runtime_lib_dir": runtime_lib_dir,
        "shipped": shipped(runtime),
        "version": _text("version", version),
        "runtimes_dir": runtimes_dir,
        "download_url": _text("download_url", download_url),
        "runtime_sha256": _text("runtime_sha256", runtime_sha256),
    }
    for option in ("runtime_path", "runtime_lib_dir", "runtimes_dir"):
        path = options[option]
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise InvalidArgumentError(f"{option} is {path!r}: give a path")
    progress = _listener(on_progress)
    try:
        found = await call(lambda loop, done: _native.find(runtime, options, progress, loop, done))
    except DownloadError as error:
        raise missing(error, runtime, version) from None
    return RuntimeConfig(
        runtime,
        _native.__version__ if version is None else version.removeprefix("v"),
        Path(found),
        None if runtime_lib_dir is None else Path(runtime_lib_dir),
    )


async def build_template(
    runtime: RuntimeName,
    *,
    version: str | None = None,
    runtime_path: str | os.PathLike[str] | None = None,
    runtime_lib_dir: str | os.PathLike[str] | None = None,
    runtimes_dir: str | os.PathLike[str] | None = None,
    download_url: str | None = None,
    runtime_sha256: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    cache_dir: str | os.PathLike[str] | None | _Default = _DEFAULT,
    max_memory: int | None = None,
    max_storage: int | None = None,
    limits: Limits | None = None,
    reuse_memory: bool = True,
    prelude: str | None = None,
    mounts: Sequence[MountConfig] | None = None,
    env: Mapping[str, str] | None = None,
    **unknown: object,
) -> SandboxTemplate:
    """Finds a runtime, compiles it if necessary, and loads it.

    `resolve_runtime` describes the search and the download. The first build on a
    machine compiles, which takes seconds, and stores the result in `cache_dir`;
    `None` disables the cache. `on_progress` is called on the event loop during the
    download and when compiling starts. `limits` are those of each sandbox;
    `max_memory` and `max_storage`, in bytes, are two of them. `prelude` is code that each sandbox runs
    when it starts. `mounts` and `env` are the mounts and environment of each sandbox.
    `reuse_memory` allows that memory of a sandbox that has ended is used for another one.
    """
    refuse_unknown(unknown, "build_template", _TEMPLATE_OPTIONS)
    given = limits_of(limits, max_memory, max_storage)
    if not isinstance(reuse_memory, bool):
        raise InvalidArgumentError(f"reuse_memory is {reuse_memory!r}: give True or False")
    found = await resolve_runtime(
        runtime,
        version=version,
        runtime_path=runtime_path,
        runtime_lib_dir=runtime_lib_dir,
        runtimes_dir=runtimes_dir,
        download_url=download_url,
        runtime_sha256=runtime_sha256,
        on_progress=on_progress,
    )
    if isinstance(cache_dir, _Default):
        cache = None
    else:
        cache = [] if cache_dir is None else [os.fspath(cache_dir)]
    native = await call(
        lambda loop, done: _native.build(
            runtime=runtime,
            runtime_path=found.runtime_path,
            cache_dir=cache,
            limits=given,
            reuse_memory=reuse_memory,
            prelude=prelude,
            mounts=mount_list(mounts),
            env=env_list(env),
            progress=_listener(on_progress),
            event_loop=loop,
            done=done,
        )
    )
    return SandboxTemplate(native, runtime)


def _listener(
    on_progress: Callable[[Progress], object] | None,
) -> Callable[[Any, int | None, int | None], None] | None:
    if on_progress is None:
        return None
    if not callable(on_progress):
        raise InvalidArgumentError(f"on_progress is {on_progress!r}: give a function")

    def report(phase: Any, received: int | None, total: int | None) -> None:
        on_progress(Progress(phase, received, total))

    return report


def _text(option: str, value: object) -> Any:
    if value is None or isinstance(value, str):
        return value
    raise InvalidArgumentError(f"{option} is {value!r}: give a string")


class SandboxTemplate:
    """A compiled interpreter, which can be used from several event loops and threads."""

    def __init__(self, native: _native.Template, runtime: RuntimeName) -> None:
        self._native = native
        self._runtime = runtime

    @property
    def runtime(self) -> RuntimeName:
        """The name of the runtime, such as `"python"`."""
        return self._runtime

    @asynccontextmanager
    async def create(
        self,
        *,
        max_memory: int | None = None,
        max_storage: int | None = None,
        limits: Limits | None = None,
        mounts: Sequence[MountConfig] | None = None,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] | None = None,
        hostcalls: Mapping[str, HostcallHandler] | None = None,
        http: Literal[True] | HttpHandler | None = None,
        http_handler: Literal[True] | HttpHandler | None = None,
        **unknown: object,
    ) -> AsyncIterator[Sandbox]:
        """Creates a started sandbox, closed at the end of the `async with` block.

        `limits` override those of the template. `hostcalls` are the functions that
        the guest can call. `http` is `None` (no HTTP), `True` (every request is sent
        with `httpx`), or a function of an `HttpRequest`. `mounts` and `env` override
        the template's by guest path and by key. `arguments` follow the script's name in
        `sys.argv`, and are `scriptArgs` in JavaScript.
        """
        sandbox = await self.instantiate(
            max_memory=max_memory,
            max_storage=max_storage,
            limits=limits,
            mounts=mounts,
            env=env,
            arguments=arguments,
            hostcalls=hostcalls,
            http=http,
            http_handler=http_handler,
            **unknown,
        )
        async with sandbox:
            yield sandbox

    async def instantiate(
        self,
        *,
        max_memory: int | None = None,
        max_storage: int | None = None,
        limits: Limits | None = None,
        mounts: Sequence[MountConfig] | None = None,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] | None = None,
        hostcalls: Mapping[str, HostcallHandler] | None = None,
        http: Literal[True] | HttpHandler | None = None,
        http_handler: Literal[True] | HttpHandler | None = None,
        **unknown: object,
    ) -> Sandbox:
        """Creates a sandbox that has not been started; entering it starts it."""
        refuse_unknown(unknown, "a sandbox", _SANDBOX_OPTIONS)
        given = limits_of(limits, max_memory, max_storage)
        if http is not None and http_handler is not None:
            raise InvalidArgumentError("http and http_handler are the same option: set only one")
        dispatcher = Dispatcher(hostcalls, http if http is not None else http_handler)
        native = await call(
            lambda loop, done: self._native.create(
                limits=given,
                mounts=mount_list(mounts),
                env=env_list(env),
                arguments=argument_list(arguments),
                host=dispatcher,
                event_loop=loop,
                done=done,
            )
        )
        return Sandbox(native, self._runtime, dispatcher)

    async def load_snapshot(self, path: str | os.PathLike[str]) -> Snapshot:
        """Reads a snapshot that `Snapshot.save` wrote.

        Raises `SnapshotError` if it is damaged, or not of this runtime.
        """
        checked = path_of(path)
        native = await call(lambda loop, done: self._native.load_snapshot(checked, loop, done))
        return Snapshot(native, False)

    async def restore(
        self,
        snapshot: Snapshot | str | os.PathLike[str],
        *,
        max_memory: int | None = None,
        max_storage: int | None = None,
        limits: Limits | None = None,
        mounts: Sequence[MountConfig] | None = None,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] | None = None,
        hostcalls: Mapping[str, HostcallHandler] | None = None,
        http: Literal[True] | HttpHandler | None = None,
        http_handler: Literal[True] | HttpHandler | None = None,
        **unknown: object,
    ) -> Sandbox:
        """Creates a started sandbox that continues from a snapshot or a snapshot file.

        Options that are not given are those of the sandbox of the snapshot, except
        `hostcalls` and `http`, which are never inherited.
        """
        refuse_unknown(unknown, "a sandbox", _SANDBOX_OPTIONS)
        given = limits_of(limits, max_memory, max_storage)
        if http is not None and http_handler is not None:
            raise InvalidArgumentError("http and http_handler are the same option: set only one")
        if not isinstance(snapshot, Snapshot):
            snapshot = await self.load_snapshot(snapshot)
        if snapshot.runtime != self._runtime:
            raise InvalidArgumentError(
                f"the snapshot is of {snapshot.runtime}, but the template is of {self._runtime}"
            )
        dispatcher = Dispatcher(hostcalls, http if http is not None else http_handler)
        return await resume(
            snapshot,
            dispatcher,
            limits=given,
            mounts=mount_list(mounts),
            env=env_list(env),
            arguments=argument_list(arguments),
        )

    def __repr__(self) -> str:
        return f"<SandboxTemplate {self._runtime}>"


class SandboxContext:
    """A context that builds templates until it is closed.

    Its templates and their sandboxes remain usable then.
    """

    def __init__(self) -> None:
        self._closed = False

    async def build_template(
        self, runtime: RuntimeName, **template_config: Unpack[TemplateOptions]
    ) -> SandboxTemplate:
        """Builds a template, as `isola.build_template` does."""
        self._check_open()
        template = await build_template(runtime, **template_config)
        # The context may have been closed during the build, and builds nothing then.
        self._check_open()
        return template

    def close(self) -> None:
        """Closes the context, which then builds no more templates.

        Its templates remain usable. Closing again has no effect.
        """
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the context is closed: its owner closed it")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
