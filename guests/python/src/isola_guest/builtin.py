"""Functions of ours in the place of builtin ones.

A function of Python that is an attribute of a class becomes a method of its
objects, and a builtin one does not: `class Clock: now = time.process_time` calls it
without the object.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

_COPIED = ("__module__", "__name__", "__qualname__", "__doc__", "__self__", "__text_signature__")


class Builtin:
    """A function that looks like the builtin one that it replaces."""

    def __init__(self, function, real):
        self._function = function
        # For `inspect.signature`.
        self.__wrapped__ = real
        for name in _COPIED:
            setattr(self, name, getattr(real, name))

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __repr__(self):
        return f"<built-in function {self.__name__}>"

    def __reduce__(self):
        # Copied and pickled by name.
        return self.__qualname__
