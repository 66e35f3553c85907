"""The guest that componentize-py builds. It implements the interface `guest`.

This module is imported while the component is built. Everything that it imports
and prepares is part of the snapshot and costs nothing at run time.
"""

# First, for the modules of the library that are imported with the next ones.
import isola_guest.native  # noqa: F401, I001
from isola_guest import files, os_functions

# Installed first, so that the standard library uses them, too.
files.install()
os_functions.install()

from isola_guest import stdlib  # noqa: E402

# Bundled next, so that the imports below are of the bundled library.
stdlib.bundle()

import sandbox.asyncio  # noqa: E402
import sandbox.http  # noqa: E402, F401
import sandbox.importlib  # noqa: E402, F401
import sandbox.logging  # noqa: E402, F401
import sandbox.serde  # noqa: E402, F401
from isola_guest import code, resumption, runner  # noqa: E402

runner.prepare()
stdlib.freeze()


class Guest:
    """The functions that the host calls. See `wit/isola.wit`."""

    def start(self, config):
        runner.start(config)

    def resume(self, config):
        resumption.resume(config)

    def load(self, source, name):
        runner.load(source, name)

    def call(self, function, arguments):
        return runner.call(function, arguments)

    def evaluate(self, source):
        return runner.evaluate(source)

    def run_code(self, code, context):
        return runner.run_code(code, context)

    def create_context(self, cwd):
        return runner.guarded(code.create, cwd)

    def restart_context(self, id):
        runner.guarded(code.restart, id)

    def remove_context(self, id):
        runner.guarded(code.remove, id)

    def contexts(self):
        return runner.guarded(code.infos)

    def finish(self):
        runner.finish()
