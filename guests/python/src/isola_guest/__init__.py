"""The runner inside the Python guest. User code has no business here."""

import builtins as _builtins

# The built-in names as they are at the build. A module of the runner that binds
# `__builtins__` to it goes on when user code replaces `builtins.len`.
own_builtins = dict(vars(_builtins))
