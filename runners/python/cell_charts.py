"""Describes charts as data: `application/vnd.isorun.chart+json`.

A chart is a dictionary:

    {"type": "line", "title": "…", "x_label": "…", "y_label": "…",
     "series": [{"label": "…", "points": [[x, y], …]}]}

The types are `line`, `scatter`, `bar` (points are a label or position, and a height),
`pie` (a label and a share or value), `box` (`series` have `min`, `first_quartile`, `median`,
`third_quartile`, `max` and `outliers`), and `multi`, which has `charts` in place of series.
A library tells what it tells: a missing text is an empty string.
"""

import builtins as _builtins

# The built-in names at import time: code of cells may replace `builtins.len`.
__builtins__ = dict(vars(_builtins))

import functools  # noqa: E402
import math  # noqa: E402

# The number of points of a chart. Further ones are left out, and the series says so.
MAX_POINTS = 10000

# The number of charts of a figure, and of series of a chart.
MAX_CHARTS = 64

# The number of characters of a label.
MAX_LABEL_CHARS = 1000

# The attribute in which an `Axes` of matplotlib keeps the numbers of its box plots.
_BOXES = "_cells_box_plots"


class _Points:
    """Converts points to JSON values, up to a number of them in a chart."""

    def __init__(self):
        self.left = MAX_POINTS

    def series(self, label, xs, ys):
        points = []
        total = 0
        for pair in zip(xs, ys):
            total += 1
            if self.left > 0:
                self.left -= 1
                points.append([_plain(value) for value in pair])
        series = {"label": _text(label), "points": points}
        if total > len(points):
            series["omitted_points"] = total - len(points)
        return series


def _plain(value):
    """Returns a JSON value: a number, a text, or nothing for what is not finite."""
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        # A scalar of numpy. Its times become integers if they have nanoseconds.
        value = str(value) if type(value).__name__ == "datetime64" else value.item()
    if value is None or isinstance(value, (bool, str)):
        return value[:MAX_LABEL_CHARS] if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)[:MAX_LABEL_CHARS]


def _text(value):
    if isinstance(value, dict):
        value = value.get("text")
    return value[:MAX_LABEL_CHARS] if isinstance(value, str) else ""


def _chart(kind, title, x_label, y_label, series):
    return {
        "type": kind,
        "title": _text(title),
        "x_label": _text(x_label),
        "y_label": _text(y_label),
        "series": series[:MAX_CHARTS],
    }


def _combined(title, charts):
    if len(charts) < 2:
        return charts[0] if charts else None
    return {"type": "multi", "title": _text(title), "charts": charts[:MAX_CHARTS]}


# matplotlib


def record_boxes(pyplot):
    """Makes box plots keep their numbers: what is drawn of them are only lines."""
    axes = pyplot.Axes
    real = axes.bxp
    if getattr(real, _BOXES, None):
        return

    @functools.wraps(real)
    def bxp(self, bxpstats, *args, **kwargs):
        drawn = real(self, bxpstats, *args, **kwargs)
        lines = {id(line) for group in drawn.values() for line in group}
        self.__dict__.setdefault(_BOXES, []).append((list(bxpstats), lines))
        return drawn

    setattr(bxp, _BOXES, True)
    axes.bxp = bxp


def from_matplotlib(figure):
    """Returns the chart of a figure, or nothing if its axes have none of the types."""
    charts = []
    for axes in figure.axes[:MAX_CHARTS]:
        charts += _of_axes(axes)
    title = getattr(getattr(figure, "_suptitle", None), "get_text", str)()
    return _combined(title, charts)


def _of_axes(axes):
    points = _Points()
    found = {}
    own = set()
    for stats, drawn in axes.__dict__.get(_BOXES, ()):
        own |= drawn
        found.setdefault("box", []).extend(_box(each) for each in stats)
    for container in axes.containers:
        if type(container).__name__ == "BarContainer":
            own |= {id(patch) for patch in container.patches}
            found.setdefault("bar", []).append(_bars(axes, container, points))
    wedges = [patch for patch in axes.patches if type(patch).__name__ == "Wedge"]
    if wedges:
        labels = [_label(wedge) for wedge in wedges]
        shares = [round(abs(wedge.theta2 - wedge.theta1) / 360, 6) for wedge in wedges]
        found["pie"] = [points.series("", labels, shares)]
    for line in axes.lines:
        # A line in coordinates of the axes is a guide, such as `axhline`.
        if id(line) not in own and line.get_transform() == axes.transData:
            kind = "scatter" if line.get_linestyle() in ("None", "", " ") else "line"
            xs, ys = line.get_xdata(orig=True), line.get_ydata(orig=True)
            found.setdefault(kind, []).append(points.series(_label(line), xs, ys))
    for collection in axes.collections:
        if type(collection).__name__ == "PathCollection":
            offsets = collection.get_offsets()
            if hasattr(offsets, "filled"):
                # A missing point is masked.
                offsets = offsets.filled(math.nan)
            xs = (offset[0] for offset in offsets)
            ys = (offset[1] for offset in offsets)
            found.setdefault("scatter", []).append(points.series(_label(collection), xs, ys))
    return [
        _chart(kind, axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), series)
        for kind, series in found.items()
    ]


def _label(artist):
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _bars(axes, container, points):
    flat = getattr(container, "orientation", None) == "horizontal"
    names = _tick_names(axes.yaxis if flat else axes.xaxis)
    positions = []
    sizes = []
    for bar in container.patches:
        start, extent = (bar.get_y(), bar.get_height()) if flat else (bar.get_x(), bar.get_width())
        position = round(float(start + extent / 2), 9)
        positions.append(names.get(position, position))
        sizes.append(bar.get_width() if flat else bar.get_height())
    return points.series(_label(container), positions, sizes)


