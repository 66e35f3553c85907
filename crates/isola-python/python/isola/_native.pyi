"""Type stubs of the native module. Not part of the public API."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Literal

from ._options import Limits

__version__: str

_Loop = asyncio.AbstractEventLoop
_Done = Callable[[Any, BaseException | None], None]
_Progress = Callable[[Any, int | None, int | None], None]
_Limits = tuple[float | None, float | None]
_Arguments = list[tuple[str | None, str]]
_Mounts = list[tuple[str, str, str, str]]
_Headers = list[tuple[str, str]]

def encode(value: object) -> str: ...
def check_process() -> None: ...
def find(
    runtime: str,
    options: dict[str, Any],
    progress: _Progress | None,
    event_loop: _Loop,
    done: _Done,
) -> Task: ...
def build(
    *,
    runtime: str,
    runtime_path: str | os.PathLike[str],
    cache_dir: list[str] | None,
    limits: Limits,
    prelude: str | None,
    mounts: _Mounts,
    env: list[tuple[str, str]],
    progress: _Progress | None,
    event_loop: _Loop,
    done: _Done,
) -> Task: ...

def take_snapshot(sandbox: Sandbox, event_loop: _Loop, done: _Done) -> Task: ...

class Task:
    def cancel(self) -> None: ...

class Template:
    def create(
        self,
        *,
        limits: Limits,
        mounts: _Mounts,
        env: list[tuple[str, str]],
        host: object,
        event_loop: _Loop,
        done: _Done,
    ) -> Task: ...

    def load_snapshot(
        self, path: str | os.PathLike[str], event_loop: _Loop, done: _Done
    ) -> Task: ...

class Snapshot:
    def create(
        self,
        *,
        limits: Limits,
        mounts: _Mounts,
        env: list[tuple[str, str]],
        host: object,
        event_loop: _Loop,
        done: _Done,
    ) -> Task: ...
    def save(
        self, path: str | os.PathLike[str], event_loop: _Loop, done: _Done
    ) -> Task: ...
    def memory_size(self) -> int: ...
    def resident_size(self) -> int: ...
    def runtime(self) -> str: ...

class Sandbox:
    def start(self, limits: _Limits, event_loop: _Loop, done: _Done) -> Task: ...
    def load(
        self, source: str, name: str | None, limits: _Limits, event_loop: _Loop, done: _Done
    ) -> Task: ...
    def run(
        self,
        function: str,
        arguments: _Arguments,
        limits: _Limits,
        event_loop: _Loop,
        done: _Done,
    ) -> Task | str: ...
    def run_stream(
        self, function: str, arguments: _Arguments, limits: _Limits, event_loop: _Loop
    ) -> EventStream: ...
    def evaluate(
        self, source: str, limits: _Limits, event_loop: _Loop, done: _Done
    ) -> Task: ...
    def evaluate_stream(
        self, source: str, limits: _Limits, event_loop: _Loop
    ) -> EventStream: ...
    def finish(self, limits: _Limits, event_loop: _Loop, done: _Done) -> Task: ...
    def finish_stream(self, limits: _Limits, event_loop: _Loop) -> EventStream: ...
    def close(self) -> None: ...
    def is_closed(self) -> bool: ...

class EventStream:
    def take(self) -> tuple[str, str, object] | Literal[False] | None: ...
    def wait(self, done: _Done) -> None: ...
    def cancel(self, done: _Done) -> None: ...

class Reply:
    def bind(self, cancel: Callable[[], object]) -> bool: ...
    def resolve(self, text: str) -> None: ...
    def fail(self, message: str) -> None: ...

class HttpReply:
    def bind(self, cancel: Callable[[], object]) -> bool: ...
    def respond(self, status: int, headers: _Headers, body: bytes | None) -> None: ...
    def respond_stream(self, status: int, headers: _Headers) -> BodyWriter: ...
    def fail(self, message: str) -> None: ...

class BodyReader:
    def next(self, event_loop: _Loop, done: _Done) -> Task: ...

class BodyWriter:
    def send(self, chunk: bytes, event_loop: _Loop, done: _Done) -> None: ...
    def end(self, event_loop: _Loop, done: _Done) -> None: ...
    def fail(self, message: str, event_loop: _Loop, done: _Done) -> None: ...
