"""A replacement for the process that removes what crashed processes leave behind.

A sandbox has one process, and none of the resources that are tracked. The library
imports this module where it only mentions shared memory.
"""

import errno as _errno


class ResourceTracker:
    """A tracker without a process."""

    def getfd(self):
        self.ensure_running()

    def ensure_running(self):
        raise OSError(_errno.ENOTSUP, "a sandbox has no processes")

    def register(self, name, rtype):
        self.ensure_running()

    def unregister(self, name, rtype):
        self.ensure_running()


_resource_tracker = ResourceTracker()
ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd
