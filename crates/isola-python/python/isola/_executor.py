"""Evaluates source code to its value, output and files: a tool for agent frameworks."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ._errors import InvalidArgumentError, IsolaError, LimitError
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
"""The directory in which guest code finds the files."""

MAX_ENTRIES = 10_000
"""The maximum number of files and directories in it that are returned."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of a piece of source code."""

    value: JsonValue = None
    """The value of its last expression; its `repr` if JSON cannot represent it."""
    results: list[JsonValue] = field(default_factory=list)
    """Partial results: the items, if that value is a generator."""
    stdout: str = ""
    stderr: str = ""
    logs: list[tuple[str, str]] = field(default_factory=list)
    """Log records, each as level and message."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The files in `/files` afterwards, by their path below it."""
    error: IsolaError | None = None
    """The error, if it failed."""

    @property
    def ok(self) -> bool:
        """True if the source code ran without an error."""
        return self.error is None

    def text(self) -> str:
        """Returns all of it as one text, for a language model."""
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
            await executor.evaluate("x = 20")
            done = await executor.evaluate("x + 1")
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
        **sandbox_config: Unpack[SandboxOptions],
    ) -> None:
        self._template = template
        self._runtime = runtime if template is None else template.runtime
        self._timeout = timeout
        self._cpu_timeout = cpu_timeout
        self._max_file_bytes = max_file_bytes
        self._config = sandbox_config
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._sandbox: Sandbox | None = None

    async def evaluate(
        self, source: str, *, files: Mapping[str, bytes | str] | None = None
    ) -> Evaluation:
        """Writes `files` into `/files` and runs source code."""
        directory = self._root()
        await asyncio.to_thread(_write, directory, files or {})
        sandbox = await self._running(directory)
        value: JsonValue = None
        results: list[JsonValue] = []
        output = {"stdout": "", "stderr": ""}
        logs: list[tuple[str, str]] = []
        error: IsolaError | None = None
        events = sandbox.evaluate_stream(
            source, timeout=self._timeout, cpu_timeout=self._cpu_timeout
        )
        async for event in events:
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
            found = await asyncio.to_thread(_read, directory, self._max_file_bytes)
        except IsolaError as read_error:
            error = error or read_error
        return Evaluation(value, results, output["stdout"], output["stderr"], logs, found, error)

    async def reset(self) -> None:
        """Discards the variables and the files."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            await sandbox.aclose()
        directory, self._directory = self._directory, None
        if directory is not None:
            await asyncio.to_thread(directory.cleanup)

    async def aclose(self) -> None:
        """Closes the session."""
        await self.reset()

    def _root(self) -> Path:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="isola-files-")
        return Path(self._directory.name)

    async def _running(self, directory: Path) -> Sandbox:
        if self._sandbox is not None and not self._sandbox.closed:
            return self._sandbox
        if self._template is None:
            self._template = await build_template(self._runtime)
        config = self._config.copy()
        mount = MountConfig(directory, FILES, "read-write", "read-write")
        config["mounts"] = [*(config.get("mounts") or ()), mount]
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


async def evaluate(
    source: str,
    *,
    files: Mapping[str, bytes | str] | None = None,
    template: SandboxTemplate | None = None,
    runtime: RuntimeName = "python",
    timeout: float | None = 60.0,
    cpu_timeout: float | None = 10.0,
    **sandbox_config: Unpack[SandboxOptions],
) -> Evaluation:
    """Runs source code in its own sandbox and returns its value, output and files.

    Without a `template` one is built. A program that calls this often should build
    it once and pass it.
    """
    executor = Executor(
        template,
        runtime=runtime,
        timeout=timeout,
        cpu_timeout=cpu_timeout,
        **sandbox_config,
    )
    async with executor:
        return await executor.evaluate(source, files=files)


def _write(directory: Path, files: Mapping[str, bytes | str]) -> None:
    """Writes files into a directory. No link is followed, since the guest can create them."""
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise InvalidArgumentError(
                f"files: {name!r} is not a path below {FILES}, such as data/in.csv"
            )
        parent = directory
        for part in parts[:-1]:
            parent = parent / part
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                raise InvalidArgumentError(f"files: {name!r}: {part!r} is not a directory")
            parent.mkdir(exist_ok=True)
        target = parent / parts[-1]
        if target.is_symlink():
            target.unlink()
        if target.is_dir():
            raise InvalidArgumentError(f"files: {name!r} is a directory")
        target.write_bytes(content.encode() if isinstance(content, str) else content)


def _read(directory: Path, limit: int) -> dict[str, bytes]:
    """Returns the regular files below a directory. Links of the guest are not followed."""
    found: dict[str, bytes] = {}
    directories = [directory]
    size = count = 0
    while directories:
        with os.scandir(directories.pop()) as entries:
            for entry in entries:
                # Every entry counts, since empty files take memory, too.
                count += 1
                if count > MAX_ENTRIES:
                    raise LimitError(
                        f"there are more than {MAX_ENTRIES} files and directories in {FILES}",
                        code="output_limit",
                    )
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    directories.append(path)
                if not entry.is_file(follow_symlinks=False):
                    continue
                size += entry.stat(follow_symlinks=False).st_size
                if size > limit:
                    raise LimitError(
                        f"the files in {FILES} take more than {limit} bytes", code="output_limit"
                    )
                found[path.relative_to(directory).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))
