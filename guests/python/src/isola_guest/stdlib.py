"""The standard library, inside the component.

The build's files are gone at run time. So every module is compiled while
building and kept as marshalled code in a dictionary, and a finder serves
imports from it.
"""

import gc
import importlib
import json
import marshal
import os
import sys
from importlib.machinery import ModuleSpec

# Where tracebacks say that the library is. There is no such folder.
ROOT = "/lib/python3.14"

# Parts that no script in a sandbox can use: tests, demos, the IDE and its
# toolkit, and the installer of pip.
LEFT_OUT = {"ensurepip", "idlelib", "test", "tkinter", "turtledemo", "turtle", "__pycache__"}

# Imported into the snapshot: what many scripts use is there for free.
PRELOADED = """
abc argparse array ast asyncio base64 binascii bisect calendar cmath codecs
collections collections.abc contextlib contextvars copy csv dataclasses datetime
decimal difflib email.message enum errno fnmatch fractions functools glob hashlib
heapq hmac html importlib.abc importlib.resources importlib.util inspect io itertools
json keyword linecache locale logging math numbers operator os os.path pathlib pickle
pprint queue random re reprlib secrets shlex shutil statistics string struct tempfile
textwrap threading time timeit token tokenize tomllib traceback types typing
unicodedata unittest.mock urllib.error urllib.parse uuid warnings weakref
xml.etree.ElementTree zipfile zlib zoneinfo
""".split()

# Full name -> (is it a package, path below ROOT, marshalled code).
_modules = {}


class BundledLoader:
    """Loads a module from the dictionary. It is a finder, too."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        module = _modules.get(name)
        if module is None:
            return None
        is_package, file, _ = module
        origin = f"{ROOT}/{file}"
        spec = ModuleSpec(name, BundledLoader, origin=origin, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations.append(origin.rpartition("/")[0])
        return spec

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        exec(BundledLoader.get_code(module.__spec__.name), module.__dict__)

    @staticmethod
    def get_code(name):
        try:
            return marshal.loads(_modules[name][2])
        except KeyError:
            raise ImportError(f"no code for {name!r}", name=name) from None

    @staticmethod
    def get_source(name):
        return None

    @staticmethod
    def is_package(name):
        return _modules[name][0]


def bundle():
    """Takes the library in, and installs the finder for it."""
    root = os.path.dirname(os.path.dirname(json.__file__))
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name not in LEFT_OUT)
        for file in sorted(files):
            if file.endswith(".py") and file[:-3] not in LEFT_OUT:
                _take(root, os.path.join(folder, file))
    if "asyncio.base_events" not in _modules:
        raise RuntimeError(f"the standard library is not in {root}")
    # Before the finder of `sys.path`: an import of the library never asks the
    # file system.
    sys.meta_path.insert(2, BundledLoader)
    for name in PRELOADED:
        importlib.import_module(name)


def freeze():
    """Ends the build: forgets its folders, and keeps what is there for good."""
    sys.path.clear()
    sys.path_importer_cache.clear()
    # What is there now is never garbage. Not looking at it keeps its pages
    # shared between sandboxes.
    gc.collect()
    gc.freeze()


def _take(root, path):
    file = path[len(root) + 1 :]
    parts = file[: -len(".py")].split("/")
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    with open(path, "rb") as source:
        try:
            code = compile(source.read(), f"{ROOT}/{file}", "exec", dont_inherit=True)
        except SyntaxError:
            # A few files are templates and samples, not modules.
            return
    _modules[name] = (is_package, file, marshal.dumps(code))
