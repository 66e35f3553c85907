"""Functions of the host for code inside a Python sandbox."""
