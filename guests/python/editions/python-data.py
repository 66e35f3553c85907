"""What the runtime `python-data` contains besides the standard library.

The build copies the file of a runtime to `isola_guest/edition.py`.
"""

NAME = "python-data"

# Modules of packages that are imported into the snapshot.
PRELOADED = """
numpy numpy.fft numpy.linalg numpy.ma numpy.polynomial numpy.random
""".split()

# The same, of packages that need the modules in `stand_ins`.
PRELOADED_WITH_STAND_INS = """
pandas
pydantic pydantic.fields pydantic.functional_validators pydantic.main pydantic.types
""".split()
