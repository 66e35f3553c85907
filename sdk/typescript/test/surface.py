"""Prints the public names of the Python package, as JSON."""

import dataclasses
import inspect
import json

import isorun


def methods(kind):
    """Returns the public names of a class, and the parameters of its methods."""
    found = {}
    for base in reversed(kind.__mro__[:-1]):
        for name, member in vars(base).items():
            member = getattr(member, "__func__", member)
            if name.startswith("_"):
                continue
            if inspect.isfunction(member):
                names = list(inspect.signature(member).parameters)
                found[name] = [n for n in names if n not in ("self", "cls")]
            elif isinstance(member, property):
                found[name] = None
    return found


print(
    json.dumps(
        {
            "classes": {
                kind.__name__.removeprefix("Async"): methods(kind)
                for kind in (isorun.AsyncSandbox, isorun.AsyncShell, isorun.AsyncContexts)
            },
            "options": list(inspect.signature(isorun.AsyncSandbox).parameters),
            "results": {name: methods(getattr(isorun, name)) for name in ("Result", "Execution")},
            "fields": {
                name: [field.name for field in dataclasses.fields(getattr(isorun, name))]
                for name in isorun.__all__
                if dataclasses.is_dataclass(getattr(isorun, name))
            },
            "version": isorun.__version__,
        }
    )
)
