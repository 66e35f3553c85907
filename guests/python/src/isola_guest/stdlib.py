"""The standard library and the bundled packages, inside the component.

The files of the build do not exist at run time. So every module is compiled at build
time and stored as marshalled code in a dictionary, and a finder serves imports from it.
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
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.metadata import Distribution
from importlib.resources.abc import Traversable, TraversableResources
from importlib.util import spec_from_file_location

from isola_guest import edition, native

# The directory of the library in tracebacks. It does not exist.
ROOT = "/lib/python3.14"

# The directory of the bundled packages in tracebacks.
SITE = f"{ROOT}/site-packages"

# Modules that no script in a sandbox can use: tests, demos, the IDE and its toolkit,
# and the installer of pip.
EXCLUDED = {"ensurepip", "idlelib", "test", "tkinter", "turtledemo", "turtle", "__pycache__"}
# Modules that only serve native code, which does not exist here.
EXCLUDED |= {"_yaml", "cyaml"}

# Imported into the snapshot, so that frequently used modules cost nothing at run time.
PRELOADED = """
_pyio
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

# Modules on top of native ones, whose files exist only during the build. The library
# ignores it if they cannot be imported, so they are imported here.
NATIVE = ["_bz2", "_lzma", "_zstd", "hashlib", "bz2", "lzma", "compression.zstd"]

# Added to `hashlib`, which imports these functions from OpenSSL.
_KEY_DERIVATION = b"""
from isola_guest.key_derivation import pbkdf2_hmac, scrypt
__all__ += ("pbkdf2_hmac",)
"""

# Added to `ssl`: the sockets of HTTP clients get the host's TLS.
_HOST_TLS = b"""
from isola_guest.clients.sockets import with_host_tls as _with_host_tls
SSLSocket._create = _with_host_tls(SSLSocket.__dict__["_create"])
"""

# The function by which `http.client` connects, and the one in its place.
_CONNECT = b"self._create_connection = socket.create_connection"
_CONNECT_BY_HOST = b"self._create_connection = _create_connection"
_IMPORT_CONNECT = (
    b"\nfrom isola_guest.clients.sockets import create_connection as _create_connection\n"
)

# Maps a full name to (whether it is a package, its apparent path, its marshalled code).
_modules = {}

# Maps the name of a native module to the path by which it is linked.
_native = {}

# The metadata of each bundled package.
_packages = []

# The package with data, and the suffixes of files that are not needed of it.
_WITH_DATA = "tzdata"
_NOT_DATA = (".py", ".zi", ".tab", "leapseconds")

# Its data: maps a path below the site directory to its content.
_data = {}


