"""Locales: there is one, and the C library accepts any name for it."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import _locale
import locale
import os

# As the C library spells it, without what stands for the encoding.
_KNOWN = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8"})

_real_setlocale = _locale.setlocale

# What the empty name stands for, by POSIX: the first of these that is set.
_CATEGORIES = {
    getattr(_locale, name): name
    for name in ("LC_CTYPE", "LC_NUMERIC", "LC_TIME", "LC_COLLATE", "LC_MONETARY", "LC_MESSAGES")
    if hasattr(_locale, name)
}


def setlocale(category, locale=None, /):
    """Selects a locale for a category; there are only those of C."""
    if locale is not None:
        if not isinstance(locale, str):
            raise TypeError(
                f"setlocale() argument 2 must be str or None, not {type(locale).__name__}"
            )
        names = _wanted(category) if locale == "" else _named(locale)
        if not all(name in _KNOWN for name in names):
            raise _locale.Error("unsupported locale setting")
    return _real_setlocale(category, locale)


def _wanted(category):
    categories = [_CATEGORIES[category]] if category in _CATEGORIES else _CATEGORIES.values()
    environ = os.environ
    return [
        environ.get("LC_ALL") or environ.get(name) or environ.get("LANG") or "C"
        for name in categories
    ]


def _named(text):
    """The names in what `setlocale` gave for all categories together."""
    return [part.rpartition("=")[2] for part in text.split(";")]


def install():
    """Takes the place of the C library's function."""
    _locale.setlocale = locale._setlocale = setlocale
