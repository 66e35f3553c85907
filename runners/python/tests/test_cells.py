"""Tests of the code that runs cells, without a sandbox: `python3 -m unittest`."""

import asyncio
import base64
import os
import sys
import tempfile
import time
import types
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cell_charts  # noqa: E402
import cell_results  # noqa: E402
import cells  # noqa: E402


class CellsTest(unittest.TestCase):
    def setUp(self):
        self.events = []
        self.loop = asyncio.new_event_loop()
        self.cells = cells.Cells(self.events.append, self.loop.run_until_complete, 10000, 20000)
        self.context = cells.Context()
        main, directory = sys.modules["__main__"], os.getcwd()
        path = list(sys.meta_path)

        def restore():
            self.loop.close()
            sys.modules["__main__"] = main
            sys.meta_path[:] = path
            os.chdir(directory)

        self.addCleanup(restore)

    def run_cell(self, source, context=None):
        """Runs a cell and returns its events."""
        self.events.clear()
        self.cells.run(context or self.context, source)
        return list(self.events)

    def text(self, source):
        (event,) = self.run_cell(source)
        self.assertTrue(event.get("is_main_result"), event)
        return event["data"]["text/plain"]

    def error(self, source):
        event = self.run_cell(source)[-1]
        self.assertEqual(event["type"], "error", event)
        return event


class Values(CellsTest):
    def test_last_expression_is_the_main_result(self):
        for source, text in [
            ("1 + 1", "2"),
            ("x = 3\nx", "3"),
            ("import asyncio\nawait asyncio.sleep(0, 'slept')", "'slept'"),
            (
                "import asyncio\nasync def f():\n    return 4\n"
                "task = asyncio.create_task(f())\nawait task",
                "4",
            ),
            ("async def items():\n    yield 1\n[item async for item in items()]", "[1]"),
            ("\ufeff'after a mark'", "'after a mark'"),
            ("'a;b'", "'a;b'"),
            ("int", "<class 'int'>"),
        ]:
            self.assertEqual(self.text(source), text, source)

    def test_nothing_is_shown(self):
        for source in ["", "x = 1", "None", "1;", "1; # comment", "'a'; \n\n", "# comment"]:
            self.assertEqual(self.run_cell(source), [], source)

    def test_last_value_has_a_name_unless_it_is_used(self):
        self.assertEqual(self.text("6 * 7"), "42")
        self.assertEqual(self.text("_ + 1"), "43")
        self.run_cell("_ = 'own'")
        self.assertEqual(self.text("1"), "1")
        self.assertEqual(self.text("_"), "'own'")

    def test_cells_are_counted_and_keep_future_imports(self):
        self.run_cell("from __future__ import annotations")
        self.run_cell("def f(x: undefined): pass")
        self.assertEqual(self.events, [])
        self.assertEqual(self.context.execution_count, 2)

    def test_contexts_are_separate(self):
        with tempfile.TemporaryDirectory() as directory:
            directory = os.path.realpath(directory)
            other = cells.Context("other", directory)
            self.run_cell("x = 1")
            (error,) = self.run_cell("x", other)
            self.assertEqual(error["name"], "NameError")
            self.assertIn("other-cell-1.py", error["traceback"])
            (event,) = self.run_cell("import os; os.getcwd()", other)
            self.assertEqual(event["data"]["text/plain"], repr(directory))
            self.run_cell("import os; os.chdir('/')")
            (event,) = self.run_cell("os.getcwd()", other)
            self.assertEqual(event["data"]["text/plain"], repr(directory))
            self.assertEqual(self.text("os.getcwd()"), "'/'")
        self.assertEqual(self.run_cell("1", other)[0]["data"]["text/plain"], "1")

    def test_classes_can_be_pickled(self):
        self.run_cell("class Point: pass")
        self.run_cell("import pickle")
        self.assertIn("Point", self.text("pickle.loads(pickle.dumps(Point))"))

    def test_containers_are_divided_into_lines(self):
        self.assertEqual(self.text("[1, (2,), {'a': set()}]"), "[1, (2,), {'a': set()}]")
        self.assertEqual(
            self.text("{'a': 'x' * 60, 'b': ['y' * 30, 'z' * 60]}"),
            "{'a': '" + "x" * 60 + "',\n 'b': ['" + "y" * 30 + "',\n       '" + "z" * 60 + "']}",
        )
        self.assertEqual(self.text("x = [1]; x.append(x); x"), "[1, [...]]")
        self.assertTrue(self.text("list(range(10 ** 6))").endswith("999,\n ...]"))

    def test_large_text_is_cut_with_a_marker(self):
        for source in ["'x' * 10 ** 7", "['x' * 10 ** 7] * 3", "[['x' * 99] * 999] * 999"]:
            text = self.text(source)
            self.assertLessEqual(len(text), 10000)
            self.assertIn("cut at the limit of 10000 bytes]", text)

    def test_large_values_are_not_slower_than_their_repr(self):
        value = {str(i): list(range(100)) for i in range(20000)}
        start = time.perf_counter()
        repr(value)
        between = time.perf_counter()
        cell_results.plain_text(value, 10000)
        self.assertLess(time.perf_counter() - between, between - start)


