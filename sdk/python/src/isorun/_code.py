"""The results of code that runs in a context."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

CHART = "application/vnd.isorun.chart+json"


@dataclass(frozen=True)
class Result:
    """A value that a cell has shown, in one or more MIME types."""

    data: dict[str, Any]
    """MIME types and their data: base64 for binary types such as `image/png`, JSON values for
    JSON types, text for all others."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """`omitted` names types that were too large, and `errors` types that could not be made."""
    is_main_result: bool = False
    """True for the value of the last expression."""

    @property
    def text(self) -> str | None:
        """The type `text/plain`."""
        return self._text("text/plain")

    @property
    def html(self) -> str | None:
        """The type `text/html`."""
        return self._text("text/html")

    @property
    def markdown(self) -> str | None:
        """The type `text/markdown`."""
        return self._text("text/markdown")

    @property
    def svg(self) -> str | None:
        """The type `image/svg+xml`."""
        return self._text("image/svg+xml")

    @property
    def png(self) -> str | None:
        """The type `image/png`, as base64."""
        return self._text("image/png")

    @property
    def jpeg(self) -> str | None:
        """The type `image/jpeg`, as base64."""
        return self._text("image/jpeg")

    @property
    def latex(self) -> str | None:
        """The type `text/latex`."""
        return self._text("text/latex")

    @property
    def json(self) -> Any:
        """The type `application/json`, as a value."""
        return self.data.get("application/json")

    @property
    def chart(self) -> Any:
        """The data of a chart: the type `application/vnd.isorun.chart+json`."""
        return self.data.get(CHART)

    def formats(self) -> list[str]:
        """Returns the MIME types."""
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
    """The output of a cell, as pieces of text."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ExecutionError:
    """The error that ended a cell. It is not an exception of this package."""

    name: str
    """The name of the exception; `TimeoutError` after a timeout, `ContextDied` if the
    interpreter has exited."""
    value: str
    """Its message."""
    traceback: str = ""
    """The traceback as in a terminal; may be empty."""


@dataclass(frozen=True)
class Execution:
    """The result of a cell."""

    results: list[Result] = field(default_factory=list)
    """The results in the order in which they were shown."""
    logs: Logs = field(default_factory=Logs)
    error: ExecutionError | None = None
    execution_count: int = 0
    """The number of the cell in its context, from 1."""

    @property
    def text(self) -> str | None:
        """The value of the last expression as text, or None."""
        return next((result.text for result in self.results if result.is_main_result), None)

    def to_json(self) -> str:
        """Returns the execution as JSON, in the form of the HTTP API."""
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
    """A context: an interpreter that keeps its state from cell to cell."""

    id: str
    language: str
    cwd: str = ""
    """The initial working directory; empty for that of the user."""
    status: str = "idle"
    """`idle`, `busy`, or `dead`: then the next cell starts another interpreter, without the
    variables."""
    execution_count: int = 0
    """The number of cells that were started since its interpreter was."""
    kernel: str = ""
    """The program that runs its cells: `python` or `node`, or the name of a Jupyter kernel."""
