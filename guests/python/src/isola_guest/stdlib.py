"""The standard library and the bundled packages, inside the component.

The build's files are gone at run time. So every module is compiled while
building and kept as marshalled code in a dictionary, and a finder serves
imports from it.
"""

import gc
import importlib
import importlib.util
import io
import json
import marshal
import os
import sys
from importlib._bootstrap import _call_with_frames_removed
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution
from importlib.resources.abc import Traversable, TraversableResources

# Where tracebacks say that the library is. There is no such folder.
ROOT = "/lib/python3.14"

# And that the bundled packages are.
SITE = f"{ROOT}/site-packages"

# Parts that no script in a sandbox can use: tests, demos, the IDE and its
# toolkit, and the installer of pip.
LEFT_OUT = {"ensurepip", "idlelib", "test", "tkinter", "turtledemo", "turtle", "__pycache__"}
# And what only serves native code that is not here.
LEFT_OUT |= {"_yaml", "cyaml"}

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

# Full name -> (is it a package, where it seems to be, marshalled code).
_modules = {}

# The metadata of each bundled package.
_packages = []

# The package with data, and what only its authors need of that.
_WITH_DATA = "tzdata"
_NOT_DATA = (".py", ".zi", ".tab", "leapseconds")

# Its data: path below the site -> content.
_data = {}


class BundledLoader:
    """Loads a module from the dictionary. It is a finder, too."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        module = _modules.get(name)
        if module is None:
            return None
        is_package, origin, _ = module
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
        code = BundledLoader.get_code(module.__spec__.name)
        _call_with_frames_removed(exec, code, module.__dict__)

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

    @staticmethod
    def get_resource_reader(name):
        package = name.replace(".", "/")
        return _Resources(package) if name.partition(".")[0] == _WITH_DATA else None

    @staticmethod
    def find_distributions(context):
        """The bundled packages, for `importlib.metadata`."""
        if "path" in vars(context) and list(context.path) != sys.path:
            # What is asked for is in certain folders.
            return []
        found = map(_Bundled, _packages)
        return [one for one in found if context.name is None or _same(one.name, context.name)]


# A frame of the import system: tracebacks leave it out, and a warning about an
# import is about the line that imports.
BundledLoader.exec_module.__code__ = BundledLoader.exec_module.__code__.replace(
    co_filename="<frozen importlib._bootstrap_external>"
)


class _Resources(TraversableResources):
    """The data of a package."""

    def __init__(self, path):
        self._path = path

    def files(self):
        return _Resource(self._path)


class _Resource(Traversable):
    """A file of a package's data, or a folder of them."""

    def __init__(self, path):
        self._path = path

    @property
    def name(self):
        return self._path.rpartition("/")[2]

    def joinpath(self, *parts):
        return _Resource("/".join((self._path, *map(str, parts))))

    def is_file(self):
        return self._path in _data

    def is_dir(self):
        return any(path.startswith(f"{self._path}/") for path in _data)

    def iterdir(self):
        start = len(self._path) + 1
        below = (path[start:] for path in _data if path.startswith(f"{self._path}/"))
        return iter([self / name for name in dict.fromkeys(path.partition("/")[0] for path in below)])

    def open(self, mode="r", *args, **kwargs):
        if not self.is_file():
            error = IsADirectoryError if self.is_dir() else FileNotFoundError
            raise error(f"{SITE}/{self._path}")
        stream = io.BytesIO(_data[self._path])
        return stream if "b" in mode else io.TextIOWrapper(stream, *args, **kwargs)


class _Bundled(Distribution):
    def __init__(self, metadata):
        self._metadata = metadata

    def read_text(self, filename):
        return self._metadata if filename == "METADATA" else None

    def locate_file(self, path):
        return f"{SITE}/{path}"


def _same(name, other):
    """Whether two names of packages are one, by the packaging specification."""
    return name.lower().replace("-", "_").replace(".", "_") == (
        other.lower().replace("-", "_").replace(".", "_")
    )


def bundle():
    """Takes the library and the packages in, and installs the finder for them."""
    _take_all(os.path.dirname(os.path.dirname(json.__file__)), ROOT)
    if "asyncio.base_events" not in _modules:
        raise RuntimeError(f"the standard library is not in {os.path.dirname(json.__file__)}")
    packages = importlib.util.find_spec("yaml")
    _take_all(os.path.dirname(os.path.dirname(packages.origin)), SITE)
    # Before the finder of `sys.path`: an import of the library never asks the
    # file system.
    sys.meta_path.insert(2, BundledLoader)
    for name in PRELOADED:
        importlib.import_module(name)
    # Only now, so that the library itself knows what there is.
    stand_ins = os.path.join(os.path.dirname(__file__), "stand_ins")
    for file in sorted(os.listdir(stand_ins)):
        if file.endswith(".py"):
            _take(stand_ins, os.path.join(stand_ins, file), ROOT)


def freeze():
    """Ends the build: forgets its folders, and keeps what is there for good."""
    sys.path.clear()
    sys.path_importer_cache.clear()
    # What is there now is never garbage. Not looking at it keeps its pages
    # shared between sandboxes.
    gc.collect()
    gc.freeze()


def _take_all(root, place):
    for folder, folders, files in os.walk(root):
        if folder.endswith(".dist-info"):
            with open(os.path.join(folder, "METADATA"), encoding="utf-8") as metadata:
                _packages.append(metadata.read())
        folders[:] = sorted(name for name in folders if _is_wanted(name))
        for file in sorted(files):
            if file.endswith(".py") and file[:-3] not in LEFT_OUT:
                _take(root, os.path.join(folder, file), place)
        inside = folder[len(root) + 1 :]
        if place == SITE and inside.partition("/")[0] == _WITH_DATA:
            _take_data(folder, inside, sorted(files))
    _packages.sort()


def _take_data(folder, inside, files):
    for file in files:
        if not file.endswith(_NOT_DATA):
            with open(os.path.join(folder, file), "rb") as data:
                _data[f"{inside}/{file}"] = data.read()


def _is_wanted(folder):
    return (folder.isidentifier() and folder not in LEFT_OUT) or folder.endswith(".dist-info")


def _take(root, path, place):
    file = path[len(root) + 1 :]
    parts = file[: -len(".py")].split("/")
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    with open(path, "rb") as file_of_source:
        source = file_of_source.read()
    if name.startswith("_sysconfigdata_"):
        source = _with_closed_quotes(source)
    try:
        code = compile(source, f"{place}/{file}", "exec", dont_inherit=True)
    except SyntaxError:
        # A few files are templates and samples, not modules.
        return
    _modules[name] = (is_package, f"{place}/{file}", marshal.dumps(code))


def _with_closed_quotes(source):
    """The build's variables, of which one ends within quotes.

    `sysconfig.get_config_var("CONFIG_ARGS")` is for `shlex.split`.
    """
    namespace = {}
    exec(source, namespace)
    variables = namespace["build_time_vars"]
    arguments = variables["CONFIG_ARGS"]
    if arguments.count("'") % 2:
        variables["CONFIG_ARGS"] = f"{arguments.rstrip()}'"
    return f"build_time_vars = {variables!r}"
