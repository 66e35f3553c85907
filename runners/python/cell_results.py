"""Represents the values of cells as MIME bundles.

A bundle maps MIME types to data: base64 for binary types, JSON values for JSON types, and
text for all others. Its metadata has, besides what the value tells, `errors` (MIME type to
message, for a method of the value that failed) and `omitted` (MIME type to size, for an
entry over a limit).
"""

import builtins as _builtins

# The built-in names at import time: code of cells may replace `builtins.len`.
__builtins__ = dict(vars(_builtins))

import base64  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402

try:
    from . import cell_charts
except ImportError:
    import cell_charts

# The number of pixels of a picture that is rendered: 64 megapixels.
MAX_PIXELS = 64 * 1000 * 1000

# The number of rows of a table that are sent as JSON.
MAX_TABLE_ROWS = 1000

# The number of entries of a bundle that a value makes itself.
MAX_ENTRIES = 64

# The number of bytes of a bundle's metadata.
MAX_METADATA_BYTES = 64 * 1024

# The number of characters of an error message in the metadata.
MAX_MESSAGE_CHARS = 1000

# The number of elements of a container that are shown as text.
MAX_SHOWN_ELEMENTS = 1000

# The depth of nested containers that are shown as text.
MAX_SHOWN_DEPTH = 20

# The number of characters in a line of text, if a container can be divided.
LINE_WIDTH = 79

TEXT = "text/plain"
CHART = "application/vnd.isorun.chart+json"

# The methods by which libraries represent their objects in notebooks.
_METHODS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("application/pdf", "_repr_pdf_"),
    ("text/latex", "_repr_latex_"),
    ("application/json", "_repr_json_"),
    ("application/javascript", "_repr_javascript_"),
)
_BINARY = re.compile(r"(image/(?!svg\+xml)|audio/|video/|application/(pdf|octet-stream)$)")
_JSON = re.compile(r"application/(.*\+)?json$")
_MIME_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}$")


class Limits:
    """The limits of results, in bytes."""

    def __init__(self, max_entry_bytes, max_result_bytes):
        self.max_entry_bytes = max_entry_bytes
        self.max_result_bytes = max_result_bytes


class PictureTooLarge(ValueError):
    """A picture has too many pixels to be rendered."""


def bundle(value, limits, include=None, exclude=None, metadata=None):
    """Returns the data and the metadata of a value."""
    kind = type(value)
    if kind in _SCALARS and not (include or exclude or metadata):
        # Frequent, and much faster than the general case.
        text = _scalar_text(value, limits.max_entry_bytes)
        if text is not None:
            return {TEXT: text}, {}
    making = _Bundle(limits, include, exclude)
    making.call(TEXT, lambda: plain_text(value, limits.max_entry_bytes))
    if TEXT not in making.data and making.wants(TEXT):
        making.put(TEXT, _identity(value))
    if not issubclass(kind, type) and kind not in _PLAIN and not _claims_everything(value):
        adapter = _adapter(kind)
        if adapter is not None:
            adapter(value, making)
        making.ask(value)
        making.call(CHART, lambda: cell_charts.from_bundle(making.data))
    if isinstance(metadata, dict):
        making.metadata.update(metadata)
    return making.finish()


def raw_bundle(data, metadata, limits):
    """Returns the data and the metadata of a dictionary of MIME types."""
    making = _Bundle(limits, None, None)
    making.put_all(data, metadata)
    return making.finish()


def reduce_event(event, limit):
    """Removes or shortens the largest part of an event that is too long to be sent.

    Reports whether it was changed.
    """
    data = event.get("data")
    if data:
        sizes = {mime: len(json.dumps(entry)) for mime, entry in data.items()}
        largest = max(sizes, key=lambda mime: (mime != TEXT, sizes[mime]))
        if largest != TEXT:
            del data[largest]
            omitted = event["metadata"].setdefault("omitted", {})
            omitted[largest] = f"{sizes[largest]} bytes, over the limit of {limit}"
            return True
        if data[TEXT]:
            data[TEXT] = _halved(data[TEXT])
            return True
    for name in ("traceback", "value", "name"):
        if event.get(name):
            event[name] = _halved(event[name])
            return True
    if event.get("metadata"):
        event["metadata"] = {}
        return True
    return False


