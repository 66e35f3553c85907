"""A replacement for locks between processes, whose import fails as on platforms without.

The library and packages such as joblib catch this error, and work in one process.
"""

raise ImportError("a sandbox has no processes, and no semaphores that they could share")
