"""Runs one module of numpy's own tests in the Python guest, by pytest.

It writes a line for each event into a file: a kind, the test's name and one line
of detail, separated by tabs. An event is written before each test, so that the host
knows which test was running if the interpreter crashes.
"""

import importlib
import os
import sys

import pytest

# The installed package with its tests. numpy itself is part of the guest.
_FILES = "/packages"

# pytest cannot duplicate descriptors here. The file `conftest.py` is a part of the guest.
_OPTIONS = """
--capture=sys --noconftest -p numpy.conftest -p no:cacheprovider -p no:faulthandler
-p no:terminal --assert=plain --import-mode=append --strict-markers
""".split()

# The options of `numpy.test()`.
_SELECTION = ["-m", "not slow"]
_IGNORED_WARNINGS = [
    "ignore:numpy.dtype size changed",
    "ignore:numpy.ufunc size changed",
    "ignore:the matrix subclass is not",
    "ignore:Importing from numpy.matlib is",
]


def main(module, report):
    sys.pycache_prefix = "/bytecode"
    _find_tests()
    package, _, name = module.rpartition("/")
    file = f"{_FILES}/{package}/tests/{name}.py"
    os.chdir("/tmp")
    with open(f"{report}/not-run", encoding="utf-8") as names:
        not_run = set(names.read().splitlines())
    with open(f"{report}/events", "a", encoding="utf-8", errors="backslashreplace") as events:
        recorder = _Recorder(module, events, not_run)
        options = [*_OPTIONS, f"--rootdir={_FILES}", "--basetemp=/tmp/pytest", *_SELECTION]
        for warning in _IGNORED_WARNINGS:
            options += ["-W", warning]
        code = pytest.main([*options, file], plugins=[recorder])
        if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
            raise RuntimeError(f"pytest ended with {code!r}")
        recorder.write_event("end", module, "")


def _find_tests():
    """Makes the packages of tests modules of the packages of the guest."""
    for directory in [f"{_FILES}/numpy", *_directories(f"{_FILES}/numpy")]:
        if os.path.isdir(f"{directory}/tests"):
            package = directory.removeprefix(f"{_FILES}/").replace("/", ".")
            importlib.import_module(package).__path__.append(directory)


def _directories(parent):
    return sorted(entry.path for entry in os.scandir(parent) if entry.is_dir())


class _Recorder:
    """A plugin of pytest that writes the events."""

    def __init__(self, module, events, not_run):
        self._module = module
        self._events = events
        self._not_run = not_run
        self._result = None

    def write_event(self, kind, name, detail):
        self._events.write(f"{kind}\t{name}\t{_line(detail)}\n")
        self._events.flush()

    def name(self, node):
        """Returns the name of a test, with its module and its parameters."""
        test, bracket, parameters = node.partition("::")[2].partition("[")
        if parameters == "*]":
            # In the table an asterisk stands for any parameters.
            parameters = "\\*]"
        return _line(f"{self._module}.{test.replace('::', '.')}{bracket}{parameters}")

    def pytest_collection_modifyitems(self, items):
        for item in items:
            if self.name(item.nodeid) in self._not_run:
                self.write_event("not run", self.name(item.nodeid), "")
        items[:] = [item for item in items if self.name(item.nodeid) not in self._not_run]

    def pytest_collectreport(self, report):
        if report.failed:
            self.write_event("fail", f"{self._module}.import", _message(report))
        elif report.skipped:
            self.write_event("module", self._module, _reason(report))

    def pytest_runtest_logstart(self, nodeid):
        self._result = "pass", ""
        self.write_event("start", self.name(nodeid), "")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._result = "fail", _message(report)
        elif report.skipped and not hasattr(report, "wasxfail") and self._result[0] == "pass":
            self._result = "skip", _reason(report)

    def pytest_runtest_logfinish(self, nodeid):
        kind, detail = self._result
        self.write_event(kind, self.name(nodeid), detail)


def _message(report):
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr)[-300:]
    return f"{crash.message[:300]} (line {crash.lineno})"


def _reason(report):
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _line(text):
    return " ".join(text.split())
