"""Runs one module of CPython's own tests in the Python guest.

It writes a line for each event into a file: a kind, the test's name and one line
of detail, separated by tabs. An event is written before each test, so that the host
knows which test was running if the interpreter crashes.
"""

import importlib
import os
import re
import sys
import traceback
import types
import unittest

from test import support
from test.support import socket_helper

# From best to worst: the kind of a test is the worst kind of its parts.
_KINDS = ("pass", "skip", "fail")

# Modules that skip themselves completely because something is missing that only a
# few of their tests need. It is simulated, and those tests fail or skip themselves. A
# name with an underscore is a module of CPython for its tests only.
_REQUIREMENTS = {
    "test_argparse": "processes",
    "test_asyncgen": "sockets",
    "test_bytes": "_testlimitedcapi",
    "test_class": "_testinternalcapi",
    "test_getopt": "processes",
    "test_httplib": "sockets",
    "test_import": "_testmultiphase",
    "test_mailbox": "hostname",
    "test_optparse": "processes",
    "test_pkgutil": "_testmultiphase",
    "test_pyclbr": "_testmultiphase",
    "test_traceback": "_testcapi",
    "test_urllib": "hostname",
    "test_urllib2": "hostname",
    "test_wsgiref": "sockets",
}

_FIXTURE = re.compile(r"(setUp\w+|tearDown\w+) \((.+)\)")
_IMPORT = "unittest.loader._FailedTest."


def main(module, report):
    # Tests that need the network, much memory or much time skip themselves.
    support.use_resources = {}
    support.verbose = 0
    os.chdir("/tmp")
    _provide(_REQUIREMENTS.get(module, ""))
    with open(f"{report}/not-run", encoding="utf-8") as names:
        not_run = set(names.read().splitlines())
    with open(f"{report}/events", "a", encoding="utf-8", errors="backslashreplace") as events:
        result = _Result(module, events)
        try:
            suite = unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")
        except unittest.SkipTest as reason:
            result.write_event("module", module, str(reason))
        except Exception as error:
            result.write_event("fail", f"{module}.import", _line((type(error), error)))
        else:
            _selected(suite, not_run, result)(result)
        result.write_event("end", module, "")


def _provide(required):
    if required == "processes":
        support.has_subprocess_support = True
        importlib.import_module("test.test_tools")
        support.has_subprocess_support = False
    elif required == "sockets":
        support.has_socket_support = True
    elif required == "hostname":
        socket_helper.has_gethostname = True
    elif required:
        sys.modules[required] = _Missing(required)


class _Missing(types.ModuleType):
    """A module whose functions skip the tests that call them."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def skip(*args, **kwargs):
            raise unittest.SkipTest(f"{self.__name__} is not in the guest")

        return skip


def _selected(suite, not_run, result):
    """Returns the suite without the tests that are not to be run."""
    selected = type(suite)()
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            selected.addTest(_selected(item, not_run, result))
        elif result.name(item) in not_run:
            result.write_event("not run", result.name(item), "")
        else:
            selected.addTest(item)
    return selected


class _Result(unittest.TestResult):
    def __init__(self, module, events):
        super().__init__()
        self._module = module
        self._events = events
        self._kind = None
        self._detail = ""

    def write_event(self, kind, name, detail):
        detail = " ".join(detail.split())
        self._events.write(f"{kind}\t{name}\t{detail}\n")
        self._events.flush()

    def name(self, item):
        """Returns the name of a test, without the package `test` and with its module."""
        name = item.id()
        if name.startswith(_IMPORT):
            return f"{name.removeprefix(_IMPORT).removeprefix('test.')}.import"
        if fixture := _FIXTURE.fullmatch(name):
            name = f"{fixture[2]}.{fixture[1]}"
        name = name.removeprefix("test.").replace(" ", "_")
        inside = name == self._module or name.startswith(f"{self._module}.")
        return name if inside else f"{self._module}:{name}"

    def startTest(self, item):
        self._kind, self._detail = "pass", ""
        self.write_event("start", self.name(item), "")

    def stopTest(self, item):
        self.write_event(self._kind, self.name(item), self._detail)
        self._kind = None

    def _note(self, kind, item, detail):
        if self._kind is None or not isinstance(item, unittest.TestCase):
            # The setup of a class or a module has failed, or skips all of its tests.
            self.write_event(kind, self.name(item), detail)
        elif _KINDS.index(kind) > _KINDS.index(self._kind):
            self._kind, self._detail = kind, detail

    def addError(self, item, error):
        self._note("fail", item, _line(error))

    def addFailure(self, item, error):
        self._note("fail", item, _line(error))

    def addSkip(self, item, reason):
        self._note("skip", item, str(reason))

    def addExpectedFailure(self, item, error):
        pass

    def addUnexpectedSuccess(self, item):
        self._note("fail", item, "unexpected success")

    def addSubTest(self, item, part, error):
        if error is not None:
            self._note("fail", item, _line(error))


def _line(error):
    return "".join(traceback.format_exception_only(*error[:2]))[:300]
