"""Tests of shell and magic commands, without a sandbox."""

import builtins
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cell_magics  # noqa: E402
import cells  # noqa: E402
from test_cells import CellsTest  # noqa: E402


class MagicsTest(CellsTest):
    def setUp(self):
        super().setUp()
        self.cells.translate = cell_magics.translate
        self.cells.hides = lambda filename: filename == cell_magics.__file__
        self.magics = cell_magics.Magics()
        setattr(builtins, cell_magics.NAME, self.magics)
        self.addCleanup(delattr, builtins, cell_magics.NAME)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.run_cell(f"import os; os.chdir({directory.name!r})")

    def output(self, source):
        """Returns what a cell writes, also by its programs, and its error."""
        with tempfile.TemporaryFile() as file:
            saved = os.dup(1)
            os.dup2(file.fileno(), 1)
            stdout, sys.stdout = sys.stdout, open(1, "w", closefd=False)
            try:
                events = self.run_cell(source)
                self.magics.end_time()
                sys.stdout.flush()
            finally:
                sys.stdout = stdout
                os.dup2(saved, 1)
                os.close(saved)
            file.seek(0)
            errors = [event["name"] for event in events if event["type"] == "error"]
            return file.read().decode(), errors


class ShellCommands(MagicsTest):
    def test_a_command_writes_the_output_of_the_cell(self):
        for source, output in [
            ("!echo one", "one\n"),
            ("print('a')\n!echo b; echo c\nprint('d')", "a\nb\nc\nd\n"),
            ("for n in range(2):\n    !echo {n + 1} $n", "1 0\n2 1\n"),
            ("def f(x):\n    !echo {x}\nf('local')", "local\n"),
            ("!echo '{no such name}' $HOME_IS_NOT_SET $((1 + 1))", "{no such name} 2\n"),
            ('!echo it\\\'s\n!echo "("\nprint(1)', "it's\n(\n1\n"),
            ("!echo a \\\n   b\nprint(2)", "a b\n2\n"),
            ("if True:\n    x = '''\n!echo text\n'''\n!echo {len(x)}", "12\n"),
            ("x = [\n  5\n  % 3]\n!echo {x}", "[2]\n"),
            ("x = 1 + \\\n  2 # (\n!echo {x}", "3\n"),
            ("!printf {'%s' % 'q'}", "q"),
            ("x = 5\n!echo '{{x}} {x} $$x' '{\"a\": {\"b\": {}}}'", '{x} 5 $x {"a": {"b": {}}}\n'),
        ]:
            self.assertEqual(self.output(source), (output, []), source)

    def test_the_exit_code_has_a_name(self):
        self.assertEqual(self.output("!exit 3"), ("", []))
        self.assertEqual(self.text("_exit_code"), "3")

    def test_output_can_be_kept(self):
        self.assertEqual(self.text("lines = !printf 'a\\nb\\n'\nlines"), "['a', 'b']")
        self.assertEqual(self.text("!!echo shown"), "['shown']")
        self.assertEqual(self.text("d = {}\nd['k'] = !echo {1 + 1}\nd"), "{'k': ['2']}")
        self.assertEqual(self.text("raw = !printf '\\xff'\nraw"), "['\\\\xff']")

    def test_an_interrupt_ends_the_command(self):
        # A shell without job control starts programs with the signal ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        start = (
            "import os, signal, threading\ndef end():\n    os.kill(os.getpid(), signal.SIGINT)\n"
        )
        _, errors = self.output(start + "threading.Timer(0.3, end).start()\n!sleep 60")
        self.assertEqual(errors, ["KeyboardInterrupt"])


class MagicCommands(MagicsTest):
    def test_commands_of_a_line(self):
        self.run_cell("!mkdir -p 'a directory'")
        output, errors = self.output("%cd 'a directory'")
        self.assertEqual((output.endswith("/a directory\n"), errors), (True, []))
        self.assertTrue(self.text("%pwd").endswith("/a directory'"))
        self.assertEqual(
            self.output("%env CELL_TEST=5\n!echo $CELL_TEST"), ("env: CELL_TEST=5\n5\n", [])
        )
        self.assertEqual(self.text("x = %env CELL_TEST\nx"), "'5'")
        self.assertEqual(self.output("%matplotlib inline\n%load_ext autoreload\n1"), ("", []))
        self.assertEqual(self.output("%mkdir new\n%ls"), ("new\n", []))
        output, errors = self.output("%pip --version")
        self.assertEqual((output[:4], errors), ("pip ", []))

    def test_time_is_measured(self):
        output, errors = self.output("%time x = 4\nprint(x)")
        self.assertRegex(output, r"^CPU times: user .*\nWall time: [\d.]+ [mµn]?s\n4\n$")
        self.assertEqual(self.text("%time 6 * 7"), "42")
        output, errors = self.output("%timeit -n 2 -r 3 sum([1])")
        self.assertRegex(output, r"^[\d.]+ [mµn]?s per loop \(best of 3 runs, 2 loops each\)\n$")
        output, errors = self.output("%%time\nprint('in it')\n1 / 0")
        self.assertRegex(output, r"^in it\nCPU times: .*\nWall time: ")
        self.assertEqual(errors, ["ZeroDivisionError"])
        self.assertRegex(self.output("%%time\n!echo both")[0], "^both\nCPU times: ")

    def test_commands_of_a_cell(self):
        self.assertEqual(self.output("%%bash\nx=5\necho $((x + 1))"), ("6\n", []))
        self.assertEqual(self.output("%%sh\nexit 2"), ("", ["CalledProcessError"]))
        self.assertEqual(self.output("%%writefile 'f.py'\nx = '''{y}'''\n"), ("Writing f.py\n", []))
        self.assertEqual(self.output("%%writefile -a f.py\nz"), ("Appending to f.py\n", []))
        self.assertEqual(
            self.text("from pathlib import Path\nPath('f.py').read_text()"),
            repr("x = '''{y}'''\nz\n"),
        )

    def test_other_commands_name_those_that_exist(self):
        for source, known in [("%nothing 1", "%cd"), ("%%html\n<b>", "%%bash")]:
            (event,) = self.run_cell(source)
            self.assertEqual(event["name"], "UsageError")
            self.assertIn(known, event["value"])
            self.assertIn("ipykernel", event["value"])

    def test_the_traceback_shows_the_cell_as_it_was_written(self):
        (event,) = self.run_cell("x = 1\n%nothing\n")
        self.assertIn("line 2, in <module>\n    %nothing\n", event["traceback"])
        self.assertRegex(event["traceback"], r"\nUsageError: there is no .*\n$")
        self.assertNotIn("cell_magics", event["traceback"])


class Python(MagicsTest):
    def test_valid_python_is_not_translated(self):
        for source, text in [
            ("x = 7\nx \\\n% 4", "3"),
            ("'''\n!echo no\n%cd /\n'''", repr("\n!echo no\n%cd /\n")),
            ("(7\n% 4)", "3"),
        ]:
            self.assertEqual(self.text(source), text, source)

    def test_errors_of_the_syntax_are_reported_as_they_are(self):
        for source in ["x = = 1", "print('a'", "if True:\n  x\n y", "x = !", "x = 5\n% 3", "!"]:
            (event,) = self.run_cell(source)
            self.assertIn(event["name"], ("SyntaxError", "IndentationError"), source)
        (event,) = self.run_cell("!echo a\nx = = 1")
        self.assertIn("line 2\n    x = = 1", event["traceback"])