def _tick_names(axis):
    """Returns the texts at the positions of an axis, if it shows categories."""
    categories = getattr(axis.units, "_mapping", None)
    if categories:
        return {float(position): str(name) for name, position in categories.items()}
    if type(axis.get_major_formatter()).__name__ not in ("FixedFormatter", "FuncFormatter"):
        return {}
    texts = [text.get_text() for text in axis.get_ticklabels()]
    return {round(float(at), 9): text for at, text in zip(axis.get_ticklocs(), texts) if text}


def _box(stats):
    return {
        "label": _text(str(stats.get("label", ""))),
        "min": _plain(stats.get("whislo")),
        "first_quartile": _plain(stats.get("q1")),
        "median": _plain(stats.get("med")),
        "third_quartile": _plain(stats.get("q3")),
        "max": _plain(stats.get("whishi")),
        "outliers": [_plain(value) for value in list(stats.get("fliers", ()))[:MAX_POINTS]],
    }


# plotly and altair tell their charts in a MIME bundle.


def from_bundle(data):
    """Returns the chart of a MIME bundle of plotly or Vega-Lite, or nothing."""
    for mime, entry in data.items():
        if isinstance(entry, dict):
            if mime.startswith("application/vnd.plotly."):
                return _from_plotly(entry)
            if mime.startswith("application/vnd.vegalite."):
                return _from_vega_lite(entry)
    return None


def _from_plotly(entry):
    layout = entry.get("layout") or {}
    points = _Points()
    found = {}
    for trace in entry.get("data", ())[:MAX_CHARTS]:
        kind = trace.get("type", "scatter")
        label = trace.get("name", "")
        if kind in ("scatter", "scattergl"):
            kind = "line" if "lines" in trace.get("mode", "lines") else "scatter"
        elif kind not in ("bar", "pie", "box"):
            continue
        if kind == "pie":
            series = points.series(label, _list(trace, "labels"), _list(trace, "values"))
        elif kind == "box":
            series = _quartiles(label, _list(trace, "y") or _list(trace, "x"))
        else:
            xs, ys = _list(trace, "x"), _list(trace, "y")
            if trace.get("orientation") == "h":
                xs, ys = ys, xs
            series = points.series(label, xs or range(len(ys)), ys)
        found.setdefault(kind, []).append(series)
    labels = [(layout.get(axis) or {}).get("title") for axis in ("xaxis", "yaxis")]
    return _combined(
        layout.get("title"),
        [_chart(kind, layout.get("title"), *labels, series) for kind, series in found.items()],
    )


def _list(trace, name):
    """Returns an array of plotly, which may be base64 of numbers."""
    value = trace.get(name)
    if isinstance(value, dict) and isinstance(value.get("bdata"), str):
        return _decoded(value)
    return value if isinstance(value, list) else []


def _decoded(value):
    import base64
    import struct

    codes = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}
    codes.update({"i8": "q", "u8": "Q", "f4": "f", "f8": "d"})
    code = codes.get(value.get("dtype"))
    if code is None:
        return []
    data = base64.b64decode(value["bdata"])
    return list(struct.unpack(f"<{len(data) // struct.calcsize('<' + code)}{code}", data))


def _quartiles(label, values):
    numbers = sorted(value for value in values if isinstance(value, (int, float)))
    if not numbers:
        return {"label": _text(label), "outliers": []}

    def at(share):
        place = share * (len(numbers) - 1)
        low, part = int(place), place - int(place)
        high = min(low + 1, len(numbers) - 1)
        return numbers[low] * (1 - part) + numbers[high] * part

    first, median, third = at(0.25), at(0.5), at(0.75)
    reach = 1.5 * (third - first)
    inside = [value for value in numbers if first - reach <= value <= third + reach]
    outside = [value for value in numbers if not first - reach <= value <= third + reach]
    stats = {"whislo": inside[0], "q1": first, "med": median, "q3": third, "whishi": inside[-1]}
    return _box({**stats, "label": label, "fliers": outside})


_VEGA_TYPES = {
    "line": "line",
    "area": "line",
    "trail": "line",
    "point": "scatter",
    "circle": "scatter",
    "square": "scatter",
    "bar": "bar",
    "arc": "pie",
    "boxplot": "box",
}


def _from_vega_lite(entry):
    mark = entry.get("mark")
    kind = _VEGA_TYPES.get(mark.get("type") if isinstance(mark, dict) else mark)
    rows = _vega_rows(entry)
    encoding = entry.get("encoding")
    if kind is None or rows is None or not isinstance(encoding, dict):
        return None
    channels = ("theta", "color") if kind == "pie" else ("x", "y", "color")
    fields = {name: _field(encoding.get(name)) for name in channels}
    groups = {}
    for row in rows:
        group = "" if kind == "pie" else row.get(fields["color"], "")
        groups.setdefault(str(group), []).append(row)
    points = _Points()
    across, up = ("color", "theta") if kind == "pie" else ("x", "y")
    series = []
    for label, members in groups.items():
        ys = [row.get(fields[up]) for row in members]
        if kind == "box":
            series.append(_quartiles(label, ys))
        else:
            series.append(points.series(label, [row.get(fields[across]) for row in members], ys))
    labels = [_title(encoding.get(name), fields.get(name)) for name in ("x", "y")]
    return _chart(kind, entry.get("title"), *labels, series)


def _vega_rows(entry):
    data = entry.get("data")
    if not isinstance(data, dict):
        return None
    rows = data.get("values")
    if rows is None:
        rows = (entry.get("datasets") or {}).get(data.get("name"))
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None


def _field(channel):
    return channel.get("field") if isinstance(channel, dict) else None


def _title(channel, field):
    title = channel.get("title") if isinstance(channel, dict) else None
    return title if isinstance(title, str) else field
