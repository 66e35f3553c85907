"""Shell commands and magic commands of notebooks, for an interpreter without IPython.

    !pip install requests    runs a command, whose exit code is then `_exit_code`
    files = !ls {directory}  keeps the output as a list of lines; names are replaced by values
    %cd data                 a magic command of a line
    %%bash                   a magic command of a cell, in its first line

Only a cell that is not valid Python is translated, so no other code changes its meaning.
Names and messages are those of IPython: https://ipython.readthedocs.io/en/stable/interactive/magics.html
"""

import builtins as _builtins

# The built-in names at import time: code of cells may replace `builtins.len`.
__builtins__ = dict(vars(_builtins))

import importlib  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import shlex  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import timeit  # noqa: E402

# The name by which translated code finds the commands.
NAME = "__cell_magics__"

# A magic command or a shell command, and one whose result is assigned.
_STATEMENT = re.compile(r"(\s*)()(!!|!|%(?=\s*[A-Za-z]))\s*(\S.*)")
_ASSIGNMENT = re.compile(r"(\s*)([A-Za-z_][\w.\[\]'\", ]*?)\s*=\s*(!|%(?=\s*[A-Za-z]))\s*(\S.*)")

# What decides whether a line of Python ends: comments, strings, brackets, backslashes.
_TOKEN = re.compile(r"#.*|\\.?|'''|\"\"\"|'|\"|[()\[\]{}]")

# What is replaced in a command.
_EXPANDED = re.compile(
    r"(?P<literal>\{\{[^{}]+\}\})|\{(?P<code>[^{}]+)\}"
    r"|(?P<plain>\$\$[A-Za-z_]\w*)|(?<![\\$])\$(?P<name>[A-Za-z_]\w*)"
)

# The programs that IPython has as magic commands of a line.
_PROGRAMS = ("cat", "cp", "ls", "mkdir", "mv", "rm", "rmdir")

# What configures IPython, and has no effect here. Figures are shown without it.
_IGNORED = ("autoreload", "config", "load_ext", "matplotlib", "reload_ext")

_UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


class UsageError(Exception):
    """A magic command that does not exist here, or that is not used correctly."""

    __module__ = "builtins"


