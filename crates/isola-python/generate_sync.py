"""Generates `isola/sync.py`, the synchronous half of the package, from the asynchronous one.

    python3 crates/isola-python/generate_sync.py [OUTPUT]

prints the module. `cargo xtask generate` formats and writes it, and `cargo xtask check
generated` fails if the committed one differs. OUTPUT is its path, the only one that there is.

Each public function or class that has to be awaited gets a wrapper with the same names,
parameters, defaults and docstrings. The wrapper holds the asynchronous object and runs
its coroutines with `isola._blocking`. Everything else is exported as it is. A definition
that cannot be wrapped is an error, and never silently left out.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parent / "python" / "isola"
OUTPUT = "crates/isola-python/python/isola/sync.py"

SHARED = ("HttpRequest", "StreamArg")
"""Classes with asynchronous methods that are exported as they are: handlers call these
methods, on the event loop."""

OMITTED = ("HostcallHandler", "HttpHandler")
"""Names that are not exported: a handler of `isola.sync` may be a plain function."""

OPTIONS = {"SandboxOptions": "SyncSandboxOptions"}
"""The typed dictionaries that contain handlers, and those in which handlers may be plain
functions."""

LISTENERS = ("on_stdout", "on_stderr", "on_result", "on_error")
"""Parameters that are functions for the events of a call. They run on threads, so that they
may use the synchronous API."""

REWRITES = (
    ("`async with`", "`with`"),
    ("async with ", "with "),
    ("await ", ""),
    ("`contextlib.aclosing`", "`contextlib.closing`"),
    ("Cancelling the task that awaits an operation", "Interrupting an operation with Ctrl-C"),
    ("a cancelled call", "an interrupted call"),
    ("several event loops and threads", "several threads"),
    ("is called on the event loop", "is called on another thread"),
    (" A pool belongs to one event loop.", ""),
    ("They may be coroutine functions.", "They run on another thread."),
)
"""The parts of docstrings that differ in the synchronous half."""

REPR = ("def __repr__(self) -> str:", "    return repr(self._inner)")

ASYNCHRONOUS = re.compile(r"\b(?:async|await|event loop|cancel)\w*", re.IGNORECASE)
"""The words that must not be left in a docstring."""

TITLE = '''\
# Generated from the asynchronous package by `cargo xtask generate`: do not edit.
"""The synchronous API, with the names of `isola`, for scripts and notebooks.

    import isola.sync as isola

    template = isola.build_template("python")
    with template.create() as sandbox:
        sandbox.load_script("def add(a, b): return a + b")
        print(sandbox.run("add", 2, 3))

