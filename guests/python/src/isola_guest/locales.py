"""Locales: only the C locale exists, and the C library accepts any name for it."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import _locale
import locale
import os

# The names of the C locale, as the C library spells them.
_KNOWN = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8"})

_real_setlocale = _locale.setlocale

# The environment variable of each category. For the empty name, POSIX uses the first one
# set of LC_ALL, this variable and LANG.
_CATEGORIES = {
    getattr(_locale, name): name
    for name in ("LC_CTYPE", "LC_NUMERIC", "LC_TIME", "LC_COLLATE", "LC_MONETARY", "LC_MESSAGES")
    if hasattr(_locale, name)
}


def setlocale(category, locale=None, /):
    """Selects a locale for a category; only the C locale is supported."""
    if locale is not None:
        if not isinstance(locale, str):
            raise TypeError(
                f"setlocale() argument 2 must be str or None, not {type(locale).__name__}"
            )
        names = _from_environment(category) if locale == "" else _parsed(locale)
        if not all(name in _KNOWN for name in names):
            raise _locale.Error("unsupported locale setting")
    return _real_setlocale(category, locale)


def _from_environment(category):
    categories = [_CATEGORIES[category]] if category in _CATEGORIES else _CATEGORIES.values()
    environ = os.environ
    return [
        environ.get("LC_ALL") or environ.get(name) or environ.get("LANG") or "C"
        for name in categories
    ]


def _parsed(text):
    """Returns the names in a locale that `setlocale` returned for all categories."""
    return [part.rpartition("=")[2] for part in text.split(";")]


def install():
    """Replaces the C library's function."""
    _locale.setlocale = locale._setlocale = setlocale
