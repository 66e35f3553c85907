"""Linux sandboxes on an isorun server.

    from isorun import Sandbox

    with Sandbox("host") as sb:
        print(sb.exec("python3 -c 'print(2 + 2)'").stdout)

`AsyncSandbox` has the same methods as coroutines.

`_protocol` and `_shell_protocol` create requests and read responses, without any I/O.
`_async_sandbox` and `_async_shell` are the API; `generate_sync.py` generates the
synchronous half from them, so change only the asynchronous one.
"""

from ._async_contexts import AsyncContexts
from ._async_sandbox import AsyncSandbox
from ._async_shell import AsyncShell
from ._code import Context, Execution, ExecutionError, Logs, Result
from ._contexts import Contexts
from ._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from ._sandbox import Sandbox
from ._shell import Shell
from ._types import DestroyStats, ExecBytesResult, ExecResult, SandboxInfo, SnapshotInfo

__all__ = [
    "AsyncContexts",
    "AsyncSandbox",
    "AsyncShell",
    "Context",
    "Contexts",
    "DestroyStats",
    "ExecBytesResult",
    "ExecResult",
    "Execution",
    "ExecutionError",
    "IsorunConnectionError",
    "IsorunError",
    "IsorunTimeoutError",
    "Logs",
    "Result",
    "Sandbox",
    "SandboxInfo",
    "Shell",
    "SnapshotInfo",
]
__version__ = "0.1.0"