All operations run on one event loop in a dedicated thread, so this also works where
an event loop is running already, as in a notebook. Handlers may be plain functions;
those run on threads, several at a time. Interrupting a call stops its guest and
closes its sandbox.
"""
'''

Function = ast.FunctionDef | ast.AsyncFunctionDef


class GenerateError(Exception):
    """A definition that cannot be wrapped."""


@dataclass
class Module:
    """A module of the asynchronous package."""

    name: str
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    """The functions and classes, by name."""
    imports: dict[str, str] = field(default_factory=dict)
    """The statements that import a name, those for type checkers included."""

    @classmethod
    def read(cls, name: str, text: str) -> Module:
        """Reads the source of a module."""
        module = cls(name)
        for statement in _statements(text):
            if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                module.definitions[statement.name] = statement
            elif isinstance(statement, ast.Import):
                for alias in statement.names:
                    module.imports[alias.asname or alias.name] = f"import {ast.unparse(alias)}"
            elif isinstance(statement, ast.ImportFrom):
                origin = "." * statement.level + (statement.module or "")
                for alias in statement.names:
                    name = alias.asname or alias.name
                    module.imports[name] = f"from {origin} import {ast.unparse(alias)}"
        return module

    def statement(self, name: str) -> str | None:
        """Returns the statement that imports a name of this module elsewhere."""
        if name in self.definitions:
            return f"from .{self.name} import {name}"
        return self.imports.get(name)


class Generator:
    """Generates the module from the sources of the package, by the name of each module."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources
        self.modules: dict[str, Module] = {}
        # The exported names and their modules, in the order of `__init__.py`.
        self.exported: dict[str, Module] = {}
        self.public: list[str] = []
        # The statements that import the names in annotations, by name.
        self.needed: dict[str, str] = {}
        self.rewritten: set[str] = set()
        self._read_exports()
        self.wrapped = [
            name for name in self.exported if name in self.public and self._is_wrapped(name)
        ]

    def generate(self) -> str:
        """Returns the source of `sync.py`."""
        self._check_shared()
        blocks = []
        for name in self.wrapped:
            definition = self.exported[name].definitions[name]
            if isinstance(definition, ast.ClassDef):
                blocks.append(self._class(definition, self.exported[name]))
            else:
                assert isinstance(definition, ast.AsyncFunctionDef)
                module = self.exported[name]
                blocks.append(self._function(definition, module, name, f"_isola.{name}"))
        for old, _ in REWRITES:
            if old not in self.rewritten:
                raise GenerateError(f"no docstring contains {old!r}: remove it from REWRITES")
        head = [TITLE, *self._imports(), "", *self._all()]
        return "\n\n\n".join("\n".join(block) for block in [head, *blocks]) + "\n"

    def _module(self, name: str) -> Module:
        if name not in self.modules:
            # The native module has stubs only.
            self.modules[name] = Module.read(name, self.sources.get(name, ""))
        return self.modules[name]

    def _read_exports(self) -> None:
        for statement in ast.parse(self.sources["__init__"]).body:
            if isinstance(statement, ast.ImportFrom) and statement.level == 1:
                for alias in statement.names:
                    self.exported[alias.name] = self._module(statement.module or "")
            elif isinstance(statement, ast.Assign) and _source(statement.targets[0]) == "__all__":
                self.public = ast.literal_eval(statement.value)
        missing = set(self.public) - set(self.exported)
        if missing or not self.public:
            raise GenerateError(f"__init__.py exports names that it does not import: {missing}")

    def _is_wrapped(self, name: str) -> bool:
        """Reports whether a name has to be awaited, and is not exported as it is."""
        definition = self.exported[name].definitions.get(name)
        if isinstance(definition, ast.ClassDef):
            is_asynchronous = any(
                isinstance(method, ast.AsyncFunctionDef) and _is_public(method.name)
                for method in definition.body
            )
            if name in SHARED and not is_asynchronous:
                raise GenerateError(f"{name} has no asynchronous methods: remove it from SHARED")
            return is_asynchronous and name not in SHARED
        return isinstance(definition, ast.AsyncFunctionDef)

    def _check_shared(self) -> None:
        """Fails if a name that is exported as it is takes or returns a wrapped object."""
        for name in self.public:
            definition = self.exported[name].definitions.get(name)
            if definition is None or name in self.wrapped:
                continue
            found = set(_names(definition)).intersection(self.wrapped)
            if found:
                raise GenerateError(f"{name} is exported as it is, but uses {found.pop()}")

    def _class(self, definition: ast.ClassDef, module: Module) -> list[str]:
        """Returns the lines of a class that wraps an asynchronous one."""
        name = definition.name
        lines = self._docstring(definition, name)
        methods = [method for method in definition.body if isinstance(method, Function)]
        # The docstring is the only other statement.
        if definition.bases or len(methods) + 1 < len(definition.body):
            raise GenerateError(f"{name} has base classes or attributes, which are not wrapped")
        names = {method.name for method in methods}
        for method in methods:
            what = f"{name}.{method.name}"
            called = f"self._inner.{method.name}"
            if method.name == "__init__":
                emitted = self._constructor(definition, method, module)
            elif method.name in ("__aenter__", "__aexit__"):
                emitted = self._protocol(method, module, what)
            elif method.name == "__repr__":
                emitted = list(REPR)
            elif method.name == "aclose":
                # `close` is the same if there is one: it may block, as everything here.
                if "close" in names:
                    continue
                emitted = self._function(method, module, what, called, name="close")
            elif _is_public(method.name):
                emitted = self._function(method, module, what, called)
            elif method.name.startswith("__"):
                raise GenerateError(f"{what} is a special method that is not wrapped")
            else:
                continue
            lines += ["", *emitted]
        return [f"class {name}:", *_indented(lines)]

    def _constructor(self, definition: ast.ClassDef, method: Function, module: Module) -> list[str]:
        if self._is_returned(definition):
            return [
                f"def __init__(self, inner: _isola.{definition.name}) -> None:",
                "    self._inner = inner",
            ]
        parameters, arguments = self._parameters(method, module, definition.name)
        return [
            f"{_call('def __init__', parameters)} -> None:",
            f"    self._inner = {_call(f'_isola.{definition.name}', arguments)}",
        ]

    def _protocol(self, method: Function, module: Module, what: str) -> list[str]:
        """Returns the lines of `__enter__` or `__exit__`."""
        parameters, arguments = self._parameters(method, module, what)
        name = method.name.replace("__a", "__", 1)
        annotation = self._annotation(method.returns, module, what)
        lines = [
            f"{_call(f'def {name}', parameters)} -> {annotation}:",
            f"    _blocking.run({_call(f'self._inner.{method.name}', arguments)})",
        ]
        if annotation == "Self":
            return [*lines, "    return self"]
        if annotation == "None":
            return lines
        raise GenerateError(f"{what} returns {annotation}: return Self or None")

    def _function(
        self,
        function: Function,
        module: Module,
        what: str,
        called: str,
        name: str | None = None,
    ) -> list[str]:
        """Returns the lines of a function or method that calls the asynchronous one.

        `what` is its name in an error, and `called` the expression of what it calls.
        """
        name = name or function.name
        decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
        is_asynchronous = isinstance(function, ast.AsyncFunctionDef)
        if decorators not in ([], ["asynccontextmanager"] if is_asynchronous else ["property"]):
            raise GenerateError(f"{what} has the decorators {', '.join(decorators)}")
        parameters, arguments = self._parameters(function, module, what)
        returned = function.returns
        call = called if decorators == ["property"] else _call(called, arguments)
        decorator = ["@property"] if decorators == ["property"] else []
        if decorators == ["asynccontextmanager"]:
            item = _item(returned, "AsyncIterator", what)
            annotation, value = self._result(item, module, what, "inner")
            annotation = f"Iterator[{annotation}]"
            self.needed["Iterator"] = "from collections.abc import Iterator"
            self.needed["contextmanager"] = "from contextlib import contextmanager"
            decorator = ["@contextmanager"]
            body = [f"with _blocking.enter({call}) as inner:", f"    yield {value}"]
        elif is_asynchronous and _is_generator(returned):
            item = _item(returned, "AsyncGenerator", what)
            annotation = f"Generator[{self._annotation(item, module, what)}, None, None]"
            self.needed["Generator"] = "from collections.abc import Generator"
            body = [f"return _blocking.iterate({call})"]
        else:
            if is_asynchronous:
                call = f"_blocking.run({call})"
            annotation, value = self._result(returned, module, what, call)
            body = [value if annotation == "None" else f"return {value}"]
        header = f"{_call(f'def {name}', parameters)} -> {annotation}:"
        return [*decorator, header, *_indented([*self._docstring(function, what), *body])]

    def _parameters(
        self, function: Function, module: Module, what: str
    ) -> tuple[list[str], list[str]]:
        """Returns the parameters of a wrapper, and the arguments that it passes on."""
        arguments = function.args
        parameters: list[str] = []
        passed: list[str] = []
        positional = [*arguments.posonlyargs, *arguments.args]
        first_default = len(positional) - len(arguments.defaults)
        for index, argument in enumerate(positional):
            default = arguments.defaults[index - first_default] if index >= first_default else None
            if argument.arg == "self":
                parameters.append("self")
            else:
                parameters.append(self._parameter(argument, default, module, what))
                passed.append(self._argument(argument, what))
            if arguments.posonlyargs and index == len(arguments.posonlyargs) - 1:
                parameters.append("/")
        options = self._options(function, what)
        if options is not None:
            name = f"{options.removesuffix('Options').lower()}_config"
            annotation = self._options_annotation(options)
            return [*parameters, f"**{name}: {annotation}"], [*passed, _spread(options, name)]
        if arguments.vararg is not None:
            parameters.append(f"*{self._parameter(arguments.vararg, None, module, what)}")
            passed.append(f"*{arguments.vararg.arg}")
        elif arguments.kwonlyargs:
            parameters.append("*")
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            parameters.append(self._parameter(argument, default, module, what))
            passed.append(f"{argument.arg}={self._argument(argument, what)}")
        if arguments.kwarg is not None:
            name = arguments.kwarg.arg
            unpacked = _unpacked(arguments.kwarg.annotation)
            if unpacked is None:
                parameters.append(f"**{self._parameter(arguments.kwarg, None, module, what)}")
                passed.append(f"**{name}")
            else:
                parameters.append(f"**{name}: {self._options_annotation(unpacked)}")
                passed.append(_spread(unpacked, name))
        return parameters, passed

    def _parameter(
        self, argument: ast.arg, default: ast.expr | None, module: Module, what: str
    ) -> str:
        if argument.annotation is None:
            raise GenerateError(f"{what}: the parameter {argument.arg} has no annotation")
        for handler in OMITTED:
            if handler in _names(argument.annotation):
                raise GenerateError(
                    f"{what}: the parameter {argument.arg} is a handler, which is wrapped "
                    "only in the typed dictionaries of OPTIONS"
                )
        text = f"{argument.arg}: {self._annotation(argument.annotation, module, what)}"
        return text if default is None else f"{text} = {_source(default)}"

    def _argument(self, argument: ast.arg, what: str) -> str:
        """Returns the expression for a parameter: the asynchronous object of a wrapper."""
        assert argument.annotation is not None
        name = argument.arg
        if name in LISTENERS:
            return f"_blocking.listener({name})"
        classes = [each for each in self.wrapped if each in _names(argument.annotation)]
        if not classes:
            return name
        if _source(argument.annotation) == classes[0]:
            return f"{name}._inner"
        if len(classes) > 1 or not _is_union_of(argument.annotation, classes[0]):
            raise GenerateError(f"{what}: cannot unwrap the parameter {name}")
        return f"{name}._inner if isinstance({name}, {classes[0]}) else {name}"

    def _options(self, function: Function, what: str) -> str | None:
        """Returns the typed dictionary of the options of a function.

        A function that refuses unknown options itself has all of them as parameters, and
        one for the others. Its wrapper takes a typed dictionary, so that a type checker
        refuses them, too.
        """
        kwarg = function.args.kwarg
        if kwarg is None or kwarg.annotation is None or _source(kwarg.annotation) != "object":
            return None
        wanted = {argument.arg for argument in function.args.kwonlyargs}
        for name in self._module("_options").definitions:
            if name not in OPTIONS.values() and self._keys(name) == wanted:
                return name
        raise GenerateError(f"{what}: no typed dictionary in _options.py has exactly its options")

    def _keys(self, name: str) -> set[str]:
        """Returns the keys of a typed dictionary with those that it inherits."""
        definition = self._module("_options").definitions.get(name)
        if not isinstance(definition, ast.ClassDef) or not definition.bases:
            return set()
        keys = {
            statement.target.id
            for statement in definition.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        }
        return keys.union(*(self._keys(_source(base)) for base in definition.bases))

    def _options_annotation(self, options: str) -> str:
        name = OPTIONS.get(options, options)
        self.needed[name] = f"from ._options import {name}"
        self.needed["Unpack"] = "from typing_extensions import Unpack"
        return f"Unpack[{name}]"

    def _result(
        self, annotation: ast.expr | None, module: Module, what: str, value: str
    ) -> tuple[str, str]:
        """Returns the annotation of a result, and the expression that wraps it."""
        text = self._annotation(annotation, module, what)
        if text in self.wrapped:
            self._check_returned(text)
            return text, f"{text}({value})"
        item = re.fullmatch(r"list\[(\w+)\]", text)
        if item is not None and item[1] in self.wrapped:
            self._check_returned(item[1])
            return text, f"[{item[1]}(inner) for inner in {value}]"
        for name in self.wrapped:
            if annotation is not None and name in _names(annotation):
                raise GenerateError(f"{what}: cannot wrap a result of the type {text}")
        return text, value

    def _check_returned(self, name: str) -> None:
        definition = self.exported[name].definitions[name]
        if not isinstance(definition, ast.ClassDef) or not self._is_returned(definition):
            raise GenerateError(f"cannot return a {name}: it has a public constructor")

    def _is_returned(self, definition: ast.ClassDef) -> bool:
        """Reports whether objects of a class come from other objects only, so that its
        constructor takes a native object."""
        for method in definition.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                first = method.args.args[1:2]
                annotation = first[0].annotation if first else None
                return annotation is not None and _source(annotation).startswith("_native.")
        return False

    def _annotation(self, annotation: ast.expr | None, module: Module, what: str) -> str:
        """Returns the source of an annotation, and notes the names that it needs."""
        if annotation is None:
            raise GenerateError(f"{what}: its result has no annotation")
        for name in _names(annotation):
            if name in self.wrapped or name in self.public or hasattr(builtins, name):
                continue
            statement = module.statement(name)
            if statement is None:
                raise GenerateError(f"{what}: {name} is not defined in {module.name}.py")
            if self.needed.setdefault(name, statement) != statement:
                raise GenerateError(f"{what}: {name} is imported from several modules")
        return _source(annotation)

    def _docstring(self, definition: Function | ast.ClassDef, what: str) -> list[str]:
        text = ast.get_docstring(definition)
        if not text:
            raise GenerateError(f"{what} has no docstring")
        for old, new in REWRITES:
            if old in text:
                self.rewritten.add(old)
                text = text.replace(old, new)
        left = ASYNCHRONOUS.search(text)
        if left is not None:
            raise GenerateError(f"{what}: add {left[0]!r} of its docstring to REWRITES")
        if "\\" in text or '"""' in text or text.endswith('"'):
            raise GenerateError(f"{what}: cannot quote its docstring")
        first, *rest = text.split("\n")
        quoted = [f'"""{first}', *rest]
        if rest:
            quoted.append('"""')
        else:
            quoted[0] += '"""'
        return quoted

    def _imports(self) -> list[str]:
        runtime = ["import isola as _isola", "from . import _blocking"]
        for name in self.public:
            if name not in self.wrapped and name not in OMITTED:
                runtime.append(f"from .{self.exported[name].name} import {name}")
        if "contextmanager" in self.needed:
            runtime.append(self.needed.pop("contextmanager"))
        needed = [statement for name, statement in self.needed.items() if name not in self.public]
        future = "from __future__ import annotations"
        if not needed:
            return [future, *_grouped(runtime)]
        runtime.append("from typing import TYPE_CHECKING")
        typed = _indented(_grouped(needed)[1:])
        return [future, *_grouped(runtime), "", "if TYPE_CHECKING:", *typed]

    def _all(self) -> list[str]:
        names = [name for name in self.public if name not in OMITTED]
        return ["__all__ = [", *(f'    "{name}",' for name in names), "]"]


