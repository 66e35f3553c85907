"""Runs the cells of a context in a Jupyter kernel of the image.

The kernel is a child process in the same process group, so that an interrupt reaches both.
The module `jupyter_client` of the image finds the kernels and signs the messages. In a
Python kernel the output does not go through the kernel's messages but directly to the
agent's pipes, where a slow reader slows the code.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

from . import cell_results

# The time limit in seconds for a kernel to start.
START_TIMEOUT = 50.0
# The time in seconds between two requests for a sign of life while it starts.
START_POLL = 0.5

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
LIMITS = cell_results.Limits(8 * 1024 * 1024, 32 * 1024 * 1024)

# Runs in a Python kernel before the first cell: results as in isorun's own runner, and
# output that is in order with them.
PYTHON_SETUP = """
def _isorun_setup(sources, ack_fd):
    import os, signal, sys, types
    package = types.ModuleType("isorun_runner")
    package.__path__ = []
    sys.modules["isorun_runner"] = package
    for name in ("cell_charts", "cell_results"):
        module = types.ModuleType("isorun_runner." + name)
        module.__package__ = "isorun_runner"
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(compile(sources[name], f"<isorun {name}>", "exec"), module.__dict__)
    results = package.cell_results
    limits = results.Limits(8 * 1024 * 1024, 32 * 1024 * 1024)
    shell = get_ipython()
    owner = os.getpid()
    os.set_inheritable(ack_fd, False)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
        except Exception:
            pass

    # It ends the system call before which an interrupt was missed.
    signal.signal(signal.SIGURG, lambda *_: None)

    publish = shell.display_pub.publish

    def publish_in_order(*args, **kwargs):
        if os.getpid() != owner:
            return
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        publish(*args, **kwargs)
        try:
            os.read(ack_fd, 1)
        except OSError:
            # The code has closed it.
            pass

    shell.display_pub.publish = publish_in_order

    plain_format = shell.display_formatter.format

    def format(value, include=None, exclude=None):
        if results._adapter(type(value)) is None:
            return plain_format(value, include=include, exclude=exclude)
        bundle = results.bundle(value, limits, include, exclude)
        results.close_figure(value)
        return bundle

    shell.display_formatter.format = format

    def show_figures():
        for figure in results.open_figures():
            data, metadata = results.bundle(figure, limits)
            results.close_figure(figure)
            shell.display_pub.publish(data=data, metadata=metadata)

    hook = results.ImportHook(show_figures)
    hook.install()

    def after_cell():
        show_figures()
        hook.install()

    shell.events.register("post_execute", after_cell)