class BundledLoader:
    """A loader and finder of the modules in the dictionary."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        module = _modules.get(name)
        if module is None:
            return _native_spec(name)
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
        """Returns the bundled packages, for `importlib.metadata`."""
        if "path" in vars(context) and list(context.path) != sys.path:
            # The search is restricted to other directories.
            return []
        found = map(_Bundled, _packages)
        return [one for one in found if context.name is None or _same(one.name, context.name)]


def _native_spec(name):
    """Returns the spec of a native module. Its file does not exist, and is not read."""
    path = _native.get(name)
    return path and spec_from_file_location(name, path, loader=ExtensionFileLoader(name, path))


# Marks it as a frame of the import system: tracebacks omit it, and a warning about an
# import refers to the line that imports.
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
    """A data file of a package, or a directory of data files."""

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
        return iter(
            [self / name for name in dict.fromkeys(path.partition("/")[0] for path in below)]
        )

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
    """Returns whether two package names are equal, by the packaging specification."""
    return name.lower().replace("-", "_").replace(".", "_") == (
        other.lower().replace("-", "_").replace(".", "_")
    )


def bundled():
    """Returns the names of the bundled packages."""
    return sorted((_Bundled(metadata).name for metadata in _packages), key=str.lower)


def bundle():
    """Bundles the library and the packages, and installs the finder for them."""
    library = os.path.dirname(os.path.dirname(json.__file__))
    _add_tree(library, ROOT)
    if "asyncio.base_events" not in _modules:
        raise RuntimeError(f"the standard library is not in {library}")
    with open(os.path.join(library, "VERSION"), encoding="ascii") as version:
        # The compiler's description contains an address, and has no end.
        interpreter = sys.version.partition(" (https:")[0].rstrip("]")
        sys.version = f"{interpreter}], standard library {version.read()}"
    _renew_frozen()
    packages = importlib.util.find_spec("yaml")
    site = os.path.dirname(os.path.dirname(packages.origin))
    _add_tree(site, SITE)
    _add_native(site)
    _add_directory(native.DIRECTORY)
    # Before the finder of `sys.path`, so that imports of the library never access the
    # file system.
    sys.meta_path.insert(2, BundledLoader)
    stand_ins = os.path.join(os.path.dirname(__file__), "stand_ins")
    for name in (*NATIVE, *PRELOADED, *edition.PRELOADED):
        importlib.import_module(name)
    for name, module in sys.modules.items():
        if isinstance(module.__loader__, ExtensionFileLoader):
            _native[name] = module.__file__
    # After the imports, so that the library itself detects that the real modules are missing.
    _add_tree(stand_ins, ROOT)
    for name in edition.PRELOADED_WITH_STAND_INS:
        importlib.import_module(name)


def freeze():
    """Ends the build: clears its directories, and freezes the existing objects."""
    sys.path.clear()
    # The native modules of the build are found by their names. No other can be loaded, not
    # even one for this platform.
    loaders = (SourceFileLoader, SOURCE_SUFFIXES), (SourcelessFileLoader, BYTECODE_SUFFIXES)
    if "FileFinder" not in repr(sys.path_hooks[-1]):
        raise RuntimeError("the last hook of sys.path is not that of directories")
    sys.path_hooks[-1] = FileFinder.path_hook(*loaders)
    sys.path_importer_cache.clear()
    # The objects that exist now are never garbage. Excluding them from collection keeps
    # their pages shared between sandboxes.
    gc.collect()
    gc.freeze()


def _renew_frozen():
    """Runs the library's code in modules that the interpreter contains in an older version.

    Only in those that consist of functions: objects of the others are already in use.
    """
    for name in ("posixpath", "ntpath", "runpy"):
        module = importlib.import_module(name)
        exec(BundledLoader.get_code(name), vars(module))


def _add_tree(root, location):
    for directory, subdirectories, files in os.walk(root):
        if directory.endswith(".dist-info"):
            with open(os.path.join(directory, "METADATA"), encoding="utf-8") as metadata:
                _packages.append(metadata.read())
        subdirectories[:] = sorted(name for name in subdirectories if _is_included(name))
        for file in sorted(files):
            if file.endswith(".py") and file[:-3] not in EXCLUDED:
                _add_module(root, os.path.join(directory, file), location)
        relative = directory[len(root) + 1 :]
        if location == SITE and relative.partition("/")[0] == _WITH_DATA:
            _add_data(directory, relative, sorted(files))
    _packages.sort()


def _add_directory(directory):
    """Adds the modules of a package as modules of the library."""
    for file in sorted(os.listdir(directory)):
        if file.endswith(".py") and file != "__init__.py":
            _add_module(directory, os.path.join(directory, file), ROOT)


def _add_native(root):
    """Adds the native modules of the packages, which are linked by their paths here."""
    for directory, _, files in os.walk(root):
        for file in files:
            if file.endswith(".so"):
                path = os.path.join(directory, file)
                name = path[len(root) + 1 :].partition(".")[0].replace("/", ".")
                _native[name] = path


def _add_data(directory, relative, files):
    for file in files:
        if not file.endswith(_NOT_DATA):
            with open(os.path.join(directory, file), "rb") as data:
                _data[f"{relative}/{file}"] = data.read()


def _is_included(directory):
    return (directory.isidentifier() and directory not in EXCLUDED) or directory.endswith(
        ".dist-info"
    )


def _add_module(root, path, location):
    file = path[len(root) + 1 :]
    parts = file[: -len(".py")].split("/")
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    with open(path, "rb") as file_of_source:
        source = file_of_source.read()
    if name.startswith("_sysconfigdata_"):
        source = _with_closed_quotes(source)
    elif name == "hashlib":
        source += _KEY_DERIVATION
    elif name == "ssl":
        source += _HOST_TLS
    elif name == "http.client":
        if source.count(_CONNECT) != 1:
            raise RuntimeError("http.client connects in an unknown way")
        source = source.replace(_CONNECT, _CONNECT_BY_HOST) + _IMPORT_CONNECT
    elif name == "ctypes":
        # The functions of the interpreter's C API cannot be called. Packages ask whether
        # they exist, since other interpreters have none.
        source += b"\ndel pythonapi\n"
    try:
        code = compile(source, f"{location}/{file}", "exec", dont_inherit=True)
    except SyntaxError:
        # A few files are templates and samples, not modules.
        return
    _modules[name] = (is_package, f"{location}/{file}", marshal.dumps(code))


def _with_closed_quotes(source):
    """Closes the quotes in the build variable CONFIG_ARGS, which ends within quotes.

    `sysconfig.get_config_var("CONFIG_ARGS")` is meant for `shlex.split`.
    """
    namespace = {}
    exec(source, namespace)
    variables = namespace["build_time_vars"]
    arguments = variables["CONFIG_ARGS"]
    if arguments.count("'") % 2:
        variables["CONFIG_ARGS"] = f"{arguments.rstrip()}'"
    return f"build_time_vars = {variables!r}"