class Results(CellsTest):
    def show(self, methods, base=""):
        source = f"class Shown{base}:\n" + "".join(f"    {line}\n" for line in methods.split("\n"))
        (event,) = self.run_cell(source + "Shown()")
        return event

    def test_protocols(self):
        event = self.show(
            "def __repr__(self): return 'text'\n"
            "def _repr_html_(self): return '<b>'\n"
            "def _repr_markdown_(self): return '**b**', {'width': 1}\n"
            "def _repr_svg_(self): return '<svg/>'\n"
            "def _repr_png_(self): return b'png'\n"
            "def _repr_jpeg_(self): return 'anBl\\nZw=='\n"
            "def _repr_latex_(self): return '$x$'\n"
            "def _repr_json_(self): return {'a': (1, None)}\n"
            "def _repr_pdf_(self): return b'pdf'\n"
            "def _repr_javascript_(self): return None\n"
            "def _repr_mimebundle_(self, **kwargs): return {'text/html': '<i>', 'a/b': 'c'}"
        )
        self.assertEqual(
            event["data"],
            {
                "text/plain": "text",
                "text/html": "<i>",
                "text/markdown": "**b**",
                "image/svg+xml": "<svg/>",
                "image/png": base64.b64encode(b"png").decode(),
                "image/jpeg": "anBlZw==",
                "text/latex": "$x$",
                "application/json": {"a": [1, None]},
                "application/pdf": base64.b64encode(b"pdf").decode(),
                "a/b": "c",
            },
        )
        self.assertEqual(event["metadata"], {"text/markdown": {"width": 1}})

    def test_a_method_that_fails_costs_only_its_type(self):
        for line, message in [
            ("raise ValueError('no')", "ValueError: no"),
            ("import sys; sys.exit(3)", "SystemExit: 3"),
            ("return self._repr_png_()", "RecursionError"),
            ("return 5", "TypeError: bytes or base64 are needed, not int"),
            ("return 'not base64!'", "Error"),
        ]:
            event = self.show(f"def _repr_png_(self): {line}\ndef _repr_html_(self): return '<b>'")
            self.assertIn("Shown object", event["data"].pop("text/plain"))
            self.assertEqual(event["data"], {"text/html": "<b>"}, line)
            self.assertIn(message, event["metadata"]["errors"]["image/png"])

    def test_a_repr_that_fails_leaves_the_identity(self):
        event = self.show("def __repr__(self): raise KeyError('no')")
        self.assertIn("<__main__.Shown object at", event["data"]["text/plain"])
        self.assertEqual(event["metadata"]["errors"], {"text/plain": "KeyError: 'no'"})

    def test_classes_and_mocks_are_not_asked(self):
        self.run_cell("class A:\n    def _repr_html_(self): return '<b>'")
        (event,) = self.run_cell("A")
        self.assertEqual(list(event["data"]), ["text/plain"])
        (event,) = self.run_cell("from unittest.mock import MagicMock\nMagicMock()")
        self.assertEqual(list(event["data"]), ["text/plain"])

    def test_objects_that_lie_about_their_class(self):
        event = self.show(
            "@property\ndef __class__(self): raise SystemExit\ndef _repr_html_(self): return '<b>'"
        )
        self.assertEqual(event["data"]["text/html"], "<b>")
        source = (
            "class Meta(type):\n"
            "    @property\n    def __mro__(cls): raise SystemExit\n"
            "    @property\n    def __dict__(cls): raise SystemExit\n"
            "    @property\n    def __name__(cls): raise SystemExit\n"
            "class A(metaclass=Meta):\n    def __repr__(self): return 'A'\n"
            "A()"
        )
        self.assertEqual(self.text(source), "A")

    def test_bundles_that_are_wrong(self):
        event = self.show("def _repr_mimebundle_(self, **kwargs): return [1]")
        self.assertIn("dictionary", event["metadata"]["errors"]["_repr_mimebundle_"])
        event = self.show(
            "def _repr_mimebundle_(self, **kwargs):\n"
            "    return {5: 'x', 'a b': 'x', 'application/json': {1j: 2},\n"
            "            'x/y+json': float('nan'), 'text/html': '<b>'}, {'m': object()}"
        )
        self.assertEqual(set(event["data"]), {"text/plain", "text/html"})
        self.assertEqual(
            set(event["metadata"]["errors"]),
            {"5", "a b", "application/json", "x/y+json", "metadata"},
        )

    def test_large_entries_are_left_out_and_named(self):
        event = self.show(
            "def _repr_html_(self): return 'x' * 10001\n"
            "def _repr_png_(self): return bytes(9000)\n"
            "def _repr_json_(self): return list(range(10000))\n"
            "def _repr_svg_(self): return '<svg/>'"
        )
        self.assertEqual(set(event["data"]), {"text/plain", "image/svg+xml"})
        self.assertEqual(
            event["metadata"]["omitted"],
            {
                "text/html": "10001 bytes, over the limit of 10000",
                "image/png": "12000 bytes, over the limit of 10000",
                "application/json": "58890 bytes, over the limit of 10000",
            },
        )

    def test_large_results_lose_their_largest_entries(self):
        event = self.show(
            "def _repr_html_(self): return 'x' * 9000\n"
            "def _repr_svg_(self): return 'x' * 9500\n"
            "def _repr_markdown_(self): return 'x' * 9000"
        )
        self.assertEqual(set(event["data"]), {"text/plain", "text/html", "text/markdown"})
        self.assertIn("limit of 20000", event["metadata"]["omitted"]["image/svg+xml"])

    def test_display(self):
        events = self.run_cell(
            "display(1, 'two', metadata={'a': 1})\n"
            "display({'text/html': '<b>'}, raw=True, unknown=3)\n"
            "display({'text/html': '<b>'})"
        )
        self.assertEqual(
            [event["data"] for event in events],
            [
                {"text/plain": "1"},
                {"text/plain": "'two'"},
                {"text/html": "<b>"},
                {"text/plain": "{'text/html': '<b>'}"},
            ],
        )
        self.assertEqual(events[0]["metadata"], {"a": 1})
        self.assertFalse(any(event["is_main_result"] for event in events))

    def test_code_that_removes_what_it_uses(self):
        self.run_cell("import builtins\nsaved = dict(vars(builtins))\ndel builtins.display")
        self.assertEqual(len(self.run_cell("display(1)")), 1)
        broken = "\n".join(
            f"builtins.{name} = None" for name in ("repr", "type", "isinstance", "len", "getattr")
        )
        try:
            self.run_cell(broken)
            self.run_cell("[1, 2]")
        finally:
            sys.modules["builtins"].__dict__.update(self.context.globals["saved"])
        self.assertEqual(self.events[-1]["data"], {"text/plain": "[1, 2]"})

    def test_lone_surrogates_are_escaped(self):
        event = self.show("def __repr__(self): return '\\ud800'")
        self.assertEqual(event["data"]["text/plain"], "\\ud800")


