"""The guest that componentize-py builds: the contract's `guest` interface.

This module is imported while the component is built. All that it imports and
prepares is part of the snapshot, and costs nothing at run time.
"""

from isola_guest import runner, stdlib

import sandbox.asyncio
import sandbox.logging  # noqa: F401

runner.prepare()
stdlib.bundle()


class Guest:
    """What the host calls. See `wit/isola.wit`."""

    def start(self, config):
        runner.start(config)

    def load(self, source, name):
        runner.load(source, name)

    def call(self, function, arguments):
        return runner.call(function, arguments)
