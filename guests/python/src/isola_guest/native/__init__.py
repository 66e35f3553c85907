"""The modules of CPython that need a C library, in Python.

They are at the top level for the rest of the library. Each is built on a native module
`_isola_*`, which is compiled from `guests/python/native`.
"""

import os
import sys

DIRECTORY = os.path.dirname(__file__)

# The library asks only once whether they can be imported. So they must be found before the
# finder of the bundled modules is there.
sys.path.append(DIRECTORY)
