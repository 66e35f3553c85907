"""Clear errors for sockets, which a sandbox does not have.

WASI refuses them without a reason. The types of the errors remain those of the library.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import _socket
import errno
import socket

from .builtin import Builtin
from .os_functions import HOST_NAME

_UNAVAILABLE = (
    "a sandbox has no sockets: use sandbox.http, urllib.request, requests or httpx for HTTP"
)

_real_init = socket.socket.__init__
_real_lookups = {
    name: getattr(_socket, name)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")
}


def _init(self, family=-1, type=-1, proto=-1, fileno=None):
    try:
        _real_init(self, family, type, proto, fileno)
    except PermissionError:
        raise PermissionError(errno.EACCES, _UNAVAILABLE) from None


def _lookup(real):
    def lookup(*args, **kwargs):
        try:
            return real(*args, **kwargs)
        except socket.gaierror as error:
            if error.errno != socket.EAI_FAIL:
                raise
            raise socket.gaierror(socket.EAI_FAIL, _UNAVAILABLE) from None

    return lookup


def _gethostname():
    return HOST_NAME


def install():
    """Replaces the functions that fail in each sandbox."""
    _init.__name__ = "__init__"
    _init.__qualname__ = _real_init.__qualname__
    _init.__module__ = _real_init.__module__
    socket.socket.__init__ = _init
    replaced = {name: _lookup(real) for name, real in _real_lookups.items()}
    replaced["gethostname"] = _gethostname
    for name, function in replaced.items():
        real = getattr(_socket, name)
        stand_in = Builtin(function, real)
        for module in (_socket, socket):
            # `socket` has a function of its own for some names.
            if getattr(module, name) is real:
                setattr(module, name, stand_in)
