"""A code executor of Google's Agent Development Kit, in this process.

    from google.adk.agents import LlmAgent
    from isola.integrations.google_adk import IsolaCodeExecutor

    agent = LlmAgent(name="analyst", model="...", code_executor=IsolaCodeExecutor())

`docs/integrations/google-adk.md` describes it.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import sync
from .._errors import CrashError, LimitError

if TYPE_CHECKING:
    from .._code import Execution

try:
    from google.adk.agents.invocation_context import InvocationContext
    from google.adk.code_executors.base_code_executor import BaseCodeExecutor
    from google.adk.code_executors.code_execution_utils import (
        CodeExecutionInput,
        CodeExecutionResult,
        File,
    )
    from pydantic import Field, PrivateAttr
except ImportError as error:
    raise ImportError(
        "isola.integrations.google_adk needs google-adk 2.13 or newer: "
        'run `pip install "isola[google-adk]"`'
    ) from error

# The number of files and directories in the home that are looked at for output files.
MAX_ENTRIES = 10_000


class IsolaCodeExecutor(BaseCodeExecutor):
    """Runs the Python code of a model in sandboxes of isola.

    Without `stateful` each piece of code has a sandbox of its own. With it the pieces of a
    session share one, with their variables and files.
    """

    # The guest has no pandas, which ADK's own code for data files imports.
    optimize_data_file: bool = Field(default=False, frozen=True, exclude=True)

    timeout_seconds: int | None = 300
    """The wall time of a piece of code, after which it is interrupted; `None` for no limit."""
    cpu_timeout_seconds: float | None = None
    """The CPU time of a piece of code, after which it is stopped; by default that of the
    sandbox, 30 seconds."""
    max_sessions: int = Field(default=16, ge=1)
    """The number of sandboxes of sessions that exist at once. The one that was not used for the
    longest time is closed for another one."""
    max_output_bytes: int = Field(default=16 << 20, ge=0)
    """The size of all output files of a piece of code."""
    template_options: dict[str, Any] = Field(default_factory=dict)
    """The options of `isola.build_template`."""
    sandbox_options: dict[str, Any] = Field(default_factory=dict)
    """The options of `SandboxTemplate.create`, such as `hostcalls`, `http` and `limits`."""

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _template: sync.SandboxTemplate | None = PrivateAttr(default=None)
    _sessions: OrderedDict[str, _Session] = PrivateAttr(default_factory=OrderedDict)

    def __init__(self, **data: Any) -> None:
        if data.get("optimize_data_file"):
            raise ValueError(
                "optimize_data_file is not available: its code imports pandas, which is not in "
                "the sandbox. Leave it out, and let code read the files"
            )
        super().__init__(**data)

    def execute_code(
        self,
        invocation_context: InvocationContext,
        code_execution_input: CodeExecutionInput,
    ) -> CodeExecutionResult:
        """Runs a piece of code, and returns its output and the files that it has written.

        An exception of the code and an exceeded limit are part of the result, in `stderr`.

        :raises IsolaError: the embedding program is at fault, with an invalid option for
            example.
        :raises ValueError: an input file has an invalid name or content.
        """
        files = {_checked(file.name): _content(file) for file in code_execution_input.input_files}
        session = code_execution_input.execution_id if self.stateful else None
        with self._sandbox(session) as sandbox:
            for name, content in files.items():
                sandbox.files.write(name, content)
            return self._run(sandbox, code_execution_input.code, session is not None)

    def close(self) -> None:
        """Closes the sandboxes of all sessions, and stops the code in them."""
        with self._lock:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.close()

    def _run(self, sandbox: sync.Sandbox, code: str, is_session: bool) -> CodeExecutionResult:
        before = _home(sandbox)
        stdout: list[str] = []
        stderr: list[str] = []
        exit_code: int | None
        try:
            execution = sandbox.run_code(
                code,
                timeout=self.timeout_seconds,
                cpu_timeout=self.cpu_timeout_seconds,
                on_stdout=stdout.append,
                on_stderr=stderr.append,
            )
        except (LimitError, CrashError) as error:
            exit_code, message = None, f"{error}\n"
            if is_session:
                message += "The variables and files of earlier code are lost.\n"
        else:
            exit_code, message = _end(execution)
        output, is_complete = self._output(sandbox, before)
        if not is_complete:
            exit_code = exit_code or 1
            message += f"The output files have more than {self.max_output_bytes} bytes.\n"
        # ADK takes any standard error for a failure.
        errors = _joined(stderr, message) if exit_code != 0 else ""
        return CodeExecutionResult(
            stdout="".join(stdout), stderr=errors, output_files=output, exit_code=exit_code
        )

    def _output(
        self, sandbox: sync.Sandbox, before: dict[str, tuple[int, float]]
    ) -> tuple[list[File], bool]:
        """Returns the files that were written, and whether these are all of them."""
        try:
            after = _home(sandbox)
            found: list[File] = []
            left = self.max_output_bytes
            for path, state in after.items():
                if before.get(path) == state:
                    continue
                left -= state[0]
                if left < 0:
                    return found, False
                kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
                found.append(File(_artifact_name(path), sandbox.files.read(path), kind))
        except OSError:
            # They are not there any more: `close` was called.
            return [], True
        return found, True

    @contextmanager
    def _sandbox(self, session_id: str | None) -> Iterator[sync.Sandbox]:
        template = self._built()
        if session_id is None:
            with template.create(**self.sandbox_options) as sandbox:
                yield sandbox
            return
        with self._lock:
            session = self._sessions.setdefault(session_id, _Session())
            self._sessions.move_to_end(session_id)
            session.users += 1
            surplus = max(0, len(self._sessions) - self.max_sessions)
            idle = [key for key, other in self._sessions.items() if other.users == 0]
            removed = [self._sessions.pop(key) for key in idle[:surplus]]
        for other in removed:
            other.close()
        try:
            with session.lock:
                yield session.running(template, self.sandbox_options)
        finally:
            with self._lock:
                session.users -= 1
                is_removed = self._sessions.get(session_id) is not session
            if is_removed and session.users == 0:
                session.close()

    def _built(self) -> sync.SandboxTemplate:
        with self._lock:
            if self._template is None:
                self._template = sync.build_template("python", **self.template_options)
            return self._template


class _Session:
    """The sandbox of a session, which one piece of code uses at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        """The number of pieces of code that use it or wait for it."""
        self._sandbox: sync.Sandbox | None = None

    def running(self, template: sync.SandboxTemplate, options: dict[str, Any]) -> sync.Sandbox:
        """Returns the sandbox, or a new one after a limit or crash has closed it."""
        if self._sandbox is not None and self._sandbox.closed:
            self.close()
        if self._sandbox is None:
            sandbox = template.instantiate(**options)
            try:
                sandbox.start()
            except BaseException:
                sandbox.close()
                raise
            self._sandbox = sandbox
        return self._sandbox

    def close(self) -> None:
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()


