"""Templates: compiled interpreters, from which sandboxes are created."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, AsyncIterator, Literal

from . import _native
from ._bridge import call
from ._dispatch import Dispatcher
from ._errors import InvalidArgumentError, IsolaError
from ._options import (
    HostcallHandler,
    MountConfig,
    RuntimeName,
    env_list,
    memory,
    mount_list,
    refuse_unknown,
)
from ._sandbox import Sandbox

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ._http import HttpHandler

_TEMPLATE_OPTIONS = (
    "version",
    "runtime_path",
    "runtime_lib_dir",
    "cache_dir",
    "max_memory",
    "prelude",
    "mounts",
    "env",
)
_SANDBOX_OPTIONS = ("max_memory", "mounts", "env", "hostcalls", "http")


class _Default:
    """Stands for an argument that was not given, where `None` means something."""

    def __repr__(self) -> str:
        return "<default>"


_DEFAULT = _Default()


@dataclass(frozen=True)
class RuntimeConfig:
    """Where a runtime is: what `build_template` would use."""

    runtime: RuntimeName
    version: str
    runtime_path: Path
    runtime_lib_dir: Path | None = None


async def resolve_runtime(
    runtime: RuntimeName,
    *,
    version: str | None = None,
    runtime_path: str | os.PathLike[str] | None = None,
) -> RuntimeConfig:
    """Finds the component of a runtime.

    Looked at, in this order: `runtime_path`, the component itself or the folder
    that holds it; the environment variable `ISOLA_RUNTIME_DIR`; the runtimes
    shipped with this package; the user's cache folder.
    """
    if version is not None and version != _native.__version__:
        raise InvalidArgumentError(
            f"version {version!r} of the runtime is not here: this package is "
            f"{_native.__version__}; give the path of another one as runtime_path"
        )
    path = None if runtime_path is None else Path(runtime_path)
    if path is None and "ISOLA_RUNTIME_DIR" not in os.environ:
        shipped = Path(__file__).parent / "runtimes"
        if (shipped / f"{runtime}.wasm").is_file():
            path = shipped
    found = _native.resolve(runtime, path)
    return RuntimeConfig(runtime, _native.__version__, Path(found))


async def build_template(
    runtime: RuntimeName,
    *,
    version: str | None = None,
    runtime_path: str | os.PathLike[str] | None = None,
    runtime_lib_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None | _Default = _DEFAULT,
    max_memory: int | None = None,
    prelude: str | None = None,
    mounts: Sequence[MountConfig] | None = None,
    env: Mapping[str, str] | None = None,
    **unknown: object,
) -> SandboxTemplate:
    """Finds, compiles if need be, and loads a runtime.

    The first build on a machine compiles, which takes seconds, and keeps the
    result in `cache_dir`; `None` keeps nothing. `max_memory` limits each
    sandbox, in bytes. `prelude` is code that each sandbox runs when it starts.
    `mounts` and `env` are what each sandbox sees. `runtime_lib_dir` is accepted
    for runtimes that ship a folder of libraries; these have theirs inside.
    """
    refuse_unknown(unknown, "build_template", _TEMPLATE_OPTIONS)
    if runtime_lib_dir is not None and not Path(runtime_lib_dir).is_dir():
        raise InvalidArgumentError(f"runtime_lib_dir {os.fspath(runtime_lib_dir)!r} is not a folder")
    found = await resolve_runtime(runtime, version=version, runtime_path=runtime_path)
    if isinstance(cache_dir, _Default):
        cache = None
    else:
        cache = [] if cache_dir is None else [os.fspath(cache_dir)]
    native = await call(
        lambda loop, done: _native.build(
            runtime=runtime,
            runtime_path=found.runtime_path,
            cache_dir=cache,
            max_memory=memory(max_memory),
            prelude=prelude,
            mounts=mount_list(mounts),
            env=env_list(env),
            event_loop=loop,
            done=done,
        )
    )
    return SandboxTemplate(native, runtime)


class SandboxTemplate:
    """A compiled interpreter. It may be used from many event loops and threads."""

    def __init__(self, native: _native.Template, runtime: RuntimeName) -> None:
        self._native = native
        self._runtime = runtime
        self._closed = False

    @property
    def runtime(self) -> RuntimeName:
        """`"python"` or `"js"`."""
        return self._runtime

    @asynccontextmanager
    async def create(
        self,
        *,
        max_memory: int | None = None,
        mounts: Sequence[MountConfig] | None = None,
        env: Mapping[str, str] | None = None,
        hostcalls: Mapping[str, HostcallHandler] | None = None,
        http: Literal[True] | HttpHandler | None = None,
        http_handler: Literal[True] | HttpHandler | None = None,
        **unknown: object,
    ) -> AsyncIterator[Sandbox]:
        """A started sandbox, closed at the end of the `async with` block.

        `hostcalls` are the functions that the guest can reach. `http` is `None`
        (off), `True` (every request is sent, on `httpx`), or a function of
        an `HttpRequest`. `mounts` and `env` replace the template's by guest path
        and by key.
        """
        sandbox = await self.instantiate(
            max_memory=max_memory,
            mounts=mounts,
            env=env,
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
        mounts: Sequence[MountConfig] | None = None,
        env: Mapping[str, str] | None = None,
        hostcalls: Mapping[str, HostcallHandler] | None = None,
        http: Literal[True] | HttpHandler | None = None,
        http_handler: Literal[True] | HttpHandler | None = None,
        **unknown: object,
    ) -> Sandbox:
        """A sandbox that is still to be started; entering it starts it."""
        refuse_unknown(unknown, "a sandbox", _SANDBOX_OPTIONS)
        if self._closed:
            raise IsolaError("the template's context is closed", code="closed")
        if http is not None and http_handler is not None:
            raise InvalidArgumentError("http and http_handler are the same option: give one")
        dispatcher = Dispatcher(hostcalls, http if http is not None else http_handler)
        native = await call(
            lambda loop, done: self._native.create(
                max_memory=memory(max_memory),
                mounts=mount_list(mounts),
                env=env_list(env),
                host=dispatcher,
                event_loop=loop,
                done=done,
            )
        )
        return Sandbox(native, self._runtime, dispatcher)

    def __repr__(self) -> str:
        return f"<SandboxTemplate {self._runtime}>"


class SandboxContext:
    """Owns the templates that it builds: after `close` they create nothing more.

    Sandboxes that exist live on.
    """

    def __init__(self) -> None:
        self._templates: list[SandboxTemplate] = []
        self._closed = False

    async def build_template(
        self, runtime: RuntimeName, *, version: str | None = None, **template_config: Any
    ) -> SandboxTemplate:
        """The same as `isola.build_template`."""
        if self._closed:
            raise IsolaError("the context is closed", code="closed")
        template = await build_template(runtime, version=version, **template_config)
        self._templates.append(template)
        return template

    def close(self) -> None:
        """Lets go of the templates. Closing twice is fine."""
        self._closed = True
        for template in self._templates:
            template._closed = True
        self._templates.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
