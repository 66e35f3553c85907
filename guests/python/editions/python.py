"""What the runtime `python` contains besides the standard library.

The build copies the file of a runtime to `isola_guest/edition.py`.
"""

NAME = "python"

# Modules of packages that are imported into the snapshot.
PRELOADED = ()

# The same, of packages that need the modules in `stand_ins`.
PRELOADED_WITH_STAND_INS = ()
