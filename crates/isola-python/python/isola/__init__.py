"""Run untrusted Python and JavaScript in your own process.

A template is an interpreter compiled to WebAssembly. Sandboxes are created from it
in milliseconds; each can access only what it was given of its host.

    import asyncio
    import isola

    async def main():
        template = await isola.build_template("python")
        async with template.create() as sandbox:
            await sandbox.load_script("def add(a, b): return a + b")
            print(await sandbox.run("add", 2, 3))

    asyncio.run(main())

Everything is asynchronous; `isola.sync` has the same names for scripts.
"""

from ._arguments import Arg, JsonValue, StreamArg
from ._code import Context, Execution, ExecutionError, Logs, Result
from ._contexts import Contexts
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
from ._events import (
    EndEvent,
    ErrorEvent,
    Event,
    LogEvent,
    ResultEvent,
    StderrEvent,
    StdoutEvent,
)
from ._executor import Evaluation, Executor, evaluate
from ._files import FileEntry, FileKind, Files, FileStat
from ._http import Headers, HttpHandler, HttpRequest, HttpResponse
from ._native import __version__
from ._options import (
    HostcallHandler,
    Limits,
    MountConfig,
    Permission,
    Progress,
    RuntimeName,
)
from ._pool import SandboxPool
from ._sandbox import Sandbox
from ._snapshot import Snapshot
from ._template import (
    RuntimeConfig,
    SandboxContext,
    SandboxTemplate,
    build_template,
    resolve_runtime,
)

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
    "HostcallHandler",
    "HttpHandler",
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