def _statements(text: str) -> Iterator[ast.stmt]:
    """Returns the statements of a module, those for type checkers included."""
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.If) and _source(statement.test) == "TYPE_CHECKING":
            yield from statement.body
        else:
            yield statement


def _grouped(statements: Iterable[str]) -> list[str]:
    """Returns sorted imports: of the library, of other packages, and of this package.
    Each group follows an empty line."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    for statement in statements:
        match = re.fullmatch(r"from (\S+) import (.+)", statement)
        if match is None:
            plain.add(statement)
        else:
            names.setdefault(match[1], set()).add(match[2])
    groups: tuple[list[str], ...] = ([], [], [])
    for statement in sorted(plain):
        _group(groups, statement.split()[1]).append(statement)
    for origin in sorted(names):
        imported = ", ".join(sorted(names[origin], key=lambda name: (not name.isupper(), name)))
        _group(groups, origin).append(f"from {origin} import {imported}")
    return [line for group in groups if group for line in ["", *group]]


def _group(groups: tuple[list[str], ...], origin: str) -> list[str]:
    if origin.startswith("."):
        return groups[2]
    return groups[0] if origin.partition(".")[0] in sys.stdlib_module_names else groups[1]


def _call(name: str, arguments: Iterable[str]) -> str:
    return f"{name}({', '.join(arguments)})"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__aenter__", "__aexit__")


def _is_generator(annotation: ast.expr | None) -> bool:
    return annotation is not None and _source(annotation).startswith("AsyncGenerator[")


def _item(annotation: ast.expr | None, generic: str, what: str) -> ast.expr:
    """Returns the type of the items of a generic type, which must be the given one."""
    if isinstance(annotation, ast.Subscript) and _source(annotation.value) == generic:
        item = annotation.slice
        if isinstance(item, ast.Tuple):
            item = item.elts[0]
        return item
    raise GenerateError(f"{what} must return {generic}[...]")


def _unpacked(annotation: ast.expr | None) -> str | None:
    """Returns the typed dictionary in `Unpack[...]`."""
    if isinstance(annotation, ast.Subscript) and _source(annotation.value) == "Unpack":
        return _source(annotation.slice)
    return None


def _spread(options: str, name: str) -> str:
    """Returns the argument that passes options on, with their handlers wrapped."""
    if options in OPTIONS:
        return f"**_blocking.handlers({name})"
    return f"**{name}"


def _is_union_of(annotation: ast.expr, name: str) -> bool:
    """Reports whether an annotation is a union with a class as one of its members."""
    if isinstance(annotation, ast.BinOp):
        return _is_union_of(annotation.left, name) or _is_union_of(annotation.right, name)
    return _source(annotation) == name


def _names(node: ast.AST) -> list[str]:
    """Returns the names in an expression, without attributes."""
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]


def _source(node: ast.expr) -> str:
    """Returns the source of an expression, with double quotes as `ruff format` writes it."""
    text = ast.unparse(node)
    if "'" in text and ('"' in text or "\\" in text):
        raise GenerateError(f"cannot write the string in {text}")
    return text.replace("'", '"')


def generate(package: Path = PACKAGE) -> str:
    """Returns the source of `sync.py` for the package in a directory."""
    sources = {path.stem: path.read_text("utf-8") for path in package.glob("*.py")}
    return Generator(sources).generate()


def main(arguments: Sequence[str]) -> int:
    if arguments not in ([], [OUTPUT]):
        print(f"the only file that this script generates is {OUTPUT}", file=sys.stderr)
        return 2
    try:
        sys.stdout.buffer.write(generate().encode())
    except GenerateError as error:
        print(f"generate_sync.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