"""


class NoKernel(Exception):
    """The image has no kernel for the language, or it does not start."""


def run(channel, sources):
    """Runs cells in a kernel, to the end of this process.

    :raises NoKernel: there is no kernel, or it does not start.
    """
    language = sources["language"]
    name, argv, env, by_message = find_kernel(language)
    kernel = Kernel(channel, argv, env, by_message, language == "python")
    try:
        kernel.start(sources)
    except BaseException as error:
        kernel.kill()
        raise NoKernel(f"the Jupyter kernel {name!r} does not start: {error}") from error
    channel.ready(name)
    kernel.serve()


def find_kernel(language):
    """Returns the name of a kernel, its command, its environment, and whether it is
    interrupted by a message."""
    if language == "python":
        # As an installed kernel is, without the registration, which may be of another Python.
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        argv += ["--IPKernelApp.outstream_class=None", "--InteractiveShell.xmode=Plain"]
        argv += ["--InteractiveShell.colors=NoColor"]
        return "python3", argv, {"MPLBACKEND": os.environ.get("MPLBACKEND") or "agg"}, False
    from jupyter_client.kernelspec import KernelSpecManager

    specs = KernelSpecManager().get_all_specs()
    found = None
    for name, info in sorted(specs.items()):
        spec = info["spec"]
        if language in (name.lower(), str(spec.get("language", "")).lower()):
            found = found or (name, spec)
    if found is None:
        names = ", ".join(sorted(specs)) or "none"
        raise NoKernel(
            f"the image has no interpreter for {language}: it needs a Jupyter kernel of that "
            f"language, as in the image `jupyter/datascience-notebook` (this one has: {names})"
        )
    name, spec = found
    by_message = spec.get("interrupt_mode") == "message"
    return name, list(spec["argv"]), dict(spec.get("env") or {}), by_message


class Kernel:
    """A kernel, and this process as its client."""

    def __init__(self, channel, argv, env, by_message, is_python):
        import zmq
        from jupyter_client.session import Session

        self.zmq = zmq
        self.channel = channel
        self.by_message = by_message
        self.is_python = is_python
        self.directory = tempfile.mkdtemp(prefix="isorun-kernel-")
        self.connection = self.make_connection()
        path = os.path.join(self.directory, "kernel.json")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            json.dump(self.connection, file)
        self.argv = [arg.replace("{connection_file}", path) for arg in argv]
        self.env = {**os.environ, **env}
        self.session = Session(key=self.connection["key"].encode(), username="isorun")
        self.context = zmq.Context()
        self.ack_reader, self.ack_writer = os.pipe()
        self.process = None
        # Signals wake the poller up.
        self.wakeup, wakeup = os.pipe()
        for fd in (self.wakeup, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self.reset_interrupts()

    def reset_interrupts(self):
        # The numbers of interrupts of the cell, and of those that the kernel was told of.
        self.interrupts = self.forwarded = 0
        # True once the kernel has begun the cell, and if an interrupt came before.
        self.has_begun = self.is_early = False

    def make_connection(self):
        connection = {
            "key": uuid.uuid4().hex,
            "signature_scheme": "hmac-sha256",
            "kernel_name": "",
        }
        if self.is_python:
            # Sockets without files.
            connection.update(transport="ipc", ip=f"@isorun-{uuid.uuid4().hex}")
            ports = range(1, 1 + len(CHANNELS))
        else:
            # Not every kernel knows the other transport.
            import socket

            connection.update(transport="tcp", ip="127.0.0.1")
            sockets = [socket.socket() for _ in CHANNELS]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1] for one in sockets]
            for one in sockets:
                one.close()
        connection.update({f"{name}_port": port for name, port in zip(CHANNELS, ports)})
        return connection

    def connect(self, name, kind):
        socket = self.context.socket(kind)
        socket.linger = 0
        if kind == self.zmq.SUB:
            socket.subscribe(b"")
        else:
            socket.identity = self.session.bsession
        separator = "-" if self.connection["transport"] == "ipc" else ":"
        port = self.connection[f"{name}_port"]
        address = "{transport}://{ip}".format(**self.connection)
        socket.connect(f"{address}{separator}{port}")
        return socket

    def start(self, sources):
        signal.signal(signal.SIGINT, self.on_interrupt)
        signal.signal(signal.SIGURG, self.on_reminder)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Only the Python kernel writes its output itself.
        log = tempfile.TemporaryFile()
        output = None if self.is_python else subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.argv,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log if not self.is_python else None,
            pass_fds=[self.ack_reader] if self.is_python else [],
        )
        self.shell = self.connect("shell", self.zmq.DEALER)
        self.iopub = self.connect("iopub", self.zmq.SUB)
        self.control = self.connect("control", self.zmq.DEALER)
        self.poller = self.zmq.Poller()
        for source in (self.shell, self.iopub, self.wakeup):
            self.poller.register(source, self.zmq.POLLIN)
        self.wait_until_ready()
        if self.is_python:
            names = ("cell_charts", "cell_results")
            modules = {name: sources[name] for name in names}
            code = (
                f"{PYTHON_SETUP}\n_isorun_setup({modules!r}, {self.ack_reader})\ndel _isorun_setup"
            )
            error = self.execute(code, silent=True)
            if error is not None:
                raise RuntimeError(f"{error['ename']}: {error['evalue']}")
        os.close(self.ack_reader)
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_until_ready(self):
        deadline = time.monotonic() + START_TIMEOUT
        asked, next_request, replied, heard = set(), 0.0, False, False
        while not (replied and heard):
            now = time.monotonic()
            if now > deadline:
                raise RuntimeError("no answer in time")
            if self.process.poll() is not None:
                raise RuntimeError(f"it exited with status {self.process.returncode}")
            if now >= next_request:
                message = self.session.send(self.shell, "kernel_info_request", {})
                asked.add(message["header"]["msg_id"])
                next_request = now + START_POLL
            for source, message in self.messages(START_POLL):
                mine = message["parent_header"].get("msg_id") in asked
                replied |= mine and source == "shell"
                heard |= mine and source == "iopub"

    def messages(self, timeout=None):
        """Waits for messages, and returns them with the names of their channels."""
        ready = dict(self.poller.poll(None if timeout is None else timeout * 1000))
        if self.wakeup in ready:
            try:
                os.read(self.wakeup, 4096)
            except BlockingIOError:
                pass
        found = []
        for name, socket in (("iopub", self.iopub), ("shell", self.shell)):
            if socket in ready:
                try:
                    _, message = self.session.recv(socket, self.zmq.NOBLOCK)
                except ValueError:
                    # Not signed by the kernel.
                    continue
                if message is not None:
                    found.append((name, message))
        return found

    def serve(self):
        poller = self.zmq.Poller()
        poller.register(self.wakeup, self.zmq.POLLIN)
        poller.register(97, self.zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self.wakeup in ready:
                os.read(self.wakeup, 4096)
                self.exit_with_kernel()
            if 97 not in ready:
                continue
            cell = self.channel.next_cell()
            self.reset_interrupts()
            error = self.execute(cell["code"])
            if error is not None:
                self.channel.queue(self.error_event(error))
            self.channel.end()

    def error_event(self, error):
        name = str(error.get("ename", ""))
        if name in ("", "CancelledError") and self.interrupts:
            # A Python kernel that awaits something cancels it; others have no name for it.
            name = "KeyboardInterrupt"
        return {
            "type": "error",
            "name": name or "Error",
            "value": str(error.get("evalue", "")),
            "traceback": traceback_text(error.get("traceback", [])),
        }

    def execute(self, code, silent=False):
        """Runs code to its end. Returns the content of its error, if it failed."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self.session.send(self.shell, "execute_request", content)
        mine = message["header"]["msg_id"]
        replied = idle = False
        error = None
        while not (replied and idle):
            for source, message in self.messages():
                is_mine = message["parent_header"].get("msg_id") == mine
                kind, content = message["header"]["msg_type"], message["content"]
                if source == "shell":
                    if is_mine and kind == "execute_reply":
                        replied = True
                        if content.get("status") != "ok":
                            error = error or content
                elif kind == "status":
                    idle |= is_mine and content.get("execution_state") == "idle"
                elif kind == "execute_input" and is_mine:
                    self.has_begun = True
                elif kind == "error" and is_mine:
                    error = content
                else:
                    self.publish(kind, content, silent)
            self.forward_interrupt()
            self.exit_with_kernel()
        return error

    def publish(self, kind, content, silent):
        """Passes output and results of the kernel on."""
        if kind == "stream":
            fd = 2 if content.get("name") == "stderr" else 1
            data = str(content.get("text", "")).encode("utf-8", "backslashreplace")
            while data:
                data = data[os.write(fd, data) :]
        elif kind in ("display_data", "update_display_data", "execute_result") and not silent:
            is_main = kind == "execute_result"
            data, metadata = cell_results.raw_bundle(
                content.get("data") or {}, content.get("metadata") or {}, LIMITS
            )
            event = {
                "type": "result",
                "data": data,
                "metadata": metadata,
                "is_main_result": is_main,
            }
            if is_main:
                self.channel.queue(event)
            else:
                self.channel.show(event)
        if kind in ("display_data", "update_display_data") and self.is_python:
            os.write(self.ack_writer, b"\0")

    def on_interrupt(self, _number, _frame):
        # The kernel is in the same process group and gets the signal, too.
        self.interrupts += 1
        self.is_early |= not self.has_begun

    def on_reminder(self, number, frame):
        """Handles the signal by which the agent repeats an interrupt until the cell ends.

        A kernel ignores an interrupt before it begins the cell, so that is sent again.
        """
        if self.interrupts == 0:
            # It came before this process has read the cell.
            self.on_interrupt(number, frame)
            self.is_early = True
        if self.is_early and self.has_begun:
            self.is_early = False
            if self.by_message:
                self.forwarded -= 1
            else:
                self.process.send_signal(signal.SIGINT)
        elif self.is_python:
            self.process.send_signal(signal.SIGURG)

    def forward_interrupt(self):
        if self.forwarded == self.interrupts:
            return
        self.forwarded = self.interrupts
        if self.by_message:
            self.session.send(self.control, "interrupt_request", {})
        else:
            # A kernel that awaits something notices the signal with the next message.
            self.session.send(self.shell, "kernel_info_request", {})

    def exit_with_kernel(self):
        """Ends this process as the kernel has ended, if it has."""
        code = self.process.poll()
        if code is None:
            return
        if code < 0:
            signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
            os.kill(os.getpid(), -code)
        os._exit(max(code, 0))

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        signal.set_wakeup_fd(-1)
        shutil.rmtree(self.directory, ignore_errors=True)


def traceback_text(lines):
    return ANSI.sub("", "\n".join(str(line) for line in lines))
