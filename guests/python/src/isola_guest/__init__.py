"""The runner inside the Python guest. User code has no business here."""
