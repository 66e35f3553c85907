"""Why a well-known package cannot be imported, and what to do.

An import that fails raises the usual `ModuleNotFoundError`, whose message says more for
modules that people expect. Asking whether a module exists, with
`importlib.util.find_spec`, has the usual answer. Imports that succeed do not come here.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import sys

from . import stdlib

# Modules of packages with native code that the runtime `python-data` contains.
_IN_PYTHON_DATA = frozenset({"PIL", "numpy", "pandas", "pydantic", "pydantic_core", "regex"})

# Modules of packages with native code, and the package if it has another name.
_NATIVE = {
    "MySQLdb": "mysqlclient",
    "PIL": "pillow",
    "PyQt5": None,
    "PyQt6": None,
    "PySide6": None,
    "argon2": "argon2-cffi",
    "asyncpg": None,
    "bcrypt": None,
    "cffi": None,
    "cryptography": None,
    "cupy": None,
    "cv2": "opencv-python",
    "duckdb": None,
    "faiss": "faiss-cpu",
    "gevent": None,
    "greenlet": None,
    "grpc": "grpcio",
    "h5py": None,
    "jax": None,
    "jaxlib": None,
    "keras": None,
    "lightgbm": None,
    "llvmlite": None,
    "lxml": None,
    "matplotlib": None,
    "nacl": "PyNaCl",
    "numba": None,
    "onnxruntime": None,
    "orjson": None,
    "playwright": None,
    "polars": None,
    "psutil": None,
    "psycopg2": None,
    "pyarrow": None,
    "pycurl": None,
    "pygame": None,
    "pymssql": None,
    "pyodbc": None,
    "rasterio": None,
    "scipy": None,
    "shapely": None,
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "spacy": None,
    "statsmodels": None,
    "tensorflow": None,
    "tiktoken": None,
    "tokenizers": None,
    "torch": None,
    "torchaudio": None,
    "torchvision": None,
    "ujson": None,
    "uvloop": None,
    "xgboost": None,
    "zmq": "pyzmq",
}

# Modules of packages that work in a sandbox, but are not part of it.
_PURE = {
    "aiohttp": None,
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "django": None,
    "dotenv": "python-dotenv",
    "fastapi": None,
    "flask": None,
    "httpx": None,
    "jinja2": None,
    "networkx": None,
    "openpyxl": None,
    "pytest": None,
    "pytz": None,
    "requests": None,
    "rich": None,
    "sympy": None,
    "tabulate": None,
    "tqdm": None,
    "urllib3": None,
}

# Parts of the standard library that need what a sandbox does not have.
_LIBRARY = {
    "curses": "a sandbox has no terminal",
    "ensurepip": "nothing is installed inside a sandbox",
    "pip": "nothing is installed inside a sandbox: packages come from a mount"
    " (`isola run --site-packages DIR`)",
    "tkinter": "a sandbox has no display",
    "turtle": "a sandbox has no display",
}

_NATIVE_SUFFIXES = (".so", ".pyd", ".dylib")


class Finder:
    """The last finder. It finds nothing, and explains that to an import of a known name."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        why = reason(name, path)
        if why is None or not _is_import():
            return None
        finders = iter(sys.meta_path)
        for finder in finders:
            if finder is Finder:
                break
        # Scripts append finders of their own.
        for finder in finders:
            if (spec := finder.find_spec(name, path, target)) is not None:
                return spec
        # Without a name, `from package import name` does not replace it by its own error.
        of = None if _native_file(name, path) else name
        raise ModuleNotFoundError(f"No module named {name!r}: {why}", name=of)


# Tracebacks omit frames of the import system.
Finder.find_spec.__code__ = Finder.find_spec.__code__.replace(
    co_filename="<frozen importlib._bootstrap_external>"
)


def install():
    """Installs the finder, after all others."""
    sys.meta_path.append(Finder)


def reason(name, path=None):
    """Returns why a module does not exist, or None if there is nothing to say about it."""
    if (file := _native_file(name, path)) is not None:
        return f"{file!r} is native code, which a WebAssembly sandbox cannot load. {_linux(None)}"
    if path is not None:
        return None
    if name in _IN_PYTHON_DATA:
        return (
            f"this runtime has no packages with native code. The runtime `python-data` has"
            f" {name}; a Linux sandbox (isorun) has every package"
        )
    if name in _NATIVE:
        return (
            "it has native code, which a WebAssembly sandbox cannot load. This runtime has"
            f" {_contents()}; pure Python packages can be added. {_linux(_NATIVE[name] or name)}"
        )
    if name in _PURE:
        return (
            f"this runtime has {_contents()}. Other pure Python packages come from a directory:"
            f" `pip install --target DIR {_PURE[name] or name}` outside the sandbox, then"
            " `isola run --site-packages DIR` or a mount that is on PYTHONPATH"
        )
    return _LIBRARY.get(name)


def reason_of_package(package):
    """Returns why a package, by its name on the package index, cannot be provided."""
    folded = package.lower().replace("_", "-")
    for module, known in _NATIVE.items():
        if folded == (known or module).lower():
            return reason(module)
    return reason(folded) if folded in _IN_PYTHON_DATA else None


def _contents():
    *names, last = stdlib.bundled()
    return f"the standard library, {', '.join(names)} and {last}"


def _linux(package):
    if package is None:
        return "Use a package without native code, or a Linux sandbox (isorun)"
    return f"A Linux sandbox (isorun) has it after `pip install {package}`"


def _native_file(name, path):
    """Returns the file of a native module that exists for another platform."""
    tail = f"{name.rpartition('.')[2]}."
    for directory in sys.path if path is None else path:
        # The finder of this directory has just looked for the module.
        finder = sys.path_importer_cache.get(directory)
        for file in getattr(finder, "_path_cache", ()):
            if file.startswith(tail) and file.endswith(_NATIVE_SUFFIXES):
                return f"{directory}/{file}"
    return None


def _is_import():
    """Returns whether an import asks the finder, and not a search for a module."""
    # This function, `find_spec`, the import system's loop over all finders, its caller.
    try:
        caller = sys._getframe(3)
    except ValueError:
        return False
    return caller.f_code.co_name == "_find_and_load_unlocked"
