"""Runs the cells of one context in a Linux sandbox, for the agent.

The agent passes this program and its modules in a file without a path, and talks to it by
frames over two pipes: `crates/isorun-agent/src/runner.rs` describes them. The cells run in
the module `__main__` of this process, or in a Jupyter kernel if the image has one.

It needs only the standard library of Python 3.8 or later.
"""

import builtins
import importlib.util
import json
import os
import signal
import struct
import sys
import threading
import types

CONTROL_FD, EVENTS_FD = 97, 98
HEADER = struct.Struct("<BI")

# The limits of results, in bytes. The agent refuses frames of more than 36 MiB.
MAX_ENTRY_BYTES = 8 * 1024 * 1024
MAX_RESULT_BYTES = 32 * 1024 * 1024
MAX_FRAME_BYTES = 35 * 1024 * 1024

PACKAGE = "isorun_runner"


def load_modules(sources):
    """Creates the modules of the runner from their sources, in an own package."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = []
    sys.modules[PACKAGE] = package
    for name in ("cell_charts", "cell_results", "cells", "jupyter"):
        load_module(package, name, sources[name])
    return package


def load_module(package, name, source):
    module = types.ModuleType(f"{PACKAGE}.{name}")
    module.__package__ = PACKAGE
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(source, f"<isorun {name}>", "exec"), module.__dict__)
    return module


class Channel:
    """The frames to and from the agent."""

    def __init__(self):
        for fd in (CONTROL_FD, EVENTS_FD):
            os.set_inheritable(fd, False)
        self._dumps, self._loads = json.dumps, json.loads
        self._read, self._write, self._getpid = os.read, os.write, os.getpid
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._queued = []
        self._cell = None
        # True while a frame is written or an acknowledgement is awaited, which must not be
        # interrupted, and whether there was an interrupt meanwhile.
        self.guarded = False
        self.interrupted = False

    def is_owner(self):
        """Reports whether this process is the one that the agent has started."""
        return self._getpid() == self._owner

    def next_cell(self):
        """Waits for a cell and returns it."""
        if self._cell is None:
            kind, payload = self._receive()
            if kind == b"C":
                return self._loads(payload)
            return self.next_cell()
        cell, self._cell = self._cell, None
        return cell

    def queue(self, event):
        """Sends a result or an error with the end of the cell."""
        kind = b"X" if event["type"] == "error" else b"p"
        with self._lock:
            self._queued.append(self._frame(kind, event))

    def show(self, event):
        """Sends a result, and returns when all output until here was read."""
        if not self.is_owner():
            return
        with self._lock:
            self._queued.append(self._frame(b"P", event))
            self._flush_guarded(wait=True)

    def end(self):
        """Sends the end of the cell, with what is queued."""
        with self._lock:
            self._queued.append(b"E\0\0\0\0")
            self._flush_guarded()

    def ready(self, kernel):
        self._send(b"R", kernel.encode())

    def failed(self, message):
        self._send(b"F", message.encode("utf-8", "replace"))

    def _send(self, kind, payload):
        with self._lock:
            self._queued.append(HEADER.pack(kind[0], len(payload)) + payload)
            self._flush_guarded()

    def _frame(self, kind, event):
        payload = self._encode(event)
        return HEADER.pack(kind[0], len(payload)) + payload

    def _encode(self, event):
        payload = self._dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace")
        if len(payload) > MAX_FRAME_BYTES:
            # Control characters are longer in JSON.
            omitted = {
                mime: f"{len(self._dumps(entry))} bytes in JSON, over the limit of "
                f"{MAX_FRAME_BYTES} of a result"
                for mime, entry in event.get("data", {}).items()
            }
            event = {**event, "data": {}, "metadata": {"omitted": omitted}}
            payload = self._dumps(event).encode()
        return payload

    def _flush_guarded(self, wait=False):
        data = b"".join(self._queued)
        self._queued.clear()
        self.guarded = True
        try:
            view = memoryview(data)
            while view:
                view = view[self._write(EVENTS_FD, view) :]
            while wait:
                kind, payload = self._receive()
                if kind == b"C":
                    # The result is from between two cells.
                    self._cell = self._loads(payload)
                wait = kind != b"A"
        finally:
            self.guarded = False
            if self.interrupted:
                self.interrupted = False
                raise KeyboardInterrupt

    def _receive(self):
        kind, length = HEADER.unpack(self._read_exactly(HEADER.size))
        return bytes([kind]), self._read_exactly(length)

    def _read_exactly(self, count):
        parts = []
        while count:
            part = self._read(CONTROL_FD, min(count, 1 << 20))
            if not part:
                # The agent has closed it.
                os._exit(0)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class Runner:
    """Runs cells in this process."""

    def __init__(self, channel, package, magics_source):
        self.channel = channel
        self.package = package
        self.magics_source = magics_source
        self.magics = None
        self.context = package.cells.Context(module=sys.modules["__main__"])
        self.cells = package.cells.Cells(
            self.emit,
            self.run_coroutine,
            MAX_ENTRY_BYTES,
            MAX_RESULT_BYTES,
            hides=lambda filename: filename.startswith("<isorun"),
            translate=self.translate,
        )
        self.loop = None
        # True once the cell was told of its interrupt.
        self.is_told = False
        self.streams = (sys.stdout, sys.stderr)
        self.flush_libc = libc_flush()

    def run(self):
        self.install_handlers()
        while True:
            self.wait()
            cell = self.channel.next_cell()
            # An earlier cell may have replaced them.
            self.install_handlers()
            self.is_told = False
            self.context.execution_count = cell["execution_count"] - 1
            self.cells.run(self.context, cell["code"])
            if self.magics is not None:
                self.magics.end_time()
            self.flush()
            if not self.channel.is_owner():
                # A process that the cell has forked, and that has not exited.
                os._exit(0)
            self.channel.end()

    def translate(self, source):
        """Returns the Python of a cell with commands, or nothing if it has none."""
        if self.magics is None:
            # Few contexts need it, and all would start later.
            module = load_module(self.package, "cell_magics", self.magics_source)
            self.magics = module.Magics()
            setattr(builtins, module.NAME, self.magics)
        return self.package.cell_magics.translate(source)

    def emit(self, event):
        self.flush()
        if event["type"] == "error" or event["is_main_result"]:
            self.channel.queue(event)
        else:
            self.channel.show(event)

    def flush(self):
        """Writes what the streams of this process still hold."""
        for stream in (sys.stdout, sys.stderr, *self.streams):
            try:
                stream.flush()
            except Exception:
                # The code has closed or replaced it.
                pass
        if self.flush_libc is not None:
            self.flush_libc(None)

    def install_handlers(self):
        signal.signal(signal.SIGINT, self.on_interrupt)
        signal.signal(signal.SIGURG, self.on_reminder)

    def on_interrupt(self, _number, _frame):
        if not self.channel.is_owner():
            raise KeyboardInterrupt
        if not self.cells.interruptible:
            return
        self.is_told = True
        if self.channel.guarded:
            self.channel.interrupted = True
            return
        task = self.waiting_task()
        if task is None:
            raise KeyboardInterrupt
        self.loop.call_soon_threadsafe(task.cancel)
        self.interrupted_task = task

    def on_reminder(self, number, frame):
        """Handles the signal by which the agent repeats an interrupt until the cell ends.

        The interrupt may have come before the code began. Or it came after the last check
        for signals before a system call: then this signal has ended the call, and its
        handler has run before this one.
        """
        is_ours = signal.getsignal(signal.SIGINT) == self.on_interrupt
        if is_ours and not self.is_told and self.channel.is_owner():
            self.on_interrupt(number, frame)

    def waiting_task(self):
        """Returns the task of the cell, if it waits and runs no code now."""
        if self.loop is None or self.task is None or self.task.done():
            return None
        asyncio = sys.modules["asyncio"]
        return self.task if asyncio.current_task(self.loop) is None else None

    task = None
    interrupted_task = None

    def run_coroutine(self, coroutine):
        import asyncio

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.task = self.loop.create_task(coroutine)
        self.interrupted_task = None
        try:
            return self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            if self.interrupted_task is self.task:
                raise KeyboardInterrupt from None
            raise
        finally:
            self.task = None

    def wait(self):
        """Waits for a frame of the agent. Tasks that a cell has left running continue."""
        while self.loop is not None and not self.loop.is_closed() and self.has_tasks():
            self.loop.add_reader(CONTROL_FD, self.loop.stop)
            try:
                self.loop.run_forever()
                return
            except BaseException as error:
                # Raised by a callback; it has no cell that could report it.
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                self.loop.remove_reader(CONTROL_FD)

    def has_tasks(self):
        return bool(sys.modules["asyncio"].all_tasks(self.loop))


def libc_flush():
    """Returns `fflush`, for the output of C code, if it can be called."""
    try:
        import ctypes

        flush = ctypes.CDLL(None).fflush
        flush.argtypes = [ctypes.c_void_p]
        return flush
    except Exception:
        return None


def main(sources):
    channel = Channel()
    package = load_modules(sources)
    language = sources["language"]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    is_python = language == "python"
    if all(importlib.util.find_spec(name) for name in ("zmq", "jupyter_client")):
        if not is_python or importlib.util.find_spec("ipykernel"):
            try:
                package.jupyter.run(channel, sources)
            except package.jupyter.NoKernel as error:
                if not is_python:
                    channel.failed(str(error))
                    os._exit(1)
    elif not is_python:
        channel.failed(
            f"the image has no interpreter for {language}: it needs a Jupyter kernel of that "
            "language, and Python with the package jupyter_client, as in the image "
            "`jupyter/datascience-notebook`; python and javascript need no kernel"
        )
        os._exit(1)
    sys.argv = [""]
    runner = Runner(channel, package, sources["cell_magics"])
    channel.ready("python")
    runner.run()


main(globals()["sources"])
