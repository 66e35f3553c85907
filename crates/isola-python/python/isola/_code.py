"""The outcome of code that runs in a context, and its events."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

from ._json import decode

CHART = "application/vnd.isorun.chart+json"


@dataclass(frozen=True)
class Result:
    """A value that code has shown, in one or more representations."""

    data: dict[str, Any]
    """The representations by MIME type: base64 for binary types such as `image/png`, JSON
    values for JSON types, text for all others."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """`errors` has a message for each representation that failed, and `omitted` the size of
    each that exceeded a limit."""
    is_main_result: bool = False
    """True for the value of the last expression."""

    @property
    def text(self) -> str | None:
        """The representation `text/plain`."""
        return self._text("text/plain")

    @property
    def html(self) -> str | None:
        """The representation `text/html`."""
        return self._text("text/html")

    @property
    def markdown(self) -> str | None:
        """The representation `text/markdown`."""
        return self._text("text/markdown")

    @property
    def svg(self) -> str | None:
        """The representation `image/svg+xml`."""
        return self._text("image/svg+xml")

    @property
    def png(self) -> str | None:
        """The representation `image/png`, in base64."""
        return self._text("image/png")

    @property
    def jpeg(self) -> str | None:
        """The representation `image/jpeg`, in base64."""
        return self._text("image/jpeg")

    @property
    def latex(self) -> str | None:
        """The representation `text/latex`."""
        return self._text("text/latex")

    @property
    def json(self) -> Any:
        """The representation `application/json`, as a value."""
        return self.data.get("application/json")

    @property
    def chart(self) -> Any:
        """The chart as data: the representation `application/vnd.isorun.chart+json`."""
        return self.data.get(CHART)

    def formats(self) -> list[str]:
        """Returns the MIME types of the representations."""
        return list(self.data)

    def _text(self, mime: str) -> str | None:
        text = self.data.get(mime)
        return text if isinstance(text, str) else None

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Shows the value in a notebook."""
        data = {
            mime: entry
            for mime, entry in self.data.items()
            if (not include or mime in include) and not (exclude and mime in exclude)
        }
        return data, {mime: about for mime, about in self.metadata.items() if mime in data}


@dataclass(frozen=True)
class Logs:
    """The output of code: texts in the order in which they were written."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ExecutionError:
    """The exception that ended code. It is not an exception of this package.

    All texts are controlled by the guest.
    """

    name: str
    """The name of its type; `TimeoutError` after a timeout."""
    value: str
    """Its message."""
    traceback: str = ""
    """The traceback as a terminal shows it, or empty."""


@dataclass(frozen=True)
class Execution:
    """The outcome of code that was run by `Sandbox.run_code`."""

    results: list[Result] = field(default_factory=list)
    """The values that were shown, in order."""
    logs: Logs = field(default_factory=Logs)
    error: ExecutionError | None = None
    """The exception that ended the code."""
    execution_count: int = 0
    """The number of the code in its context, from 1."""

    @property
    def text(self) -> str | None:
        """The value of the last expression as text, or `None`."""
        return next((result.text for result in self.results if result.is_main_result), None)

    def to_json(self) -> str:
        """Returns the execution as a JSON text, in the same form in all languages."""
        error = self.error
        return json.dumps(
            {
                "results": [
                    {
                        "data": result.data,
                        "metadata": result.metadata,
                        "is_main_result": result.is_main_result,
                    }
                    for result in self.results
                ],
                "logs": {"stdout": self.logs.stdout, "stderr": self.logs.stderr},
                "error": error
                and {"name": error.name, "value": error.value, "traceback": error.traceback},
                "execution_count": self.execution_count,
            }
        )


@dataclass(frozen=True)
class Context:
    """A context: an interpreter state with its own globals and working directory."""

    id: str
    language: str
    """`"python"` or `"javascript"`: that of the runtime."""
    cwd: str = ""
    """The working directory; empty if the runtime has none."""
    execution_count: int = 0
    """The number of executions since it was created or restarted."""


class ExecutionBuilder:
    """Builds an `Execution` from the events that the native module sends."""

    def __init__(self) -> None:
        self._results: list[Result] = []
        self._logs = Logs()
        self._error: ExecutionError | None = None
        self._count = 0

    def add(self, text: str) -> tuple[str, Any]:
        """Adds an event, and returns its kind and what a listener of this kind receives."""
        event = cast("dict[str, Any]", decode(text))
        kind: str = event["type"]
        if kind == "stdout" or kind == "stderr":
            getattr(self._logs, kind).append(event["text"])
            return kind, event["text"]
        if kind == "result":
            result = Result(event["data"], event["metadata"], event["is_main_result"])
            self._results.append(result)
            return kind, result
        if kind == "error":
            self._error = ExecutionError(event["name"], event["value"], event["traceback"])
            return kind, self._error
        self._count = event["execution_count"]
        return kind, None

    def execution(self) -> Execution:
        """Returns the execution."""
        return Execution(self._results, self._logs, self._error, self._count)