def _end(execution: Execution) -> tuple[int, str]:
    """Returns the exit code and the message of code that has ended, as `python3` has them."""
    error = execution.error
    if error is None:
        return 0, ""
    if error.name != "SystemExit":
        text = error.traceback.rstrip("\n")
        # The traceback of code that took too long is that of its interrupt.
        if not text or (error.name == "TimeoutError" and error.name not in text):
            text = f"{text}\n{error.name}: {error.value}".lstrip("\n")
        return 1, f"{text}\n"
    if error.value in ("", "None"):
        return 0, ""
    if re.fullmatch(r"-?[0-9]{1,18}", error.value):
        exit_code = int(error.value) & 0xFF
        return exit_code, f"The code exited with {exit_code}.\n" if exit_code else ""
    return 1, f"{error.value}\n"


def _home(sandbox: sync.Sandbox) -> dict[str, tuple[int, float]]:
    """Returns the size and time of change of each file in the home of a sandbox, without
    those that Python compiles."""
    found: dict[str, tuple[int, float]] = {}
    directories = [""]
    entries = 0
    while directories:
        directory = directories.pop()
        for entry in sandbox.files.list(directory or "."):
            entries += 1
            if entries > MAX_ENTRIES:
                return found
            path = f"{directory}/{entry.name}" if directory else entry.name
            if entry.kind == "directory" and entry.name != "__pycache__":
                directories.append(path)
            elif entry.kind == "file":
                found[path] = (entry.size, entry.modified)
    return found


def _artifact_name(path: str) -> str:
    """Returns the name of an output file. ADK shares artifacts whose names begin with `user:`
    among all sessions of a user, which untrusted code must not decide."""
    return path.replace(":", "_", 1) if path.startswith("user:") else path


def _checked(name: str) -> str:
    """Returns the name of an input file, which is a path below the home."""
    parts = name.split("/")
    if not name or name.startswith("/") or "\0" in name or any(p in ("", ".", "..") for p in parts):
        raise ValueError(f"{name!r} is not a valid name of an input file: give a relative path")
    return name


def _content(file: File) -> bytes:
    """Returns the content of an input file, which is in base64 if it is a text."""
    if isinstance(file.content, bytes):
        return file.content
    try:
        return base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"the content of the input file {file.name!r} is a text that is not base64: encode "
            "it, or give bytes"
        ) from error


def _joined(stderr: list[str], message: str) -> str:
    text = "".join(stderr)
    separator = "\n" if text and not text.endswith("\n") else ""
    return f"{text}{separator}{message}"