def _halved(text):
    marker = "\n[... more characters]"
    return text[: len(text) // 2] + (marker if len(text) > 100 else "")


class _Bundle:
    """A bundle in the making."""

    def __init__(self, limits, include, exclude):
        self.limits = limits
        self.include = None if include is None else set(include)
        self.exclude = set(exclude or ())
        self.data = {}
        self.metadata = {}
        self.errors = {}
        self.omitted = {}
        self.sizes = {}

    def wants(self, mime):
        return mime not in self.exclude and (self.include is None or mime in self.include)

    def call(self, mime, make):
        """Adds what a function returns. Its failure costs only this entry."""
        if mime in self.data or not self.wants(mime):
            return
        try:
            made = make()
            if isinstance(made, tuple) and len(made) == 2:
                made, about = made
                if about:
                    self.metadata[mime] = about
            if made is not None:
                self.put(mime, made)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.fail(mime, error)

    def ask(self, value):
        """Asks a value by the methods that notebooks use."""
        try:
            method = getattr(value, "_repr_mimebundle_", None)
            if callable(method):
                made = method(include=self.include, exclude=self.exclude or None)
                about = None
                if isinstance(made, tuple) and len(made) == 2:
                    made, about = made
                if made is not None:
                    self.put_all(made, about)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.fail("_repr_mimebundle_", error)
        for mime, name in _METHODS:
            if mime not in self.data and mime not in self.errors:
                self.call(mime, lambda name=name: _called(value, name))

    def put_all(self, data, metadata):
        if not isinstance(data, dict):
            raise TypeError(f"a MIME bundle is a dictionary, not {type(data).__name__}")
        for mime, entry in list(data.items())[:MAX_ENTRIES]:
            if entry is not None and self.wants(mime):
                try:
                    self.put(mime, entry)
                except Exception as error:
                    self.fail(str(mime)[:MAX_MESSAGE_CHARS], error)
        if isinstance(metadata, dict):
            self.metadata.update(metadata)

    def put(self, mime, entry):
        """Adds an entry in the form that its type has in JSON."""
        if not isinstance(mime, str) or not _MIME_TYPE.match(mime):
            raise ValueError(f"not a valid MIME type: {mime!r:.200}")
        limit = self.limits.max_entry_bytes
        if _JSON.match(mime):
            if isinstance(entry, str) and mime != "application/json":
                entry = json.loads(entry)
            # A copy of plain values, so that nothing of the value is left in it.
            text = json.dumps(entry, allow_nan=False)
            size = len(text)
            entry = json.loads(text) if size <= limit else None
        elif _BINARY.match(mime):
            entry = _base64(entry, limit)
            size = entry if isinstance(entry, int) else len(entry)
        else:
            if isinstance(entry, (bytes, bytearray)):
                entry = bytes(entry).decode()
            if not isinstance(entry, str):
                raise TypeError(f"{mime} is text, not {type(entry).__name__}")
            entry = encodable(str(entry))
            size = len(entry) if entry.isascii() else len(entry.encode())
            if size > limit and mime == TEXT:
                entry = _cut(entry, limit)
                size = limit
        if size > limit:
            self.omit(mime, size, limit)
        else:
            self.data[mime] = entry
            self.sizes[mime] = size

    def omit(self, mime, size, limit):
        self.data.pop(mime, None)
        self.sizes.pop(mime, None)
        self.omitted[mime] = f"{size} bytes, over the limit of {limit}"

    def fail(self, mime, error):
        try:
            text = f"{type(error).__name__}: {error}"
        except Exception:
            text = type(error).__name__
        self.errors[mime] = encodable(text[:MAX_MESSAGE_CHARS])

    def finish(self):
        """Returns the data and the metadata, within the limit of a whole result."""
        limit = self.limits.max_result_bytes
        while len(self.sizes) > 1 and sum(self.sizes.values()) > limit:
            largest = max((mime for mime in self.sizes if mime != TEXT), key=self.sizes.get)
            self.omit(largest, self.sizes[largest], limit)
        metadata = self._checked_metadata()
        if self.errors:
            metadata["errors"] = self.errors
        if self.omitted:
            metadata["omitted"] = self.omitted
        return self.data, metadata

    def _checked_metadata(self):
        if not self.metadata:
            return {}
        try:
            text = json.dumps(self.metadata, allow_nan=False)
            if len(text) > MAX_METADATA_BYTES:
                raise ValueError(f"{len(text)} bytes; {MAX_METADATA_BYTES} are allowed")
            return json.loads(text)
        except Exception as error:
            self.fail("metadata", error)
            return {}


def _identity(value):
    try:
        return object.__repr__(value)
    except Exception:
        return "<object>"


def _called(value, name):
    method = getattr(value, name, None)
    return method() if callable(method) else None


def _claims_everything(value):
    """Reports whether a value has any attribute, as a mock or a remote object does."""
    try:
        return getattr(value, "_repr_no_such_representation_", None) is not None
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False


def _base64(entry, limit):
    """Returns the base64 of bytes, or the size of what is too large."""
    if isinstance(entry, (bytes, bytearray, memoryview)):
        size = (len(entry) + 2) // 3 * 4
        return size if size > limit else base64.b64encode(entry).decode()
    if not isinstance(entry, str):
        raise TypeError(f"bytes or base64 are needed, not {type(entry).__name__}")
    if len(entry) > limit + limit // 32:
        return len(entry)
    entry = "".join(entry.split())
    base64.b64decode(entry, validate=True)
    return entry


def encodable(text):
    """Returns a text without lone surrogates, which UTF-8 cannot encode."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def _cut(text, limit):
    """Returns a text of at most `limit` bytes with a marker of what is omitted."""
    marker = f"\n[... {len(text)} characters, cut at the limit of {limit} bytes]"
    kept = text.encode()[: max(limit - len(marker), 0)].decode("utf-8", "ignore")
    return (kept + marker)[:limit]


# Text


def plain_text(value, limit):
    """Returns the text of a value, with long containers divided into lines."""
    kind = type(value)
    if kind in _CONTAINERS:
        printer = _Printer(limit)
        return printer.layout(printer.parse(value, 0))
    return _short_repr(value, kind, limit)


def _scalar_text(value, limit):
    """Returns the text of a scalar, or nothing if it is long or has no text."""
    try:
        text = repr(value) if type(value) is not str or len(value) < limit else ""
    except ValueError:
        # An integer with too many digits.
        return None
    return text if text.isascii() and 0 < len(text) <= limit else None


_SCALARS = frozenset({str, int, float, bool})


def _short_repr(value, kind, limit):
    if kind in (str, bytes, bytearray) and len(value) > limit:
        return f"{value[:limit]!r}"
    return repr(value)


class _Printer:
    """Represents nested containers, at most a number of elements and characters of them."""

    def __init__(self, limit):
        self.left = limit
        self.limit = limit
        self.parents = []

    def parse(self, value, depth):
        """Returns a text, or a tuple: opening, parts, closing, and width in one line."""
        kind = type(value)
        brackets = _CONTAINERS.get(kind)
        if brackets is None or not value:
            text = _short_repr(value, kind, self.limit)
            self.left -= len(text)
            return text
        opening, closing = brackets
        if depth == MAX_SHOWN_DEPTH or id(value) in self.parents:
            return f"{opening}...{closing}"
        self.parents.append(id(value))
        parts = []
        for number, item in enumerate(value.items() if kind is dict else value):
            if number == MAX_SHOWN_ELEMENTS or self.left <= 0:
                parts.append(("", "..."))
                break
            if kind is dict:
                key, item = item
                key = self.layout(self.parse(key, depth + 1)) + ": "
            else:
                key = ""
            parts.append((key, self.parse(item, depth + 1)))
            self.left -= len(key) + 2
        self.parents.pop()
        if kind is tuple and len(value) == 1:
            closing = ",)"
        width = sum(len(key) + _width(part) + 2 for key, part in parts) - 2
        return opening, parts, closing, width + len(opening) + len(closing)

    def layout(self, tree, indent=0):
        """Returns the text of what `parse` returned, on one line if it is short enough."""
        if isinstance(tree, str):
            return tree
        opening, parts, closing, width = tree
        if indent + width <= LINE_WIDTH:
            texts = [key + self.layout(part, -width) for key, part in parts]
            return opening + ", ".join(texts) + closing
        indent = max(indent, 0) + len(opening)
        texts = [key + self.layout(part, indent + len(key)) for key, part in parts]
        return opening + (",\n" + " " * indent).join(texts) + closing


def _width(part):
    return len(part) if isinstance(part, str) else part[3]


_CONTAINERS = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}

# Types without a representation other than text.
_PLAIN = frozenset(
    {str, int, float, bool, complex, bytes, bytearray, type(None), range, *_CONTAINERS}
)


# Libraries


def _adapter(kind):
    """Returns the function for an object of a library that needs more than its methods."""
    for base in _read_mro(kind)[:20]:
        module = _read_dict(base).get("__module__")
        if type(module) is str:
            adapter = _ADAPTERS.get((module.partition(".")[0], _read_name(base)))
            if adapter is not None:
                return adapter
    return None


# The attributes of a class itself, which a metaclass cannot replace.
_read_mro = type.__dict__["__mro__"].__get__
_read_dict = type.__dict__["__dict__"].__get__
_read_name = type.__dict__["__name__"].__get__


def _add_figure(figure, making):
    making.call("image/png", lambda: _rendered(figure))
    making.call(CHART, lambda: cell_charts.from_matplotlib(figure))


def _rendered(figure):
    """Returns a figure of matplotlib as PNG, or nothing if it is empty."""
    if not figure.axes and not figure.lines and not figure.texts and not figure.images:
        return None
    width, height = figure.get_size_inches()
    _check_pixels(width * figure.dpi, height * figure.dpi)
    box = "tight"
    try:
        tight = figure.get_tightbbox(figure.canvas.get_renderer())
        _check_pixels(tight.width * figure.dpi, tight.height * figure.dpi)
    except PictureTooLarge:
        # Something lies far outside of the figure, which is shown without it.
        box = None
    except Exception:
        box = None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches=box)
    return buffer.getvalue()


def _check_pixels(width, height):
    if not width * height <= MAX_PIXELS:
        raise PictureTooLarge(
            f"the picture has {width:.0f} x {height:.0f} pixels; "
            f"at most {MAX_PIXELS // 1000000} megapixels are rendered"
        )


def _add_picture(picture, making):
    def rendered():
        _check_pixels(*picture.size)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return buffer.getvalue()

    making.call("image/png", rendered)
    # Pictures have a method for each format.
    making.exclude.add("image/jpeg")
    making.exclude.add("image/png")


def _add_table(table, making):
    """Adds the rows of a data frame or a series as JSON: `columns`, `index` and `data`."""
    making.call("application/json", lambda: _rows(table))
    making.call("text/html", lambda: _table(table)._repr_html_())


def _table(table):
    return table if hasattr(table, "_repr_html_") else table.to_frame()


def _rows(table):
    count = len(table)
    shown = table.iloc[:MAX_TABLE_ROWS] if count > MAX_TABLE_ROWS else table
    rows = json.loads(shown.to_json(orient="split", date_format="iso", default_handler=str))
    if count > MAX_TABLE_ROWS:
        return rows, {"rows": count, "shown_rows": MAX_TABLE_ROWS}
    return rows


def _add_plotly(figure, making):
    """Adds the figure itself, which plotly tells only in the notebooks that it knows."""

    def told():
        made = json.loads(figure.to_json())
        return {"data": made.get("data"), "layout": made.get("layout")}

    making.call("application/vnd.plotly.v1+json", told)


def _add_altair(chart, making):
    """Adds the chart itself, which altair tells only in the notebooks that it knows."""
    try:
        made = chart.to_dict()
        version = re.search(r"/v(\d+)", made["$schema"]).group(1)
    except Exception:
        return
    making.call(f"application/vnd.vegalite.v{version}+json", lambda: made)


_ADAPTERS = {
    ("altair", "TopLevelMixin"): _add_altair,
    ("plotly", "BaseFigure"): _add_plotly,
    ("matplotlib", "Figure"): _add_figure,
    ("PIL", "Image"): _add_picture,
    ("pandas", "DataFrame"): _add_table,
    ("pandas", "Series"): _add_table,
}


# Figures of matplotlib


def open_figures():
    """Returns the open figures of matplotlib, in the order of their numbers."""
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is None:
        return []
    try:
        return [manager.canvas.figure for manager in helpers.Gcf.get_all_fig_managers()]
    except Exception:
        # It is something else.
        return []


def close_figure(value):
    """Closes a figure of matplotlib that was shown, so that it is not shown again."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None and _adapter(type(value)) is _add_figure:
        try:
            pyplot.close(value)
        except Exception:
            # It is closed already, or is something else.
            pass


class ImportHook:
    """Adapts matplotlib when it is imported: no window, and figures are results."""

    def __init__(self, show_figures):
        self._show_figures = show_figures
        self._adaptations = {
            "matplotlib": self._adapt_matplotlib,
            "matplotlib.pyplot": self._adapt_pyplot,
        }

    def install(self):
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
            for name, adapt in self._adaptations.items():
                module = sys.modules.get(name)
                if module is not None:
                    _guarded(adapt, module)

    def find_spec(self, name, path=None, target=None):
        adapt = self._adaptations.get(name)
        if adapt is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find and finder is not self else None
            if spec is not None:
                self._wrap(spec.loader, adapt)
                return spec
        return None

    @staticmethod
    def _wrap(loader, adapt):
        real = getattr(loader, "exec_module", None)
        if real is None:
            return

        def exec_module(module):
            real(module)
            _guarded(adapt, module)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            pass

    @staticmethod
    def _adapt_matplotlib(matplotlib):
        if not os.environ.get("MPLBACKEND"):
            matplotlib.use("agg")

    def _adapt_pyplot(self, pyplot):
        show_figures = self._show_figures

        def show(*args, **kwargs):
            """Shows the open figures as results, and closes them."""
            show_figures()

        show.__module__ = "matplotlib.pyplot"
        pyplot.show = show
        cell_charts.record_boxes(pyplot)


def _guarded(adapt, module):
    try:
        adapt(module)
    except Exception:
        # A module of the same name, or a version with other names.
        pass
