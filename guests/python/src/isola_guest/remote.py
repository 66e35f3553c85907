"""Modules that are fetched over HTTP, from a directory or from a zip archive."""

import hashlib
import io
import linecache
import sys
import zipfile
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.resources.abc import Traversable, TraversableResources
from importlib.util import decode_source
from urllib.parse import parse_qs, urljoin, urlsplit, urlunsplit

from sandbox.http import fetch

_ARCHIVES = (".zip", ".whl")

_REDIRECTS = {301, 302, 303, 307, 308}

# The maximum number of redirects of one request.
_MAX_REDIRECTS = 5


class Importer(InspectLoader):
    """An importer of the modules below a URL.

    The URL is a directory, or an archive whose name ends in `.zip` or `.whl`. Its
    fragment may have options of an archive: `sha256=...`, its digest, and
    `subdirectory=...`, the directory of the modules in it. Every module is requested
    from a directory, or only the one that `only_module` names.
    """

    def __init__(self, url, only_module=None):
        parts = urlsplit(url)
        options = parse_qs(parts.fragment)
        self._only = None
        self._parts = parts._replace(path=parts.path.rstrip("/"), fragment="")
        self.url = urlunsplit(self._parts)
        # The prefix of the URLs that `locate` returns.
        self._base = urlunsplit(self._parts._replace(query=""))
        # The names of modules that were not found.
        self.missed = set()
        if self._parts.path.lower().endswith(_ARCHIVES):
            self._store = _Archive(
                self.url, options.get("sha256", [None])[0], options.get("subdirectory", [""])[0]
            )
        else:
            self._store = _Directory(self._parts)
            self._only = only_module

    def find_spec(self, name, path=None, target=None):
        # The path of a package is where its submodules are.
        if path is not None and not any(f"{entry}/".startswith(f"{self._base}/") for entry in path):
            return None
        if self._only is not None and name.partition(".")[0] != self._only:
            return None
        stem = name.replace(".", "/")
        for file, is_package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            if self._store.read(file) is not None:
                spec = ModuleSpec(name, self, origin=self.locate(file), is_package=is_package)
                spec.loader_state = file
                spec.has_location = True
                if is_package:
                    spec.submodule_search_locations.append(self.locate(stem))
                return spec
        if self._store.is_directory(stem):
            # A namespace package.
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations.append(self.locate(stem))
            return spec
        if self._only == name:
            raise ModuleNotFoundError(f"No module named {name!r} at {self.url}", name=name)
        self.missed.add(name)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        spec = module.__spec__
        try:
            text = self.get_source(spec.name)
            code = compile(text, spec.origin, "exec", dont_inherit=True)
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ImportError(f"{spec.origin}: {error}", name=spec.name) from error
        linecache.cache[spec.origin] = (len(text), None, text.splitlines(True), spec.origin)
        exec(code, module.__dict__)

    def get_source(self, name):
        stem = name.replace(".", "/")
        for file in (f"{stem}/__init__.py", f"{stem}.py"):
            if (source := self._store.read(file)) is not None:
                return decode_source(source)
        raise ImportError(f"no module {name!r} at {self.url}", name=name)

    def is_package(self, name):
        return self._store.read(f"{name.replace('.', '/')}/__init__.py") is not None

    def get_resource_reader(self, name):
        return _Resources(self, name.replace(".", "/"))

    def resource(self, path):
        """Returns a data file, or the directory that would contain it."""
        return self._store.resource(self, path)

    def read(self, path):
        return self._store.read(path)

    def locate(self, path):
        """Returns the URL of a path, without the query."""
        return f"{self._base}/{path}"


class _Directory:
    """A directory on a server. Files can be read, but not listed."""

    def __init__(self, parts):
        self._parts = parts
        # Maps a path to its content, or to None if the file does not exist.
        self._seen = {}

    def read(self, path):
        if path not in self._seen:
            url = urlunsplit(self._parts._replace(path=f"{self._parts.path}/{path}"))
            self._seen[path] = _get(url)
        return self._seen[path]

    def is_directory(self, path):
        return False

    def resource(self, importer, path):
        return _Resource(importer, path)


class _Archive:
    """A zip archive, which is fetched on first use."""

    def __init__(self, url, digest, directory):
        self._url = url
        self._digest = digest
        self._prefix = f"{directory.strip('/')}/" if directory.strip("/") else ""
        self._opened = None

    def read(self, path):
        archive = self._open()
        try:
            return archive.read(self._prefix + path)
        except KeyError:
            return None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise ImportError(f"{self._url}: {path}: {error}") from None

    def is_directory(self, path):
        directory = f"{self._prefix}{path}/"
        return any(name.startswith(directory) for name in self._open().namelist())

    def resource(self, importer, path):
        return zipfile.Path(self._open(), f"{self._prefix}{path}/")

    def _open(self):
        if self._opened is None:
            content = _get(self._url)
            if content is None:
                raise ImportError(f"{self._url}: the archive does not exist")
            found = hashlib.sha256(content).hexdigest()
            if self._digest is not None and found != self._digest.lower():
                raise ImportError(
                    f"{self._url}: its SHA-256 is {found}, but {self._digest} is expected"
                )
            try:
                self._opened = zipfile.ZipFile(io.BytesIO(content))
            except zipfile.BadZipFile as error:
                raise ImportError(f"{self._url}: {error}") from None
        return self._opened


class _Resources(TraversableResources):
    def __init__(self, importer, path):
        self._importer = importer
        self._path = path

    def files(self):
        return self._importer.resource(self._path)


class _Resource(Traversable):
    """A data file of a package, or the directory that would contain it."""

    def __init__(self, importer, path):
        self._importer = importer
        self._path = path

    @property
    def name(self):
        return self._path.rpartition("/")[2]

    def joinpath(self, *parts):
        return _Resource(self._importer, "/".join((self._path, *map(str, parts))))

    def is_file(self):
        return self._importer.read(self._path) is not None

    def is_dir(self):
        return not self.is_file()

    def iterdir(self):
        raise NotADirectoryError(f"{self._importer.locate(self._path)} cannot be listed over HTTP")

    def open(self, mode="r", *args, **kwargs):
        content = self._importer.read(self._path)
        if content is None:
            raise FileNotFoundError(self._importer.locate(self._path))
        stream = io.BytesIO(content)
        return stream if "b" in mode else io.TextIOWrapper(stream, *args, **kwargs)


def remove(importer):
    """Removes an importer from `sys.meta_path`, at any position."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not importer]


def _get(url):
    """Returns the content at a URL, or None if the server has none."""
    current = url
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            with fetch("GET", current) as response:
                if response.status == 404:
                    return None
                if response.status in _REDIRECTS and "location" in response.headers:
                    # The host of the sandbox checks the target, as that of any request.
                    current = urljoin(current, response.headers["location"])
                    continue
                if response.status != 200:
                    raise ImportError(f"{url}: the server answered {response.status}")
                return response.read()
    except OSError as error:
        raise ImportError(f"{url}: {error}") from error
    raise ImportError(f"{url}: the server redirects more than {_MAX_REDIRECTS} times")
