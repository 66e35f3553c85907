"""Imports of modules over HTTP."""

import contextlib as _contextlib
import io as _io
import linecache as _linecache
import sys as _sys
import zipfile as _zipfile
from importlib.machinery import ModuleSpec as _ModuleSpec
from importlib.resources.abc import Traversable as _Traversable
from importlib.resources.abc import TraversableResources as _TraversableResources

from sandbox.http import fetch as _fetch

__all__ = ["http"]


@_contextlib.contextmanager
def http(url):
    """Adds an importer of the modules at `url` to `sys.meta_path`, for a `with` block.

    `url` is a folder of modules, or a zip archive of them. What the guest has
    of its own comes first. Modules that were imported stay; what they import
    later is not looked for at `url` any more.
    """
    importer = _Importer(str(url).rstrip("/"))
    _sys.meta_path.append(importer)
    try:
        yield
    finally:
        _sys.meta_path.remove(importer)


class _Importer:
    """Finds and loads modules below a URL."""

    def __init__(self, url):
        self._url = url
        self._archive = None
        # Path below the URL -> its content, or None if there is none.
        self._seen = {}

    def find_spec(self, name, path=None, target=None):
        # A package says where its submodules are.
        if path is not None and not any(str(place).startswith(self._url) for place in path):
            return None
        stem = name.replace(".", "/")
        for file, is_package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            if self.read(file) is not None:
                spec = _ModuleSpec(name, self, origin=self.locate(file), is_package=is_package)
                spec.loader_state = file
                spec.has_location = True
                if is_package:
                    spec.submodule_search_locations.append(self.locate(stem))
                return spec
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        spec = module.__spec__
        source = self.read(spec.loader_state)
        try:
            text = source.decode()
            code = compile(text, spec.origin, "exec", dont_inherit=True)
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ImportError(f"{spec.origin}: {error}", name=spec.name) from error
        _linecache.cache[spec.origin] = (len(text), None, text.splitlines(True), spec.origin)
        exec(code, module.__dict__)

    def get_resource_reader(self, name):
        return _Resources(_Resource(self, name.replace(".", "/")))

    def locate(self, file):
        return f"{self._url}/{file}"

    def read(self, file):
        """The content of a file below the URL, or None if there is none."""
        if file not in self._seen:
            self._seen[file] = self._look(file)
        return self._seen[file]

    def _look(self, file):
        if self._url.lower().partition("?")[0].endswith(".zip"):
            if self._archive is None:
                self._archive = self._open()
            try:
                return self._archive.read(file)
            except KeyError:
                return None
        return _get(self.locate(file))

    def _open(self):
        content = _get(self._url)
        if content is None:
            raise ImportError(f"{self._url}: there is no such archive")
        try:
            return _zipfile.ZipFile(_io.BytesIO(content))
        except _zipfile.BadZipFile as error:
            raise ImportError(f"{self._url}: {error}") from None


class _Resources(_TraversableResources):
    def __init__(self, root):
        self._root = root

    def files(self):
        return self._root


class _Resource(_Traversable):
    """A data file of a package, or the folder that it would be in."""

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
        stream = _io.BytesIO(content)
        return stream if "b" in mode else _io.TextIOWrapper(stream, *args, **kwargs)


def _get(url):
    try:
        with _fetch("GET", url) as response:
            if response.status == 404:
                return None
            if response.status != 200:
                raise ImportError(f"{url}: the server answered {response.status}")
            return response.read()
    except OSError as error:
        raise ImportError(f"{url}: {error}") from error
