"""Requests and responses of code and contexts, without any I/O."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from ._code import Context, Execution, ExecutionError, Logs, Result
from ._errors import IsorunConnectionError, IsorunError
from ._protocol import EventStream, Operation, failure

# The additional time in seconds to wait for the server: the start of a kernel, and the time
# that an interrupted cell gets.
CODE_GRACE = 90.0


def run_code(
    run: str,
    code: str,
    language: str | None,
    context: str | Context | None,
    timeout: float,
    stream: bool = False,
) -> Operation[Execution]:
    body: dict[str, Any] = {"code": code, "timeout": timeout}
    if language is not None:
        body["language"] = language
    if context is not None:
        body["context"] = id_of(context)
    return Operation(
        "POST",
        f"/v1/runs/{run}/code/stream" if stream else f"/v1/runs/{run}/code",
        _execution,
        body=body,
        read_timeout=timeout + CODE_GRACE if timeout > 0 else None,
    )


def contexts(run: str) -> Operation[list[Context]]:
    return Operation("GET", f"/v1/runs/{run}/contexts", _contexts)


def create_context(run: str, language: str | None, cwd: str | None) -> Operation[Context]:
    body = {"language": language, "cwd": cwd}
    return Operation(
        "POST",
        f"/v1/runs/{run}/contexts",
        _context,
        body={name: value for name, value in body.items() if value is not None},
        read_timeout=CODE_GRACE,
    )


def restart_context(run: str, context: str | Context) -> Operation[Context]:
    return Operation("POST", f"{_path(run, context)}/restart", _context, read_timeout=CODE_GRACE)


def interrupt_context(run: str, context: str | Context) -> Operation[None]:
    return Operation("POST", f"{_path(run, context)}/interrupt", lambda _: None)


def remove_context(run: str, context: str | Context) -> Operation[None]:
    return Operation("DELETE", _path(run, context), lambda _: None)


class CodeStream(EventStream[Execution]):
    """A parser of the response to a streamed cell."""

    def __init__(self) -> None:
        super().__init__()
        self._results: list[Result] = []
        self._logs = Logs()
        self._error: ExecutionError | None = None
        self._count: int | None = None

    def event(self, data: str) -> tuple[str, Any] | None:
        try:
            event = json.loads(data)
            kind = event["type"]
            if kind in ("stdout", "stderr"):
                text = str(event["text"])
                (self._logs.stdout if kind == "stdout" else self._logs.stderr).append(text)
                return kind, text
            if kind == "result":
                result = _result(event)
                self._results.append(result)
                return kind, result
            if kind == "error":
                self._error = _error(event)
                return kind, self._error
            if kind == "end":
                self._count = int(event["execution_count"])
            if kind != "failure":
                # The end, or an event of a later server, which this client does not know.
                return None
            message, name = str(event["error"]), str(event["code"])
        except (ValueError, KeyError, TypeError) as error:
            raise IsorunError(f"the server sent an invalid response: {data[:200]}") from error
        raise failure(message, event.get("status"), name, "", "")

    def result(self) -> Execution:
        if self._count is None:
            raise IsorunConnectionError("the connection ended before the cell did")
        return Execution(self._results, self._logs, self._error, self._count)


def id_of(context: str | Context) -> str:
    return context.id if isinstance(context, Context) else context


def _path(run: str, context: str | Context) -> str:
    # Quoted, so that a text that is not an id cannot change the path.
    return f"/v1/runs/{run}/contexts/{quote(id_of(context), safe='')}"


def _execution(content: bytes) -> Execution:
    body = json.loads(content)
    logs = body["logs"]
    return Execution(
        results=[_result(result) for result in body["results"]],
        logs=Logs(
            stdout=[str(text) for text in logs["stdout"]],
            stderr=[str(text) for text in logs["stderr"]],
        ),
        error=None if body["error"] is None else _error(body["error"]),
        execution_count=int(body["execution_count"]),
    )


def _result(body: dict[str, Any]) -> Result:
    return Result(
        data=dict(body["data"]),
        metadata=dict(body.get("metadata") or {}),
        is_main_result=bool(body.get("is_main_result")),
    )


def _error(body: dict[str, Any]) -> ExecutionError:
    return ExecutionError(str(body["name"]), str(body["value"]), str(body.get("traceback") or ""))


def _contexts(content: bytes) -> list[Context]:
    return [_context_of(body) for body in json.loads(content)["contexts"]]


def _context(content: bytes) -> Context:
    return _context_of(json.loads(content))


def _context_of(body: dict[str, Any]) -> Context:
    return Context(
        id=str(body["id"]),
        language=str(body["language"]),
        cwd=str(body.get("cwd") or ""),
        status=str(body["status"]),
        execution_count=int(body["execution_count"]),
        kernel=str(body.get("kernel") or ""),
    )
