"""The settings and random state of an interpreter, and their renewal in a copy."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import os
import pwd
import random
import sys

from . import os_functions, values

# The settings that the host sent last.
_env = {}
_recursion_limit = None

# The arguments of the program, without its name.
arguments = []

# Reseeds the global generator of numpy, if this runtime contains it.
_reseed_numpy = getattr(sys.modules.get("numpy.random"), "seed", None)

# The directory in which scripts start if the sandbox has files of its own.
_HOME = pwd.getpwuid(os.getuid()).pw_dir


def start(config):
    """Applies the environment and limits of an interpreter's first start."""
    global _recursion_limit
    _env.update(config.env)
    os.environ.update(_env)
    arguments[:] = config.arguments
    os_functions.has_host = True
    if config.own_files:
        os.chdir(_HOME)
    # The packages on mounts.
    sys.path[:] = _packages(_env)
    _recursion_limit = config.recursion_limit
    sys.setrecursionlimit(_recursion_limit)
    values.max_size = config.max_value_size
    _reseed()


def resume(config):
    """Resumes as a copy, with new settings and new random numbers.

    Values that a script has set itself remain, unless the host sends different ones.
    """
    global _recursion_limit
    env = dict(config.env)
    old_packages, packages = _packages(_env), _packages(env)
    if packages != old_packages:
        others = [entry for entry in sys.path if entry not in old_packages]
        sys.path[:] = packages + others
        sys.path_importer_cache.clear()
    for key in _env:
        if key not in env:
            os.environ.pop(key, None)
    for key, value in env.items():
        if _env.get(key) != value:
            os.environ[key] = value
    _env.clear()
    _env.update(env)
    if config.recursion_limit != _recursion_limit:
        _recursion_limit = config.recursion_limit
        sys.setrecursionlimit(_recursion_limit)
    values.max_size = config.max_value_size
    if config.arguments:
        arguments[:] = config.arguments
        sys.argv[1:] = arguments
    _reseed()


def _packages(env):
    return [entry for entry in env.get("PYTHONPATH", "").split(":") if entry]


def _reseed():
    """Reseeds random numbers so that copies differ, as CPython does in a child process."""
    random.seed()
    if _reseed_numpy is not None:
        _reseed_numpy()
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None
    uuid = sys.modules.get("uuid")
    if uuid is not None:
        for name in list(vars(uuid)):
            if name == "_node" or name.startswith("_last_timestamp"):
                setattr(uuid, name, None)