def translate(source):
    """Returns a cell as Python, with its lines in their places. Returns nothing if it has
    no command."""
    lines = source.replace("\r\n", "\n").split("\n")
    first = next((at for at, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return None
    if lines[first].startswith("%%"):
        name, _, argument = lines[first][2:].partition(" ")
        body = "\n".join(lines[first + 1 :])
        if name == "time":
            # The rest is Python.
            lines[first] = f"{NAME}.begin_time()"
            rest = translate(body)
            return "\n".join(lines[: first + 1] + [body if rest is None else rest])
        return "\n" * first + f"{NAME}.cell({name!r}, {argument.strip()!r}, {body!r})"
    return _translate_lines(lines)


def _translate_lines(lines):
    translated = []
    scanner = _Scanner()
    has_commands = False
    rest = iter(lines)
    for line in rest:
        found = None
        if not scanner.is_inside:
            found = _STATEMENT.fullmatch(line) or _ASSIGNMENT.fullmatch(line)
        if found is None:
            scanner.read(line)
            translated.append(line)
            continue
        has_commands = True
        indent, target, kind, command = found.groups()
        empty = []
        while command.endswith("\\"):
            command = command[:-1] + next(rest, "").lstrip()
            empty.append("")
        if kind == "%":
            name, _, argument = command.partition(" ")
            call = f"{NAME}.line({name!r}, {argument.strip()!r})"
        elif target or kind == "!!":
            call = f"{NAME}.output({command.strip()!r})"
        else:
            call = f"{NAME}.shell({command.strip()!r})"
        translated.append(f"{indent}{target} = {call}" if target else indent + call)
        translated += empty
    return "\n".join(translated) if has_commands else None


class _Scanner:
    """Reads lines of Python, as far as it takes to know where statements end."""

    def __init__(self):
        self.depth = 0
        self.quote = None
        self.is_continued = False

    @property
    def is_inside(self):
        """Reports whether the next line continues a statement."""
        return self.depth > 0 or self.quote is not None or self.is_continued

    def read(self, line):
        self.is_continued = False
        for token in _TOKEN.findall(line):
            if token == "\\":
                self.is_continued = True
            elif token[0] == "\\":
                continue
            elif self.quote is not None:
                if token[: len(self.quote)] == self.quote:
                    self.quote = None
            elif token[0] == "#":
                return
            elif token in "([{":
                self.depth += 1
            elif token in ")]}":
                self.depth = max(self.depth - 1, 0)
            else:
                self.quote = token
        if self.quote is not None and len(self.quote) == 1 and not self.is_continued:
            # It ends with the line, and the compiler reports it.
            self.quote = None


class Magics:
    """The commands that translated cells call."""

    def __init__(self):
        self.shell_program = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        self.started = None

    def shell(self, command):
        """Runs a command, whose output is that of the cell."""
        frame = sys._getframe(1)
        self._run_noted(_expand(command, frame), frame)

    def output(self, command):
        """Runs a command, and returns the lines that it writes."""
        frame = sys._getframe(1)
        done = self._run_noted(_expand(command, frame), frame, stdout=subprocess.PIPE)
        return done.stdout.decode("utf-8", "backslashreplace").splitlines()

    def line(self, name, argument):
        """Runs a magic command of a line."""
        frame = sys._getframe(1)
        if name in _IGNORED:
            return None
        if name in ("time", "timeit"):
            return getattr(self, "_" + name)(argument, frame)
        argument = _expand(argument, frame)
        if name in _PROGRAMS:
            self._run_noted(f"{name} {argument}", frame)
            return None
        if name == "pip":
            self._run_noted(f"{shlex.quote(sys.executable)} -m pip {argument}", frame)
            return None
        if name == "cd":
            os.chdir(os.path.expanduser(_unquoted(argument) or "~"))
            print(os.getcwd())
            return None
        if name == "pwd":
            return os.getcwd()
        if name == "env":
            return _env(argument)
        known = sorted([*_PROGRAMS, *_IGNORED, "cd", "env", "pip", "pwd", "time", "timeit"])
        raise _missing("%" + name, "%", known)

    def cell(self, name, argument, body):
        """Runs a magic command of a cell."""
        if name in ("bash", "sh"):
            done = self._run(body, "/bin/sh" if name == "sh" else self.shell_program)
            if done.returncode != 0:
                raise subprocess.CalledProcessError(done.returncode, name)
        elif name == "writefile":
            _write_file(_expand(argument, sys._getframe(1)), body)
        else:
            raise _missing("%%" + name, "%%", ["bash", "sh", "time", "writefile"])

    def begin_time(self):
        """Starts the measurement of a cell."""
        self.started = _times()

    def end_time(self):
        """Shows how long the cell took, if that is measured."""
        if self.started is not None:
            started, self.started = self.started, None
            try:
                _show_times(started)
            except Exception:
                # The code has closed or replaced the output.
                pass

    def _run_noted(self, command, frame, stdout=None):
        """Runs a command of a line, and gives its exit code to the code."""
        done = self._run(command, self.shell_program, stdout)
        frame.f_globals["_exit_code"] = done.returncode
        return done

    def _run(self, command, program, stdout=None):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        done = subprocess.run([program, "-c", command], stdout=stdout)
        # It may have installed packages.
        importlib.invalidate_caches()
        return done

    def _time(self, code, frame):
        started = _times()
        try:
            try:
                compiled = compile(code, "<isorun time>", "eval", dont_inherit=True)
            except SyntaxError:
                compiled = compile(code, "<isorun time>", "exec", dont_inherit=True)
            return eval(compiled, frame.f_globals, frame.f_locals)
        finally:
            _show_times(started)

    def _timeit(self, argument, frame):
        options = re.match(r"((?:-[nr] *\d+ +)*)(.*)", argument, re.S)
        given = dict(re.findall(r"-([nr]) *(\d+)", options[1]))
        timer = timeit.Timer(options[2], globals={**frame.f_globals, **frame.f_locals})
        loops = int(given.get("n", 0)) or timer.autorange()[0]
        runs = int(given.get("r", 0)) or 7
        best = min(timer.repeat(runs, loops)) / loops
        print(f"{_seconds(best)} per loop (best of {runs} runs, {loops:,} loops each)")


def _expand(command, frame):
    """Replaces `{expression}` and `$name` by values of the code; what is neither stays.

    `{{text}}` is `{text}`, and `$$name` is `$name`.
    """

    def value(found):
        if found["literal"] or found["plain"]:
            return found[0][1:-1] if found["literal"] else found[0][1:]
        try:
            return str(eval(found["code"] or found["name"], frame.f_globals, frame.f_locals))
        except Exception:
            return found[0]

    return _EXPANDED.sub(value, command)


def _unquoted(text):
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _env(argument):
    name, separator, value = argument.partition("=" if "=" in argument else " ")
    if not name:
        return dict(os.environ)
    if not separator:
        if name not in os.environ:
            raise UsageError(f"the environment has no variable {name}")
        return os.environ[name]
    os.environ[name.strip()] = value.strip()
    print(f"env: {name.strip()}={value.strip()}")
    return None


def _write_file(argument, body):
    words = shlex.split(argument)
    appends = words[:1] == ["-a"]
    paths = words[1:] if appends else words
    if len(paths) != 1:
        raise UsageError("%%writefile takes the name of a file, and -a before it to append")
    path = os.path.expanduser(paths[0])
    verb = "Appending to" if appends else "Overwriting" if os.path.exists(path) else "Writing"
    print(verb, path)
    with open(path, "a" if appends else "w", encoding="utf-8") as file:
        file.write(body if body.endswith("\n") else body + "\n")


def _times():
    usage = os.times()
    return (
        time.perf_counter(),
        usage.user + usage.children_user,
        usage.system + usage.children_system,
    )


def _show_times(started):
    wall, user, system = (now - then for now, then in zip(_times(), started))
    print(
        f"CPU times: user {_seconds(user)}, sys: {_seconds(system)}, total: {_seconds(user + system)}"
    )
    print(f"Wall time: {_seconds(wall)}")


def _seconds(seconds):
    unit, name = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{seconds / unit:.3g} {name}"


def _missing(name, prefix, known):
    return UsageError(
        f"there is no magic command `{name}` here: this interpreter has "
        + ", ".join(prefix + one for one in known)
        + "; an image with the package `ipykernel` has all those of IPython"
    )
