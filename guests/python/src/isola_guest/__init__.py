"""The runner inside the Python guest. Not for use by user code."""

import builtins as _builtins

# The built-in names at build time. A module of the runner that binds `__builtins__`
# to this dictionary is not affected when user code replaces, say, `builtins.len`.
own_builtins = dict(vars(_builtins))
