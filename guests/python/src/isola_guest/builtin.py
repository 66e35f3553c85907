"""Replacements of builtin functions, and additions to them.

A Python function that is an attribute of a class becomes a method of its objects,
but a builtin function does not: with `class Clock: now = time.process_time`, the
function is called without the object.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

_COPIED = ("__module__", "__name__", "__qualname__", "__doc__", "__self__", "__text_signature__")


class Builtin:
    """A function that behaves like the builtin one that it replaces."""

    def __init__(self, function, real):
        self._function = function
        # Used by `inspect.signature`.
        self.__wrapped__ = real
        for name in _COPIED:
            setattr(self, name, getattr(real, name))

    @classmethod
    def added(cls, function, module, name):
        """Returns a builtin function of a module that lacks it."""

        def copy(*args, **kwargs):
            return function(*args, **kwargs)

        copy.__module__ = module.__name__
        copy.__name__ = copy.__qualname__ = name
        copy.__doc__ = function.__doc__
        copy.__self__ = module
        copy.__text_signature__ = None
        added = cls(function, copy)
        added.__wrapped__ = function
        return added

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __repr__(self):
        return f"<built-in function {self.__name__}>"

    def __reduce__(self):
        # Copied and pickled by its name.
        return self.__qualname__
