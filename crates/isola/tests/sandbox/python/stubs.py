"""Compares type stubs with their modules."""

import ast
import dataclasses
import importlib
import inspect
import types
from inspect import Parameter

from sandbox import http
from sandbox.asyncio import run

# Members that are not compared. The first gives users of a request a helpful error,
# but the names must not exist for a type checker. The second is not called by scripts.
EXCLUDED = {("http", "Request", "__getattr__"), ("http", "_Received", "__init__")}


def instances():
    """Returns instances with attributes of their own, by class name."""
    request = http.fetch("GET", "http://a.test/")
    with request as response:
        pass

    async def later():
        async with http.fetch("GET", "http://a.test/") as response:
            return response

    received = run(later())
    return {
        "Request": request,
        "_Received": response,
        "Response": response,
        "AsyncResponse": received,
    }


INSTANCES = instances()

NOTHING = Parameter.empty
ELLIPSIS = object()


def differences(stubs):
    return [line for name, text in stubs.items() for line in module(name, ast.parse(text).body)]


def module(name, body):
    live = importlib.import_module("sandbox" if name == "__init__" else f"sandbox.{name}")
    stated = []
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                stated = ast.literal_eval(value)
    public = list(getattr(live, "__all__", []))
    if stated != public:
        yield f"{name}: __all__ is {stated}, and not {public}"
    groups = definitions(body)
    defined = {one for one in groups if not one.startswith("_")} | names(body)
    if defined != set(public):
        yield f"{name}: it defines {sorted(defined)}, and not {sorted(public)}"
    for one, nodes in groups.items():
        where = f"{name}.{one}"
        if is_protocol(nodes[0]):
            continue
        if not hasattr(live, one):
            yield f"{where}: the module does not define it"
        elif isinstance(nodes[0], ast.ClassDef):
            yield from class_(where, name, nodes[0], getattr(live, one))
        else:
            yield from function(where, nodes, getattr(live, one))


def class_(where, module, node, live):
    stated = [base_name(base) for base in node.bases]
    bases = [base.__name__ for base in live.__bases__ if base is not object]
    if stated != bases:
        yield f"{where}: its bases are {stated}, and not {bases}"
    fields = [
        (one.target.id, NOTHING if one.value is None else value(one.value))
        for one in node.body
        if isinstance(one, ast.AnnAssign)
    ]
    is_dataclass = dataclasses.is_dataclass(live)
    if is_dataclass:
        known = [(one.name, default(one.default)) for one in dataclasses.fields(live)]
        if fields != known:
            yield f"{where}: its fields are {fields}, and not {known}"
        if decorators(node) != ["dataclass"]:
            yield f"{where}: it is a dataclass"
    else:
        # Attributes of the bases are compared with the bases.
        instance = INSTANCES.get(live.__name__)
        inherited = INSTANCES.get(bases[0]) if bases else None
        known = attributes(instance) - attributes(inherited)
        if {name for name, _ in fields} != known:
            stated = [name for name, _ in fields]
            yield f"{where}: its attributes are {stated}, and not {sorted(known)}"
    groups = definitions(node.body)
    methods = {
        name
        for name, member in vars(live).items()
        if isinstance(member, (types.FunctionType, property, staticmethod, classmethod))
        and (not name.startswith("_") or (name.endswith("__") and not is_dataclass))
        and (module, live.__name__, name) not in EXCLUDED
    }
    for name in list(groups):
        if (module, live.__name__, name) in EXCLUDED:
            del groups[name]
    if set(groups) != methods:
        yield f"{where}: it defines {sorted(groups)}, and not {sorted(methods)}"
    for name, nodes in groups.items():
        if name in methods:
            yield from function(f"{where}.{name}", nodes, vars(live)[name])


def function(where, nodes, live):
    kind = {"property", "staticmethod", "classmethod"} & set(decorators(nodes[0]))
    if kind != {type(live).__name__} & {"property", "staticmethod", "classmethod"}:
        yield f"{where}: it is a {type(live).__name__}"
        return
    live = live.fget if isinstance(live, property) else live
    is_async = inspect.iscoroutinefunction(live)
    for node in nodes:
        if isinstance(node, ast.AsyncFunctionDef) != is_async:
            yield f"{where}: it is {'' if is_async else 'not '}`async def`"
    stated = [parameters(node.args) for node in nodes]
    if any([one[:2] for one in other] != [one[:2] for one in stated[0]] for other in stated):
        yield f"{where}: the parameters of its overloads differ"
        return
    # An overload without a default is for calls with the argument.
    merged = [
        (*column[0][:2], next((one[2] for one in column if one[2] is not NOTHING), NOTHING))
        for column in zip(*stated, strict=True)
    ]
    known = [
        (one.name, one.kind.name, default(one.default))
        for one in inspect.signature(live).parameters.values()
    ]
    shown = [
        (name, kind, was if had is ELLIPSIS and was is not NOTHING else had)
        for (name, kind, had), (_, _, was) in zip(merged, known)
    ]
    if len(merged) != len(known) or shown != known:
        yield f"{where}: its parameters are {merged}, and not {known}"


def definitions(body):
    """Returns functions and classes by name, with all overloads of each."""
    groups = {}
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            groups.setdefault(statement.name, []).append(statement)
    return groups


def names(body):
    """Returns the public names of annotations and assignments."""
    targets = [one.target for one in body if isinstance(one, ast.AnnAssign)]
    targets += [target for one in body if isinstance(one, ast.Assign) for target in one.targets]
    return {target.id for target in targets if not target.id.startswith("_")}


def parameters(arguments):
    """Returns (name, kind, default) of each parameter."""
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    found = []
    for number, (one, default) in enumerate(zip(plain, defaults)):
        kind = "POSITIONAL_ONLY" if number < len(arguments.posonlyargs) else "POSITIONAL_OR_KEYWORD"
        found.append((one.arg, kind, NOTHING if default is None else value(default)))
    if arguments.vararg:
        found.append((arguments.vararg.arg, "VAR_POSITIONAL", NOTHING))
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        found.append((one.arg, "KEYWORD_ONLY", NOTHING if default is None else value(default)))
    if arguments.kwarg:
        found.append((arguments.kwarg.arg, "VAR_KEYWORD", NOTHING))
    return found


def value(node):
    """Returns the value of a default; `...` stands for any."""
    found = ast.literal_eval(node)
    return ELLIPSIS if found is ... else found


def default(value):
    return NOTHING if value is dataclasses.MISSING else value


def attributes(instance):
    return {name for name in getattr(instance, "__dict__", ()) if not name.startswith("_")}


def base_name(node):
    return base_name(node.value) if isinstance(node, ast.Subscript) else ast.unparse(node)


def decorators(node):
    called = (one.func if isinstance(one, ast.Call) else one for one in node.decorator_list)
    return [base_name(one) for one in called]


def is_protocol(node):
    return isinstance(node, ast.ClassDef) and "Protocol" in map(base_name, node.bases)
