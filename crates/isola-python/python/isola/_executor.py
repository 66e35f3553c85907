"""Source in; value, output and files out: a tool for agent frameworks."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ._errors import InvalidArgumentError, IsolaError
from ._events import EndEvent, ErrorEvent, LogEvent, ResultEvent, StderrEvent, StdoutEvent
from ._options import MountConfig
from ._template import SandboxTemplate, build_template

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ._arguments import JsonValue
    from ._options import RuntimeName, SandboxOptions
    from ._sandbox import Sandbox

FILES = "/files"
"""Where guest code sees the files."""

MAX_ENTRIES = 10_000
"""The largest number of files and folders in it that are given back."""


@dataclass(frozen=True)
class Execution:
    """What became of a piece of source code."""

    value: JsonValue = None
    """The value of its last expression; its `repr` if JSON cannot hold it."""
    results: list[JsonValue] = field(default_factory=list)
    """Partial results: the items, if that value is a generator."""
    stdout: str = ""
    stderr: str = ""
    logs: list[tuple[str, str]] = field(default_factory=list)
    """Log records, each as level and message."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The files in `/files` afterwards, by their path below it."""
    error: IsolaError | None = None
    """Why it failed, if it did."""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.error is None

    def text(self) -> str:
        """All of it as one text, as a model reads it."""
        parts = [self.stdout, self.stderr]
        parts += [f"{level}: {message}" for level, message in self.logs]
        parts += [repr(item) for item in self.results]
        if self.error is not None:
            parts.append(str(self.error))
        elif self.value is not None:
            parts.append(repr(self.value))
        if self.files:
            parts.append("files: " + ", ".join(self.files))
        return "\n".join(part.rstrip("\n") for part in parts if part)


class Executor:
    """A session: pieces of source code that share their state and files.

        async with isola.Executor() as executor:
            await executor.execute("x = 20")
            print((await executor.execute("x + 1")).value)

    An exception leaves the session as it is. What no guest survives, such as a
    time limit, closes its sandbox; the next piece of code begins in a new one,
    with the files but without the variables, and `Execution.error` of the one
    before says so.
    """

    def __init__(
        self,
        template: SandboxTemplate | None = None,
        *,
        runtime: RuntimeName = "python",
        timeout: float | None = 60.0,
        cpu_timeout: float | None = 10.0,
        max_file_bytes: int = 16 << 20,
        **sandbox_config: Unpack[SandboxOptions],
    ) -> None:
        self._template = template
        self._runtime = runtime if template is None else template.runtime
        self._timeout = timeout
        self._cpu_timeout = cpu_timeout
        self._max_file_bytes = max_file_bytes
        self._config = sandbox_config
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sandbox: Sandbox | None = None

    async def execute(
        self, source: str, *, files: Mapping[str, bytes | str] | None = None
    ) -> Execution:
        """Runs source code. `files` are put into `/files` before."""
        folder = self._root()
        await asyncio.to_thread(_write, folder, files or {})
        sandbox = await self._running(folder)
        value: JsonValue = None
        results: list[JsonValue] = []
        output = {"stdout": "", "stderr": ""}
        logs: list[tuple[str, str]] = []
        error: IsolaError | None = None
        async for event in sandbox._evaluate(source, self._timeout, self._cpu_timeout):
            if isinstance(event, StdoutEvent):
                output["stdout"] += event.data
            elif isinstance(event, StderrEvent):
                output["stderr"] += event.data
            elif isinstance(event, LogEvent):
                logs.append((event.level, event.data))
            elif isinstance(event, ResultEvent):
                results.append(event.data)
            elif isinstance(event, EndEvent):
                value = event.data
            elif isinstance(event, ErrorEvent):
                error = event.error
        found: dict[str, bytes] = {}
        try:
            found = await asyncio.to_thread(_read, folder, self._max_file_bytes)
        except IsolaError as trouble:
            error = error or trouble
        return Execution(
            value, results, output["stdout"], output["stderr"], logs, found, error
        )

    async def reset(self) -> None:
        """Forgets the variables and the files."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            await sandbox.aclose()
        folder, self._folder = self._folder, None
        if folder is not None:
            await asyncio.to_thread(folder.cleanup)

    async def aclose(self) -> None:
        """Closes the session."""
        await self.reset()

    def _root(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="isola-files-")
        return Path(self._folder.name)

    async def _running(self, folder: Path) -> Sandbox:
        if self._sandbox is not None and not self._sandbox.closed:
            return self._sandbox
        if self._template is None:
            self._template = await build_template(self._runtime)
        config = self._config.copy()
        shown = MountConfig(folder, FILES, "read-write", "read-write")
        config["mounts"] = [*(config.get("mounts") or ()), shown]
        sandbox = await self._template.instantiate(**config)
        try:
            await sandbox.start()
        except BaseException:
            sandbox.close()
            raise
        self._sandbox = sandbox
        return sandbox

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


async def execute(
    source: str,
    *,
    files: Mapping[str, bytes | str] | None = None,
    template: SandboxTemplate | None = None,
    runtime: RuntimeName = "python",
    timeout: float | None = 60.0,
    cpu_timeout: float | None = 10.0,
    **sandbox_config: Unpack[SandboxOptions],
) -> Execution:
    """Runs source code in a sandbox of its own: value, output and files.

    Without a `template` one is built, which a program that does this often
    does once by itself.
    """
    executor = Executor(
        template,
        runtime=runtime,
        timeout=timeout,
        cpu_timeout=cpu_timeout,
        **sandbox_config,
    )
    async with executor:
        return await executor.execute(source, files=files)


def _write(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Puts files into a folder that a guest may have changed: no link is followed."""
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise InvalidArgumentError(
                f"files: {name!r} is not a path below {FILES}, such as data/in.csv"
            )
        parent = folder
        for part in parts[:-1]:
            parent = parent / part
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                raise InvalidArgumentError(f"files: {name!r}: {part!r} is not a folder")
            parent.mkdir(exist_ok=True)
        target = parent / parts[-1]
        if target.is_symlink():
            target.unlink()
        if target.is_dir():
            raise InvalidArgumentError(f"files: {name!r} is a folder")
        target.write_bytes(content.encode() if isinstance(content, str) else content)


def _read(folder: Path, limit: int) -> dict[str, bytes]:
    """The regular files below a folder. Links of the guest are not followed."""
    found: dict[str, bytes] = {}
    folders = [folder]
    size = count = 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                # Empty ones take memory, too.
                count += 1
                if count > MAX_ENTRIES:
                    raise IsolaError(
                        f"there are more than {MAX_ENTRIES} files and folders in {FILES}",
                        code="output_limit",
                    )
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                if not entry.is_file(follow_symlinks=False):
                    continue
                size += entry.stat(follow_symlinks=False).st_size
                if size > limit:
                    raise IsolaError(
                        f"the files in {FILES} take more than {limit} bytes", code="output_limit"
                    )
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))