class Errors(CellsTest):
    def test_tracebacks_are_those_of_a_terminal(self):
        self.run_cell("def divide(x):\n    return 1 / x")
        error = self.error("divide(0)")
        self.assertEqual((error["name"], error["value"]), ("ZeroDivisionError", "division by zero"))
        lines = [line for line in error["traceback"].split("\n") if not set(line) <= set(" ^~")]
        self.assertEqual(
            lines,
            [
                "Traceback (most recent call last):",
                '  File "cell-2.py", line 1, in <module>',
                "    divide(0)",
                '  File "cell-1.py", line 2, in divide',
                "    return 1 / x",
                "ZeroDivisionError: division by zero",
            ],
        )

    def test_kinds_of_errors(self):
        for source, name, value, part in [
            ("x = = 1", "SyntaxError", "invalid syntax (cell-1.py, line 1)", '  File "cell-1.py"'),
            ("import sys; sys.exit(3)", "SystemExit", "3", "SystemExit: 3"),
            ("raise SystemExit", "SystemExit", "", "SystemExit"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt", "", "KeyboardInterrupt"),
            ("import asyncio\nawait asyncio.wait_for(asyncio.sleep(9), 0)", "TimeoutError", "", ""),
            ("'\\0'.encode('x')", "LookupError", "unknown encoding: x", ""),
            ("eval('\\0')", "SyntaxError", "source code string cannot contain null bytes", ""),
        ]:
            self.context = cells.Context()
            error = self.error(source)
            self.assertEqual((error["name"], error["value"]), (name, value), source)
            self.assertIn(part, error["traceback"])
            self.assertNotIn("cells.py", error["traceback"])
        self.assertFalse(self.error("x = = 1")["traceback"].startswith("Traceback"))

    def test_awaited_code_has_no_frames_of_the_loop(self):
        error = self.error("async def f(): 1 / 0\nawait f()")
        self.assertNotIn("asyncio", error["traceback"])
        self.assertIn("in f", error["traceback"])

    def test_chains_and_groups(self):
        error = self.error("try: 1 / 0\nexcept Exception as e: raise ValueError('b') from e")
        self.assertIn("direct cause", error["traceback"])
        self.assertNotIn("cells.py", error["traceback"])
        if sys.version_info >= (3, 11):
            error = self.error("raise ExceptionGroup('g', [ValueError(1), KeyError(2)])")
            self.assertIn("+-+---------------- 1 ----", error["traceback"])

    def test_exceptions_that_cannot_be_shown(self):
        for method in ["__str__", "__repr__"]:
            error = self.error(f"class E(Exception):\n  def {method}(self): raise self\nraise E(1)")
            self.assertEqual(error["name"], "E")
            self.assertIn("cell-", error["traceback"])
        error = self.error("class E(Exception):\n  def __str__(self): raise SystemExit\nraise E")
        self.assertEqual(error["value"], "<unavailable: SystemExit>")
        error = self.error("raise ValueError('x' * 10 ** 6)")
        self.assertLess(len(error["value"]), 70000)

    def test_results_before_an_error_are_kept(self):
        events = self.run_cell("display(1)\n1 / 0")
        self.assertEqual([event["type"] for event in events], ["result", "error"])
        self.assertEqual(self.text("'next'"), "'next'")

    def test_an_interrupted_representation_ends_the_cell(self):
        self.run_cell("class A:\n  def _repr_html_(self): raise KeyboardInterrupt\nA()")
        self.assertEqual([event.get("name") for event in self.events], ["KeyboardInterrupt"])

    def test_kept_sources_are_limited(self):
        import linecache

        for _ in range(cells.MAX_KEPT_SOURCES + 5):
            self.run_cell("")
        self.assertNotIn("cell-1.py", linecache.cache)
        self.assertIn("cell-6.py", linecache.cache)


class Libraries(CellsTest):
    """Stand-ins with the names and methods of libraries."""

    def test_pictures(self):
        class Image:
            size = (100000, 10000)

            def save(self, file, format):
                file.write(format.encode())

            def _repr_jpeg_(self):
                return b"jpeg"

        Image.__module__ = "PIL.Image"
        data, metadata = cell_results.bundle(Image(), self.cells.limits)
        self.assertEqual(list(data), ["text/plain"])
        self.assertIn("100000 x 10000 pixels", metadata["errors"]["image/png"])
        Image.size = (10, 10)
        data, metadata = cell_results.bundle(Image(), self.cells.limits)
        self.assertEqual(data["image/png"], base64.b64encode(b"PNG").decode())
        self.assertEqual((len(data), metadata), (2, {}))

    def test_tables(self):
        class Rows:
            def __getitem__(self, part):
                return DataFrame(len(range(*part.indices(5000))))

        class DataFrame:
            iloc = Rows()

            def __init__(self, count):
                self.count = count

            def __len__(self):
                return self.count

            def to_json(self, **options):
                rows = [[i] for i in range(self.count)]
                return f'{{"columns": ["a"], "index": [], "data": {rows}}}'

            def _repr_html_(self):
                return "<table>"

        DataFrame.__module__ = "pandas.core.frame"
        data, metadata = cell_results.bundle(DataFrame(5000), cell_results.Limits(10**6, 10**6))
        self.assertEqual(data["text/html"], "<table>")
        self.assertEqual(len(data["application/json"]["data"]), 1000)
        self.assertEqual(metadata, {"application/json": {"rows": 5000, "shown_rows": 1000}})

    def test_figures_are_shown_once_and_closed(self):
        drawn = []

        class Figure:
            axes, lines, texts, images, dpi = [], ["line"], [], [], 100
            width = 2

            def get_size_inches(self):
                return self.width, 3

            def savefig(self, file, **options):
                drawn.append(self)
                file.write(b"png")

        Figure.__module__ = "matplotlib.figure"
        managers = []

        def new(width=2):
            figure = Figure()
            figure.width = width
            canvas = types.SimpleNamespace(figure=figure)
            managers.append(types.SimpleNamespace(canvas=canvas))
            return figure

        def close(figure):
            managers[:] = [each for each in managers if each.canvas.figure is not figure]

        helpers = types.ModuleType("matplotlib._pylab_helpers")
        helpers.Gcf = types.SimpleNamespace(get_all_fig_managers=lambda: list(managers))
        pyplot = types.ModuleType("matplotlib.pyplot")
        pyplot.figure, pyplot.close = new, close
        matplotlib = types.ModuleType("matplotlib")
        matplotlib.used = []
        matplotlib.use = matplotlib.used.append
        matplotlib.pyplot = pyplot
        modules = {each.__name__: each for each in (matplotlib, helpers, pyplot)}
        sys.modules.update(modules)
        self.addCleanup(lambda: [sys.modules.pop(name, None) for name in modules])
        self.context = cells.Context()
        self.run_cell("import matplotlib.pyplot as plt\nplt.figure(); plt.figure()\n'text'")
        self.assertEqual(
            [list(event["data"]) for event in self.events],
            [["text/plain"], ["text/plain", "image/png"], ["text/plain", "image/png"]],
        )
        self.assertEqual((matplotlib.used, managers), (["agg"], []))
        events = self.run_cell("figure = plt.figure()\nfigure")
        self.assertEqual([event["is_main_result"] for event in events], [True])
        events = self.run_cell("plt.figure()\nplt.show()\n1 / 0")
        self.assertEqual([event["type"] for event in events], ["result", "error"])
        (event,) = self.run_cell("plt.figure(10 ** 6);")
        self.assertIn("at most 64 megapixels", event["metadata"]["errors"]["image/png"])
        self.assertEqual(len(drawn), 4)

    def test_charts_of_bundles(self):
        plotly = {
            "data": [
                {"type": "bar", "x": ["a", "b"], "y": {"bdata": "AQI=", "dtype": "i1"}},
                {"type": "box", "y": [1, 2, 3, 4, 100], "name": "n"},
                {"type": "surface"},
            ],
            "layout": {"title": {"text": "T"}, "xaxis": {"title": {"text": "x"}}},
        }
        chart = cell_charts.from_bundle({"application/vnd.plotly.v1+json": plotly})
        self.assertEqual((chart["type"], chart["title"]), ("multi", "T"))
        bar, box = chart["charts"]
        self.assertEqual(bar["series"], [{"label": "", "points": [["a", 1], ["b", 2]]}])
        self.assertEqual(bar["x_label"], "x")
        self.assertEqual(box["series"][0]["outliers"], [100])
        vega = {
            "mark": {"type": "line"},
            "data": {"name": "d"},
            "datasets": {"d": [{"a": 1, "b": float("inf"), "c": "s"}]},
            "encoding": {"x": {"field": "a"}, "y": {"field": "b"}, "color": {"field": "c"}},
        }
        chart = cell_charts.from_bundle({"application/vnd.vegalite.v5+json": vega})
        self.assertEqual(chart["series"], [{"label": "s", "points": [[1, None]]}])
        for wrong in [{}, {"data": 5}, {"mark": 5, "data": {}}, {"data": [{"type": []}]}]:
            for mime in ("application/vnd.plotly.v1+json", "application/vnd.vegalite.v5+json"):
                shown = "class S:\n  def _repr_mimebundle_(self, **k): return {%r: %r}\nS()"
                (event,) = self.run_cell(shown % (mime, wrong))
                self.assertNotIn(cell_results.CHART, event["data"])


if __name__ == "__main__":
    unittest.main()
