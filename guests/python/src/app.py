"""The guest that componentize-py builds: the contract's `guest` interface.

This module is imported while the component is built. All that it imports and
prepares is part of the snapshot, and costs nothing at run time.
"""

from isola_guest import files, stdlib

# First of all, so that the library, too, opens files with it.
files.install()
# Then this, so that what is imported below is the bundled library.
stdlib.bundle()

import sandbox.asyncio  # noqa: E402
import sandbox.http  # noqa: E402, F401
import sandbox.importlib  # noqa: E402, F401
import sandbox.logging  # noqa: E402, F401
import sandbox.serde  # noqa: E402, F401
from isola_guest import resumption, runner  # noqa: E402

runner.prepare()
stdlib.freeze()


class Guest:
    """What the host calls. See `wit/isola.wit`."""

    def start(self, config):
        runner.start(config)

    def resume(self, config):
        resumption.resume(config)

    def load(self, source, name):
        runner.load(source, name)

    def call(self, function, arguments):
        return runner.call(function, arguments)

    def finish(self):
        runner.finish()
