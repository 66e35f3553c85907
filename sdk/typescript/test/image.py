"""Creates the files of an image of the tests, as the tests of the Python package do.

python image.py python_image|notebook_image DIRECTORY
"""

import sys
from pathlib import Path

TESTS = Path(sys.argv[0]).resolve().parents[2] / "python" / "tests"
sys.path.insert(0, str(TESTS))

import conftest  # noqa: E402

getattr(conftest, sys.argv[1])(Path(sys.argv[2]))
